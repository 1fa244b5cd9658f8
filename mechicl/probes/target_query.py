"""Query vectors at the target position, in every layer (section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mechicl.hooks import Probe, Watch, watch_layers
from mechicl.models import hooked
from mechicl.prompts import PromptBatch


@dataclass(frozen=True)
class TargetQuery(Probe):
    """The query vector at q with all heads concatenated, after rotation if there is one: [prompt layer d].

    Its products with keys are attention scores, up to the common factor 1 / sqrt(d_head).
    """

    axes = ("prompt", "layer", "dimension")
    units = {"query": "activation"}
    scope = "target"

    def watch(self, model: Any, batch: PromptBatch) -> Watch:
        net = hooked(model)
        site = "hook_rot_q" if "blocks.0.attn.hook_rot_q" in net.hook_names() else "hook_q"
        rows = torch.arange(len(batch.target), device=batch.target.device)

        def at_q(layer: int, queries: Tensor) -> Tensor:
            return queries[rows, batch.target].float().flatten(1)

        return watch_layers(model, f"attn.{site}", reduce=at_q)
