"""Several residuals of the same tokens read as predictions, in one pass over the vocabulary, and compared.

The vocabulary is read a tile at a time. A tile's logits are used up while the processor still holds them, and leave a
few sums for each residual: memory traffic, not arithmetic, is what whole rows of logits cost. At the end the tiles'
sums are put together in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechicl.metrics import jaccard, top_k_ids
from mechicl.models import Blockwise

_TILE = {"cpu": (384, 1024), "gpu": (1024, 2**16)}
"""Residuals and tokens of the vocabulary that are multiplied at a time: enough to fill the machine; on a CPU few enough
that the logits stay in its cache.
"""


def rows_at_once(device: torch.device) -> int:
    """How many residuals are read together best."""
    return _tile(device)[0]


def _tile(device: torch.device) -> tuple[int, int]:
    return _TILE["cpu" if device.type == "cpu" else "gpu"]


@torch.no_grad()
def read_out(
    net: Blockwise, resid: Float[Tensor, "token stream d_model"], targets: Int[Tensor, " token"], top_k: int
) -> dict[str, Tensor]:
    """Measures of each stream's prediction, [token stream], on the CPU; stream 0 is what the others are compared with.

    `kl` is KL(stream 0 || stream) in nats, `entropy` in bits, `loss` -log p(target) in nats, `top_token` an id, and
    `top_k_overlap` the Jaccard similarity with stream 0's `top_k` tokens (NaN where `top_k` is 0).
    """
    width = _tile(resid.device)[1]
    shape = resid.shape[:2]
    sums, best = _Sums(), _Best(shape, top_k, resid.device)
    target_logit = torch.full(shape, torch.nan, device=resid.device)
    spare: Tensor | None = None
    for start, rows in net.lens_tiles(resid.flatten(0, 1), width):
        logits = rows.view(*shape, -1)
        peak = logits.amax(-1)
        best.look(logits, peak, start)
        column = (targets - start)[:, None, None]
        here = (column >= 0) & (column < logits.shape[-1])
        at_target = logits.gather(-1, column.clamp(0, logits.shape[-1] - 1).expand(*shape, 1))
        target_logit = torch.where(here[..., 0], at_target[..., 0], target_logit)
        spare = torch.empty_like(logits) if spare is None or spare.shape != logits.shape else spare
        sums.add(logits, peak, spare)
    return {**sums.measures(target_logit), **best.measures()}


@dataclass
class _Sums:
    """What each tile leaves for each stream, with z the logits, p stream 0's and q the stream's softmax in the tile."""

    peak: list[Tensor] = field(default_factory=list)
    mass: list[Tensor] = field(default_factory=list)
    """Sum of exp(z - peak)."""
    own: list[Tensor] = field(default_factory=list)
    """Sum of q (z - peak)."""
    cross: list[Tensor] = field(default_factory=list)
    """Sum of p (z - peak)."""

    def add(self, logits: Float[Tensor, "token stream tile"], peak: Tensor, spare: Tensor) -> None:
        """Take a tile in; its logits are overwritten."""
        below = logits.sub_(peak[..., None])
        share = below.softmax(-1)
        self.peak.append(peak)
        self.mass.append(1 / share.amax(-1))  # the largest share is exp(0) / mass
        self.cross.append(torch.mul(share[:, :1], below, out=spare).sum(-1))
        self.own.append(torch.mul(share, below, out=spare).sum(-1))

    def measures(self, target_logit: Float[Tensor, "token stream"]) -> dict[str, Tensor]:
        of_tiles = torch.stack([torch.stack(parts, -1) for parts in (self.peak, self.mass, self.own, self.cross)])
        peak, mass, own, cross = of_tiles.cpu().double()
        log_mass = peak + mass.log()
        log_sum = log_mass.logsumexp(-1)
        weight = (log_mass - log_sum[..., None]).exp()  # of each tile in the whole softmax
        reference = weight[:, :1]
        # Tile by tile, so that nearly equal predictions are subtracted before they are summed.
        apart = (reference * ((own + peak)[:, :1] - (cross + peak))).sum(-1)
        return {
            "kl": (apart - log_sum[:, :1] + log_sum).clamp(min=0).float(),
            "entropy": ((weight * (log_sum[..., None] - peak - own)).sum(-1).clamp(min=0) / math.log(2)).float(),
            "loss": (log_sum - target_logit.cpu().double()).float(),
        }


class _Best:
    """The most probable token of each stream so far, and its k most probable ones."""

    def __init__(self, shape: torch.Size, k: int, device: torch.device) -> None:
        self.k = k
        self.peak = torch.full(shape, -torch.inf, device=device)
        self.token = torch.zeros(shape, dtype=torch.long, device=device)
        self.values: Tensor | None = None
        self.ids: Tensor | None = None

    def look(self, logits: Float[Tensor, "token stream tile"], peak: Tensor, start: int) -> None:
        """Take a tile in. Few streams find a new best one in a later tile, and only these are searched.

        A GPU takes nearly every vocabulary in one tile, so that it is not asked which streams these are.
        """
        if start == 0:
            self.token = logits.argmax(-1)
        else:
            ahead = (peak > self.peak).nonzero(as_tuple=True)
            self.token[ahead] = start + logits[ahead].argmax(-1)
        self.peak = torch.maximum(self.peak, peak)
        if self.k:
            self._merge(logits, start)

    def _merge(self, logits: Tensor, start: int) -> None:
        ids = top_k_ids(logits, min(self.k, logits.shape[-1]))
        values, ids = logits.gather(-1, ids), ids + start
        if self.values is not None and self.ids is not None:
            values, ids = torch.cat([self.values, values], -1), torch.cat([self.ids, ids], -1)
            kept = top_k_ids(values, min(self.k, values.shape[-1]))  # of equal ones the earlier, so the lower id
            values, ids = values.gather(-1, kept), ids.gather(-1, kept)
        self.values, self.ids = values, ids

    def measures(self) -> dict[str, Tensor]:
        overlap = torch.full(self.token.shape, torch.nan)
        if self.ids is not None:
            overlap = jaccard(self.ids, self.ids[:, :1]).cpu()
        return {"top_token": self.token.cpu(), "top_k_overlap": overlap}
