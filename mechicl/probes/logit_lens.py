"""Logit lens: what the model would predict if a residual in the middle were the last (*Stages of Inference*, 5.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechicl.errors import InputError
from mechicl.hooks import Batch, Probe, Watch
from mechicl.metrics.readout import Tiles, read_out
from mechicl.models import Adapter, Blockwise, blockwise, hooked
from mechicl.probes.tuned_lens import TunedLens
from mechicl.prompts import PromptBatch

Lens = Literal["corrected", "authors"]
QUANTITIES = (
    "entropy", "kl", "kl_reverse", "js_divergence", "top_k_overlap", "agreement", "reciprocal_rank", "cosine", "loss",
)  # fmt: skip
_LOGITS_AT_ONCE = 2**24  # that the model makes when it is asked for its final norm's scale


@dataclass(frozen=True)
class LogitLens(Probe):
    """Sums over each sequence's positions of lens measures: reading [sequence point quantity].

    Points are the residuals before each layer and the one after the last, L + 1 in all. Quantities (`QUANTITIES`):
    entropy in bits; KL(final || lens), KL(lens || final) and Jensen-Shannon divergence in nats; Jaccard overlap of the
    `top_k` tokens; whether the most probable token is the final one, and 1 / rank of the final one; cosine of the
    residual with the last residual; loss on the next token in nats. In running text positions are all but the first
    (and, with `last=False`, but the last); in prompts it is q alone, and there is no loss.

    `lens="corrected"` applies the final norm to each residual, and the unembedding with its bias: at the last point
    the lens is the model. `"authors"` is what the authors' library did: every residual is centred and divided by the
    scale of the *last* residual (in a model with RMS norm: nothing is done), and b_U is left out. It assumes folded
    norms. A `TunedLens` translates each residual first and then does as the corrected one.
    """

    lens: Lens | TunedLens = "corrected"
    top_k: int = 10
    last: bool = True
    only: tuple[str, ...] = QUANTITIES
    """Quantities that are computed; the others are left 0."""
    axes = ("sequence", "point", "quantity")

    def __post_init__(self) -> None:
        if self.lens not in ("corrected", "authors") and not isinstance(self.lens, TunedLens):
            raise InputError(f"lens is {self.lens!r}; it is 'corrected', 'authors', or a TunedLens.")

    @property
    def name(self) -> str:
        """corrected, authors or tuned."""
        return "tuned" if isinstance(self.lens, TunedLens) else self.lens

    def counts(self, lengths: Int[Tensor, "sequence"]) -> Int[Tensor, "sequence quantity"]:
        """Terms of each sum over running text of these lengths."""
        targets = (lengths - 2).clamp(min=0)
        positions = (lengths - 1).clamp(min=0) if self.last else targets
        return torch.stack([positions] * (len(QUANTITIES) - 1) + [targets], -1)

    def watch(self, model: Any, batch: Batch) -> Watch:
        net = self._weights_of(model) if self.lens == "authors" else hooked(model)
        if isinstance(self.lens, TunedLens):
            self.lens.check(net)
        n_layers = net.sizes.n_layers
        names = [*(f"blocks.{i}.hook_resid_pre" for i in range(n_layers)), f"blocks.{n_layers - 1}.hook_resid_post"]
        found: dict[str, Tensor] = {}

        def at(name: str) -> Callable[..., None]:
            def see(resid: Tensor, hook: Any) -> None:
                found[name] = resid.detach()

            return see

        return Watch(
            hooks=[(name, at(name)) for name in names],
            result=lambda: self._measure(net, batch, [found.pop(name) for name in names]),
        )

    @torch.no_grad()
    def _measure(
        self, net: Adapter, batch: Batch, residuals: list[Float[Tensor, "batch pos d_model"]]
    ) -> Float[Tensor, "batch point quantity"]:
        sequence, position = self._positions(batch).nonzero(as_tuple=True)
        # Summed on the host: mps has no float64, and CUDA adds to an index in no fixed order.
        sums = torch.zeros(len(batch.tokens), len(residuals), len(QUANTITIES), dtype=torch.float64)
        if len(sequence):
            points = [resid[sequence, position] for resid in residuals]
            followed = (position + 1 < batch.lengths[sequence]) & (not isinstance(batch, PromptBatch))
            targets = batch.tokens[sequence, (position + 1).clamp(max=batch.tokens.shape[1] - 1)]
            of_token = self._values(net, points, targets)
            of_token[..., -1] *= followed.cpu()[:, None]
            sums.index_add_(0, sequence.cpu(), of_token.double())
        return sums.float()

    def _positions(self, batch: Batch) -> Tensor:
        place = torch.arange(batch.tokens.shape[1], device=batch.tokens.device)
        if isinstance(batch, PromptBatch):
            return place == batch.target[:, None]
        return (place > 0) & (place < batch.lengths[:, None] - (0 if self.last else 1))

    def _values(
        self, net: Adapter, points: list[Float[Tensor, "token d_model"]], targets: Int[Tensor, "token"]
    ) -> Float[Tensor, "token point quantity"]:
        if isinstance(self.lens, TunedLens):
            points = [self.lens(number, point) for number, point in enumerate(points)]
        if self.lens == "authors":
            tiles, others = _authors_tiles(self._weights_of(net), len(points)), _authors_points(net, points)
        else:
            tiles, others = _tiles(net), points[:-1]
        only = [name for name in QUANTITIES if name in self.only and name != "cosine"]
        read = read_out(tiles, [points[-1], *others], targets, only, min(self.top_k, net.sizes.d_vocab)) if only else {}
        # The final prediction goes first; it is the last point's as well, but with the authors' lens, which differs.
        found = {name: values[:, 1:] if self.lens == "authors" else values.roll(-1, 1) for name, values in read.items()}
        if "cosine" in self.only:
            last = points[-1].float()
            cosines = [torch.cosine_similarity(point.float(), last, dim=-1) for point in points]
            found["cosine"] = torch.stack(cosines, 1).cpu()
        nothing = torch.zeros(len(targets), len(points))
        return torch.stack([found.get(name, nothing) for name in QUANTITIES], -1)

    def _weights_of(self, model: Any) -> Blockwise:
        return blockwise(model, "LogitLens with lens='authors'")


def _tiles(net: Adapter) -> Tiles:
    """The model's own tiles, or, where it only gives whole rows, these cut."""

    def cut(rows: Tensor, width: int) -> Iterator[tuple[int, Tensor]]:
        logits = net.lens(rows)
        yield from ((first, logits[:, first : first + width]) for first in range(0, logits.shape[1], width))

    tiles: Tiles = getattr(net, "lens_tiles", cut)
    return tiles


