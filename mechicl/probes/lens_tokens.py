"""The logit lens token by token: the most probable next tokens at every layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechicl.errors import InputError
from mechicl.hooks import Probe, Watch, watch_points
from mechicl.metrics import top_k_ids
from mechicl.metrics.readout import Tiles
from mechicl.models import Adapter, hooked
from mechicl.probes.last_residual import resid_name
from mechicl.probes.logit_lens import tiles_of
from mechicl.prompts import PromptBatch

_ROWS, _WIDTH = 384, 1024
"""Number of residuals and of vocabulary tokens multiplied at a time: few enough for a processor's cache."""


@dataclass(frozen=True)
class LensTokens(Probe):
    """Ids of the k most probable next tokens at some positions, and their probabilities: reading [prompt point
    position rank].

    Points are the residuals before each layer and the one after the last, L + 1 in all; each is read through the final
    norm and the unembedding with its bias, so that the last point is the model. Positions are the same for all prompts
    and lie inside each. Ties go to the lower id.
    """

    positions: tuple[int, ...]
    k: int = 3
    axes = ("prompt", "point", "position", "rank")
    units = {"token": "token id", "probability": "share"}

    def watch(self, model: Any, batch: PromptBatch) -> Watch:
        net = hooked(model)
        n_layers = net.sizes.n_layers
        points = [(resid_name(point, n_layers),) for point in range(n_layers + 1)]
        check_positions(self.positions, batch, type(self).__name__)
        places = torch.tensor(self.positions, device=batch.device)
        return watch_points(
            points,
            reduce=lambda _, resid: resid[:, places],
            collect=lambda resid: self._top(net, resid),
            coordinates={"position": self.positions},
        )

    @torch.no_grad()
    def _top(self, net: Adapter, resid: Float[Tensor, "batch point position d_model"]) -> dict[str, Tensor]:
        """All points together, so that the unembedding is read only once, in tiles of its tokens."""
        k, tiles = min(self.k, net.sizes.d_vocab), tiles_of(net)
        found = [_best(tiles, rows, k) for rows in torch.split(resid.flatten(0, 2), _ROWS)]
        ids, shares = (torch.cat(parts).reshape(*resid.shape[:3], k) for parts in zip(*found, strict=True))
        return {"token": ids, "probability": shares}


def check_positions(positions: Sequence[int], batch: PromptBatch, name: str) -> None:
    """Reject positions outside a prompt, where a batch holds padding."""
    shortest = min(map(len, batch.prompts))
    if outside := [place for place in positions if not 0 <= place < shortest]:
        raise InputError(
            f"{name} has position {outside[0]}, and the shortest prompt has positions 0 to {shortest - 1}; give "
            "positions inside every prompt."
        )


def _best(
    tiles: Tiles, rows: Float[Tensor, "row d_model"], k: int
) -> tuple[Int[Tensor, "row rank"], Float[Tensor, "row rank"]]:
    """The k most probable tokens of each row (ties go to lower ids), and their probabilities."""
    ids, logits, masses = list[Tensor](), list[Tensor](), list[Tensor]()
    for first, tile in tiles(rows, _WIDTH):
        best = top_k_ids(tile, min(k, tile.shape[-1]))
        ids.append(best + first)
        logits.append(tile.gather(-1, best))
        masses.append(tile.logsumexp(-1))
    candidates = torch.cat(logits, -1)  # ties are in the order of their ids
    best = top_k_ids(candidates, k)
    log_mass = torch.stack(masses, -1).logsumexp(-1, keepdim=True)
    return torch.cat(ids, -1).gather(-1, best), (candidates.gather(-1, best) - log_mass).exp()
