"""Heads to ablate, and their controls: random heads of the same layers with outputs of about the same norm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mechicl.corpora import TokenCorpus
from mechicl.engines.alone import label_logits_alone
from mechicl.hooks import Probe, Watch, run, watch_layers
from mechicl.metrics.objective import Objective
from mechicl.models import blockwise, hooked
from mechicl.patches import AblateHeads
from mechicl.probes import HeadScores
from mechicl.prompts import Prompt, PromptBatch, PromptSet
from mechicl.readings import mean_of

Heads = tuple[tuple[int, int], ...]
_NEAREST = 4
"""Number of heads from which each control is drawn."""
_SEQUENCES, _HALF = 4, 24
"""Number of sequences of random tokens, and of tokens that each repeats."""


def top_heads(score: Float[np.ndarray, "layer head"], k: int) -> Heads:
    """The k heads with the highest scores, highest first."""
    order = np.argsort(-score, axis=None, kind="stable")[:k]
    return tuple((int(layer), int(head)) for layer, head in zip(*np.unravel_index(order, score.shape), strict=True))


def matched_heads(
    chosen: Sequence[tuple[int, int]], norms: Float[np.ndarray, "layer head"], others: Sequence[tuple[int, int]],
    *, generator: np.random.Generator,
) -> Heads:  # fmt: skip
    """For each chosen head, one of `others`, without repetition.

    Of those in its layer, or in the nearest layers that have four left, one of the four whose output norm is nearest.
    """
    free, drawn = list(others), []
    for head in chosen:
        away = sorted(abs(layer - head[0]) for layer, _ in free)[:_NEAREST]
        near = [other for other in free if abs(other[0] - head[0]) <= away[-1]]
        nearest = sorted(near, key=lambda other: abs(np.log(norms[other] / norms[head])))[:_NEAREST]
        drawn.append(nearest[int(generator.integers(len(nearest)))])
        free.remove(drawn[-1])
    return tuple(drawn)


def lost_alone(
    model: Any, prompt: Prompt, means: Float[Tensor, "layer head d_head"]
) -> Float[np.ndarray, "layer head"]:
    """Drop of the clean answer's logit, minus the mean of the other label words', under mean ablation of each head.

    One sweep, in which a head's pass equals the clean one up to its layer.
    """
    sizes = hooked(model).sizes
    heads = [(layer, head) for layer in range(sizes.n_layers) for head in range(sizes.n_heads)]
    clean = run(model, prompt, progress=None).label_logits
    answer = clean.argmax(-1)
    ablated = label_logits_alone(model, prompt, [AblateHeads((one,), means) for one in heads])
    difference = Objective("logit_difference", "gold")  # for the clean answer, whatever the ablated model predicts
    lost = difference(ablated, answer.expand(len(heads))) - difference(clean, answer)
    return lost.double().numpy().reshape(sizes.n_layers, sizes.n_heads)


def output_norms(model: Any, prompts: PromptSet, batch_size: int) -> Float[np.ndarray, "layer head"]:
    """Mean norm of what each head adds to the residual stream, over tokens after position 0."""
    reading = run(model, prompts, [probe := _OutputNorms()], batch_size=batch_size, progress=None)[probe]
    return reading.mean("prompt").values.double().clamp(min=1e-12).numpy()


@dataclass(frozen=True)
class _OutputNorms(Probe):
    """Mean norm of z W_O over each prompt's tokens after position 0."""

    axes = ("prompt", "layer", "head")
    units = {"norm": "L2 norm over d_model"}
    terms = {"norm": "tokens"}

    def watch(self, model: Any, batch: PromptBatch) -> Watch:
        net, position = blockwise(model, "anchor-heads"), torch.arange(batch.tokens.shape[1], device=batch.device)
        counted = (position > 0) & (position < batch.lengths[:, None])
        n = counted.sum(1)

        def norms(layer: int, z: Tensor) -> Tensor:
            W_O = net.W_O(layer).to(z)
            squares = torch.einsum("bphd,hde,bphe->bph", z, W_O @ W_O.transpose(1, 2), z).clamp(min=0)
            return (squares.float().sqrt() * counted[..., None]).sum(1)

        return watch_layers(
            model, "attn.hook_z", reduce=norms, collect=lambda sums: {"norm": mean_of(sums, n), "tokens": n}
        )


def standard_scores(model: Any, seed: int = 0) -> Mapping[str, Float[np.ndarray, "layer head"]]:
    """Induction and previous-token scores of every head, on repeated random tokens."""
    net = hooked(model)
    special = set(getattr(net.tokenizer, "all_special_ids", None) or ())
    words = np.array([token for token in range(min(net.sizes.d_vocab, 50_000)) if token not in special])
    once = torch.from_numpy(np.random.default_rng(seed).choice(words, (_SEQUENCES, min(_HALF, net.sizes.n_ctx // 2))))
    tokens = torch.cat([once, once], 1)
    lengths, none = torch.full((len(tokens),), tokens.shape[1]), torch.zeros_like(tokens)
    corpus = TokenCorpus(tokens, lengths, none, none - 1, net.tokenizer, False, "random tokens")
    reading = run(model, corpus, [probe := HeadScores()], progress=None)[probe].mean("sequence")
    return {name: reading[name].double().numpy() for name in probe.units}
