"""Query vectors at the target position, in every layer (section 3.3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mechicl.hooks import Place, Probe, Watch
from mechicl.models import hooked
from mechicl.prompts import PromptBatch


@dataclass(frozen=True)
class TargetQuery(Probe):
    """The query vector at q with all heads side by side, after rotation where there is one: [prompt layer d].

    Meets keys as attention meets them, but for the common factor 1 / sqrt(d_head).
    """

    axes = ("prompt", "layer", "dimension")

    @property
    def place(self) -> Place:
        return "target"

    def watch(self, model: Any, batch: PromptBatch) -> Watch:
        net = hooked(model)
        layers = range(net.sizes.n_layers)
        site = "hook_rot_q" if "blocks.0.attn.hook_rot_q" in net.hook_names() else "hook_q"
        rows = torch.arange(len(batch.target), device=batch.target.device)
        found: dict[int, Tensor] = {}

        def at(layer: int) -> Callable[..., None]:
            def see(queries: Tensor, hook: Any) -> None:
                found[layer] = queries[rows, batch.target].detach().float().flatten(1)

            return see

        return Watch(
            hooks=[(f"blocks.{layer}.attn.{site}", at(layer)) for layer in layers],
            result=lambda: torch.stack([found[layer] for layer in layers], 1).cpu(),
        )
