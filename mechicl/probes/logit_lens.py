"""Logit lens: what the model would predict if an intermediate residual were the last (*Stages of Inference*, 5.2)."""

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
from mechicl.probes.last_residual import resid_name
from mechicl.probes.tuned_lens import TunedLens
from mechicl.prompts import PromptBatch
from mechicl.readings import mean_of

Lens = Literal["corrected", "authors"]
QUANTITIES = {
    "entropy": "bits", "kl": "nats", "kl_reverse": "nats", "js_divergence": "nats", "top_k_overlap": "Jaccard index",
    "agreement": "share of positions", "reciprocal_rank": "1 / rank", "cosine": "cosine", "loss": "nats",
}  # fmt: skip
"""The lens's quantities and their units."""
_LOGITS_AT_ONCE = 2**24  # number of logits that the model computes to find its final norm's scale


@dataclass(frozen=True)
class LogitLens(Probe):
    """Means over each sequence's positions of lens measures: reading [sequence point].

    Points are the residuals before each layer and the one after the last, L + 1 in all. Quantities: entropy in bits;
    KL(final || lens), KL(lens || final) and Jensen-Shannon divergence in nats; Jaccard overlap of the `top_k` tokens;
    whether the most probable token is the final one, and 1 / rank of the final one; cosine of the residual with the
    last residual; loss on the next token in nats. In running text, positions are all except the first (and, with
    `last=False`, the last); in prompts, only q counts, and there is no loss.

    `lens="corrected"` applies the final norm to each residual, and the unembedding with its bias, so that at the last
    point the lens is the model. `"authors"` reproduces the authors' notebook: every residual is centred and divided by
    the scale of the *last* residual (unchanged in a model with RMS norm), b_U is left out, and entropies are computed
    from probabilities of at least 1e-9. It assumes folded norms. A `TunedLens` first translates each residual and then
    works like the corrected one.
    """

    lens: Lens | TunedLens = "corrected"
    top_k: int = 10
    last: bool = True
    only: tuple[str, ...] = tuple(QUANTITIES)
    """Quantities to compute."""
    axes = ("sequence", "point")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lens not in ("corrected", "authors") and not isinstance(self.lens, TunedLens):
            raise InputError(f"lens is {self.lens!r}; it must be 'corrected', 'authors' or a TunedLens.")
        if not self.only or not set(self.only) <= set(QUANTITIES):
            raise InputError(f"only is {self.only}; choose from {', '.join(QUANTITIES)}.")

    @property
    def name(self) -> str:
        """corrected, authors or tuned."""
        return "tuned" if isinstance(self.lens, TunedLens) else self.lens

    @property
    def units(self) -> dict[str, str]:  # type: ignore[override]
        return {name: unit for name, unit in QUANTITIES.items() if name in self.only}

    @property
    def terms(self) -> dict[str, str]:  # type: ignore[override]
        return {name: "targets" if name == "loss" else "positions" for name in self.units}

    def watch(self, model: Any, batch: Batch) -> Watch:
        net = self._weights_of(model) if self.lens == "authors" else hooked(model)
        if isinstance(self.lens, TunedLens):
            self.lens.check(net)
        n_layers = net.sizes.n_layers
        residuals: dict[int, Tensor] = {}

        def keep(point: int) -> Callable[..., None]:
            def see(resid: Tensor, hook: Any) -> None:
                residuals[point] = resid.detach()

            return see

        return Watch(
            [(resid_name(point, n_layers), keep(point)) for point in range(n_layers + 1)],
            lambda: self._measure(net, batch, [residuals.pop(point) for point in range(n_layers + 1)]),
        )

    @torch.no_grad()
    def _measure(
        self, net: Adapter, batch: Batch, residuals: list[Float[Tensor, "batch pos d_model"]]
    ) -> dict[str, Tensor]:
        sequence, position = self._positions(batch).nonzero(as_tuple=True)
        followed = (position + 1 < batch.lengths[sequence]) & (not isinstance(batch, PromptBatch))
        targets = batch.tokens[sequence, (position + 1).clamp(max=batch.tokens.shape[1] - 1)]
        rows, n = sequence.cpu(), len(batch.tokens)
        counts = {
            "positions": torch.bincount(rows, minlength=n),
            "targets": torch.bincount(sequence[followed].cpu(), minlength=n),
        }
        values = self._values(net, [resid[sequence, position] for resid in residuals], targets) if len(rows) else {}
        if "loss" in values:
            values["loss"] = values["loss"] * followed.cpu()[:, None]
        means = {}
        for name in self.units:
            # Summed on the host: mps has no float64, and CUDA's index_add has no fixed order.
            sums = torch.zeros(n, len(residuals), dtype=torch.float64)
            if name in values:
                sums.index_add_(0, rows, values[name].double())
            means[name] = mean_of(sums, counts[self.terms[name]])
        return means | {name: counts[name] for name in self.terms.values()}

    def _positions(self, batch: Batch) -> Tensor:
        place = torch.arange(batch.tokens.shape[1], device=batch.tokens.device)
        if isinstance(batch, PromptBatch):
            return place == batch.target[:, None]
        return (place > 0) & (place < batch.lengths[:, None] - (0 if self.last else 1))

    def _values(
        self, net: Adapter, points: list[Float[Tensor, "token d_model"]], targets: Int[Tensor, "token"]
    ) -> dict[str, Float[Tensor, "token point"]]:
        """Each quantity at every position and point."""
        if isinstance(self.lens, TunedLens):
            points = [self.lens(number, point) for number, point in enumerate(points)]
        if self.lens == "authors":
            tiles, others = _authors_tiles(self._weights_of(net), len(points)), _authors_points(net, points)
        else:
            tiles, others = tiles_of(net), points[:-1]
        entropy = "clamped_entropy" if self.lens == "authors" else "entropy"
        only = [entropy if name == "entropy" else name for name in self.units if name != "cosine"]
        d_vocab, streams = net.sizes.d_vocab, [points[-1], *others]
        read = read_out(tiles, streams, targets, only, min(self.top_k, d_vocab), d_vocab=d_vocab) if only else {}
        # The final prediction goes first; it equals the last point's, except with the authors' lens.
        values = {name: of[:, 1:] if self.lens == "authors" else of.roll(-1, 1) for name, of in read.items()}
        if entropy in values:
            values["entropy"] = values.pop(entropy)
        if "cosine" in self.units:
            last = points[-1].float()
            cosines = [torch.cosine_similarity(point.float(), last, dim=-1) for point in points]
            values["cosine"] = torch.stack(cosines, 1).cpu()
        return values

    def _weights_of(self, model: Any) -> Blockwise:
        return blockwise(model, "LogitLens with lens='authors'")


