"""Attention of every token to every other, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mechicl.hooks import Probe, Watch, resolved_layers, watch_points
from mechicl.models import hooked
from mechicl.prompts import PromptBatch


@dataclass(frozen=True)
class AttentionMap(Probe):
    """Attention of every edge in the chosen layers, mean over heads: reading [prompt layer query key].

    Nothing is left out: if there is an attention sink, most of it goes to position 0. Meant for single prompts, as
    memory grows with the square of the length.
    """

    layers: tuple[int, ...]
    axes = ("prompt", "layer", "query", "key")
    units = {"attention": "share of a query's attention, mean over heads"}

    def watch(self, model: Any, batch: PromptBatch) -> Watch:
        layers = resolved_layers(self.layers, hooked(model).sizes.n_layers, "AttentionMap")
        points = [(f"blocks.{layer}.attn.hook_pattern",) for layer in layers]
        return watch_points(points, reduce=lambda _, pattern: pattern.float().mean(1), coordinates={"layer": layers})
