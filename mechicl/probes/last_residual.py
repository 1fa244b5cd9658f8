"""The residual stream at the last token of each sequence, before every layer and after the last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from mechicl.errors import InputError
from mechicl.hooks import Batch, Probe, Watch, watch_points
from mechicl.models import hooked


@dataclass(frozen=True)
class LastResidual(Probe):
    """The residual at the last real token: reading [sequence point d_model], float32.

    Point i is the residual before layer i; point L is that after the last. With causal attention the residual at any
    token equals that of the text truncated after it.
    """

    points: tuple[int, ...] | None = None
    """Points that are read; default: all L + 1."""
    axes = ("sequence", "point", "d_model")
    units = {"residual": "activation"}

    def watch(self, model: Any, batch: Batch) -> Watch:
        n_layers = hooked(model).sizes.n_layers
        points = range(n_layers + 1) if self.points is None else self.points
        if outside := [point for point in points if not 0 <= point <= n_layers]:
            raise InputError(f"LastResidual has point {outside[0]}; this model has points 0 to {n_layers}.")
        rows = torch.arange(len(batch.tokens), device=batch.tokens.device)
        last = batch.lengths.to(batch.tokens.device) - 1
        return watch_points(
            [(resid_name(point, n_layers),) for point in points],
            reduce=lambda _, resid: resid[rows, last].float(),
            coordinates={"point": points},
        )


def resid_name(point: int, n_layers: int) -> str:
    """Hook name of the residual before layer `point`, or, for `point` L, after the last layer."""
    return f"blocks.{point}.hook_resid_pre" if point < n_layers else f"blocks.{n_layers - 1}.hook_resid_post"
