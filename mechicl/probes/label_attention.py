"""Attention from the target position to the label words (section 2.3)."""

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
class LabelAttention(Probe):
    """A(q, p) of every layer, head and class: reading [prompt layer head class].

    Attention to several label words of one class (more than one shot) is summed. The paper sums over heads as well
    (footnote 5); that is left to the reader of the reading.
    """

    axes = ("prompt", "layer", "head", "class")

    @property
    def place(self) -> Place:
        return "target"

    def watch(self, model: Any, batch: PromptBatch) -> Watch:
        layers = range(hooked(model).sizes.n_layers)
        n_classes = len(batch.label_ids)
        member = torch.nn.functional.one_hot(batch.anchor_classes, n_classes).float()
        rows = torch.arange(len(batch.target), device=batch.target.device)
        found: dict[int, Tensor] = {}

        def at(layer: int) -> Callable[..., None]:
            def see(pattern: Tensor, hook: Any) -> None:
                from_q = pattern[rows, :, batch.target]
                to_p = from_q.gather(2, batch.anchors[:, None].expand(-1, from_q.shape[1], -1))
                found[layer] = to_p.detach().float() @ member

            return see

        return Watch(
            hooks=[(f"blocks.{layer}.attn.hook_pattern", at(layer)) for layer in layers],
            result=lambda: torch.stack([found[layer].cpu() for layer in layers], 1),
        )