def _authors_points(net: Adapter, points: list[Float[Tensor, "token d_model"]]) -> list[Tensor]:
    """Residuals centred and divided by the last one's scale; unchanged where the model's norm does not centre."""
    if not net.sizes.centred:
        return points
    at_once = max(1, _LOGITS_AT_ONCE // net.sizes.d_vocab)
    scale = torch.cat([_final_scale(net, part) for part in torch.split(points[-1], at_once)])
    return [(point - point.mean(-1, keepdim=True)) / scale for point in points]


def _authors_tiles(net: Blockwise, n_points: int) -> Tiles:
    """The model's own logits of each token's first residual, and those of W_U alone of its `n_points` others."""

    def tiles(rows: Tensor, width: int) -> Iterator[tuple[int, Tensor]]:
        W_U, of_token = net.W_U, rows.view(-1, 1 + n_points, rows.shape[-1])
        others = of_token[:, 1:].flatten(0, 1).to(W_U.device, W_U.dtype)
        for first, final in net.lens_tiles(of_token[:, 0], width):
            plain = (others @ W_U[:, first : first + width]).float().view(len(final), n_points, -1)
            yield first, torch.cat([final[:, None], plain], 1).flatten(0, 1)

    return tiles


def _final_scale(net: Adapter, last: Float[Tensor, "token d_model"]) -> Float[Tensor, "token 1"]:
    """The number by which the final norm divides each residual."""
    found: list[Tensor] = []
    with net.hooks([("ln_final.hook_scale", lambda scale, hook: found.append(scale))]):
        net.read(last[None])
    return found[0][0]