def tiles_of(net: Adapter) -> Tiles:
    """The model's own tiles, or slices of rows if it only gives whole rows."""

    def cut(rows: Tensor, width: int) -> Iterator[tuple[int, Tensor]]:
        logits = net.lens(rows)
        yield from ((first, logits[:, first : first + width]) for first in range(0, logits.shape[1], width))

    tiles: Tiles = getattr(net, "lens_tiles", cut)
    return tiles


def _authors_points(net: Adapter, points: list[Float[Tensor, "token d_model"]]) -> list[Tensor]:
    """Residuals centred and divided by the last one's scale; unchanged if the model's norm does not centre."""
    if not net.sizes.centred:
        return points
    at_once = max(1, _LOGITS_AT_ONCE // net.sizes.d_vocab)
    scale = torch.cat([_final_scale(net, part) for part in torch.split(points[-1], at_once)])
    return [(point - point.mean(-1, keepdim=True)) / scale for point in points]


def _authors_tiles(net: Blockwise, n_points: int) -> Tiles:
    """The model's own logits for each token's first residual, and logits by W_U alone for its `n_points` others."""

    def tiles(rows: Tensor, width: int) -> Iterator[tuple[int, Tensor]]:
        W_U, of_token = net.W_U, rows.view(-1, 1 + n_points, rows.shape[-1])
        others = of_token[:, 1:].flatten(0, 1).to(W_U.device, W_U.dtype)
        for first, final in net.lens_tiles(of_token[:, 0], width):
            plain = (others @ W_U[:, first : first + width]).float().view(len(final), n_points, -1)
            yield first, torch.cat([final[:, None], plain], 1).flatten(0, 1)

    return tiles


def _final_scale(net: Adapter, last: Float[Tensor, "token d_model"]) -> Float[Tensor, "token 1"]:
    """The number by which the final norm divides each residual."""
    scales: list[Tensor] = []
    with net.hooks([("ln_final.hook_scale", lambda scale, hook: scales.append(scale))]):
        net.read(last[None])
    return scales[0][0]
