"""Moments of cos(w_out, W_U) for every neuron, from weights alone, without holding all d_mlp x d_vocab cosines.

A neuron adds its output weights w_out to the residual stream, so x_v = cos(w_out, W_U[:, v]) shows which tokens it
promotes and demotes (*Stages of Inference*, section 5.3, after Gurnee et al. 2024). All statistics run over the whole
vocabulary and depend on how the weights were processed: the papers fold the final norm and centre W_U and W_out.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechicl.errors import InputError

_BLOCK = 64
"""Tokens per block, whose largest and smallest cosine are kept; extreme tokens are then searched in the best blocks.
"""
_NEURONS = {"cpu": 384}
"""Number of neurons whose cosines with a chunk of tokens are computed at a time: on a CPU few enough for its cache,
where their powers are summed; on a GPU a whole layer.
"""


@dataclass(frozen=True)
class VocabularyMoments:
    """Moments of cos(w_out, W_U) for every neuron, and the tokens it promotes and demotes most."""

    mean: Float[Tensor, "layer neuron"]
    variance: Float[Tensor, "layer neuron"]
    skewness: Float[Tensor, "layer neuron"]
    """E[z^3] of the standardised cosines; NaN where the variance is 0."""
    kurtosis: Float[Tensor, "layer neuron"]
    """E[z^4], not the excess: 3 for a Gaussian; NaN where the variance is 0."""
    norm: Float[Tensor, "layer neuron"]
    """L2 norm of w_out."""
    top_tokens: Int[Tensor, "layer neuron top"]
    """Token ids with the largest cosines, largest first."""
    top_cosines: Float[Tensor, "layer neuron top"]
    bottom_tokens: Int[Tensor, "layer neuron top"]
    """Token ids with the smallest cosines, smallest first."""
    bottom_cosines: Float[Tensor, "layer neuron top"]

    def frame(self) -> pd.DataFrame:
        """One row per neuron: layer, neuron, mean, variance, skewness, kurtosis, norm."""
        n_layers, n_neurons = self.mean.shape
        columns = {field.name: getattr(self, field.name).flatten().tolist() for field in fields(self)[:5]}
        index = pd.MultiIndex.from_product([range(n_layers), range(n_neurons)], names=["layer", "neuron"])
        return pd.DataFrame(columns, index=index).reset_index()


def randomly_rotated(
    W_out: Iterable[Float[Tensor, "d_mlp d_model"]], d_model: int, *, most: int, seed: int
) -> Iterator[Float[Tensor, "neuron d_model"]]:
    """At most so many neurons of each layer, with what they write rotated at random in float32.

    Cosines are then those with W_U rotated the other way, which would cost more.
    """
    turn = torch.linalg.qr(torch.randn(d_model, d_model, generator=torch.Generator().manual_seed(seed)))[0]
    return (w[:most].float() @ turn.to(w.device) for w in W_out)


@torch.no_grad()
def vocabulary_moments(
    W_U: Float[Tensor, "d_model d_vocab"],
    W_out: Iterable[Float[Tensor, "d_mlp d_model"]],
    *,
    top: int = 10,
    chunk: int = 1024,
) -> VocabularyMoments:
    """Moments of cos(w_out, W_U[:, v]) over the vocabulary for every neuron of every layer given.

    The mean is a closed form in the mean of W_U's normalised columns. Given it, the central moments are streamed,
    `chunk` tokens at a time, and summed in float64: one matrix product, whose results are used while they are in the
    processor's cache. Results are on the CPU. `W_out` may be a generator of layers; a gated MLP's down projection
    counts as W_out. Tokens whose column of W_U is zero, such as padding, have no cosine and are left out. Raises
    InputError if the shapes do not match.
    """
    tokens = (W_U != 0).any(0).nonzero()[:, 0].cpu()
    if not 1 <= top <= len(tokens):
        raise InputError(f"top is {top}; W_U has {len(tokens)} tokens with weights: take 1 to {len(tokens)}.")
    unembedding = _Unembedding.of(W_U if len(tokens) == W_U.shape[1] else W_U[:, tokens.to(W_U.device)])
    layers = [_layer_moments(unembedding, w_out, top, chunk) for w_out in W_out]
    if not layers:
        raise InputError("There is no layer in W_out; give the output weights of at least one MLP.")
    names = (field.name for field in fields(VocabularyMoments))
    found = {name: torch.stack([layer[name] for layer in layers]) for name in names}
    found |= {name: tokens[found[name]] for name in ("top_tokens", "bottom_tokens")}
    return VocabularyMoments(**found)


@dataclass(frozen=True)
class _Unembedding:
    W_U: Tensor
    inverse_norm: Tensor  # [d_vocab]
    mean: Tensor  # [d_model], of the normalised columns, float64

    @classmethod
    def of(cls, W_U: Tensor) -> "_Unembedding":
        W_U = W_U.cpu() if W_U.device.type == "mps" else W_U  # no float64 there
        W_U = W_U if W_U.dtype == torch.float64 else W_U.float()
        norm = W_U.norm(dim=0)
        pieces = (slice(start, start + 4096) for start in range(0, W_U.shape[1], 4096))
        mean = sum((W_U[:, at].double() / norm[at]).sum(1) for at in pieces) / W_U.shape[1]
        assert isinstance(mean, Tensor)
        return cls(W_U, 1 / norm, mean)

    def columns(self, start: int, stop: int) -> Tensor:
        """Normalised columns [d_model, stop - start]."""
        return self.W_U[:, start:stop] * self.inverse_norm[start:stop]


def _layer_moments(unembedding: _Unembedding, w_out: Tensor, top: int, chunk: int) -> dict[str, Tensor]:
    d_model, d_vocab = unembedding.W_U.shape
    if w_out.ndim != 2 or w_out.shape[1] != d_model:
        raise InputError(f"W_out has shape {tuple(w_out.shape)}; W_U needs [d_mlp, {d_model}].")
    exact = w_out.to(unembedding.W_U.device).double()
    norm = exact.norm(dim=1)
    exact = exact / norm.clamp(min=1e-300)[:, None]
    direction = exact.to(unembedding.W_U.dtype)
    sums, highest, lowest = _stream(unembedding, direction, chunk)
    variance, third, fourth = sums / d_vocab
    deviation = variance.sqrt()
    standing = torch.where(variance > 0, 1.0, torch.nan)
    top_cosines, top_tokens = _extremes(unembedding, direction, highest, top)
    bottom_cosines, bottom_tokens = _extremes(unembedding, -direction, -lowest, top)
    result = {
        "mean": exact @ unembedding.mean, "variance": variance, "skewness": standing * third / deviation**3,
        "kurtosis": standing * fourth / variance**2, "norm": norm, "top_tokens": top_tokens, "top_cosines": top_cosines,
        "bottom_tokens": bottom_tokens, "bottom_cosines": -bottom_cosines,
    }  # fmt: skip
    return {name: tensor.cpu() for name, tensor in result.items()}


def _stream(unembedding: _Unembedding, direction: Tensor, chunk: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of second, third and fourth powers of the centred cosines, and each block's largest and smallest."""
    n, d_vocab = len(direction), unembedding.W_U.shape[1]
    sums = direction.new_zeros(3, n, dtype=torch.float64)
    highest, lowest = direction.new_empty(2, n, -(-d_vocab // _BLOCK))
    centre = unembedding.mean.to(direction.dtype)[:, None]
    chunk = max(_BLOCK, min(chunk, d_vocab) // _BLOCK * _BLOCK)
    at_once = _NEURONS.get(direction.device.type, n)
    memory = direction.new_empty(2, min(at_once, n) * chunk)  # reused: fresh memory would cost as much as the sums
    for start in range(0, d_vocab, chunk):
        columns = unembedding.columns(start, start + chunk).sub_(centre)
        width = columns.shape[1]
        for first in range(0, n, at_once):
            rows = slice(first, first + at_once)
            part = direction[rows]
            x, square = memory[:, : len(part) * width].view(2, len(part), width)
            torch.mm(part, columns, out=x)
            blocks = _in_blocks(x)
            at = slice(start // _BLOCK, start // _BLOCK + blocks.shape[1])
            highest[rows, at], lowest[rows, at] = blocks.amax(2), blocks.amin(2)
            sums[0, rows] += torch.mul(x, x, out=square).sum(1)
            sums[1, rows] += x.mul_(square).sum(1)
            sums[2, rows] += square.square_().sum(1)
    return sums, highest, lowest


def _in_blocks(x: Tensor) -> Tensor:
    """[neuron token] -> [neuron block token], the last block filled up with copies of its last token."""
    missing = -x.shape[1] % _BLOCK
    filled = torch.cat([x, x[:, -1:].expand(-1, missing)], 1) if missing else x
    return filled.view(len(x), -1, _BLOCK)


def _extremes(unembedding: _Unembedding, direction: Tensor, block_best: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """The `top` largest cosines and their tokens, which are in the `top` blocks with the largest maxima."""
    d_vocab = unembedding.W_U.shape[1]
    blocks = block_best.topk(min(top, block_best.shape[1]), dim=1).indices
    cosines = direction.new_full((*blocks.shape, _BLOCK), -math.inf)
    order = blocks.flatten().argsort()
    present, counts = torch.unique_consecutive(blocks.flatten()[order], return_counts=True)
    for block, where in zip(present.tolist(), torch.split(order, counts.tolist()), strict=True):
        rows, slots = where // blocks.shape[1], where % blocks.shape[1]
        start, stop = block * _BLOCK, min((block + 1) * _BLOCK, d_vocab)
        cosines[rows, slots, : stop - start] = direction[rows] @ unembedding.columns(start, stop)
    best = cosines.flatten(1).topk(top, dim=1)
    return best.values, blocks.gather(1, best.indices // _BLOCK) * _BLOCK + best.indices % _BLOCK
