"""Leave a layer out (Stages of Inference, section 4.1: the layer is skipped, embeddings and unembedding are kept)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mechicl.errors import InputError
from mechicl.hooks import Hook, Patch
from mechicl.models import hooked
from mechicl.prompts import PromptBatch


@dataclass(frozen=True)
class DropLayer(Patch):
    """Zero what a layer's attention and MLP add to the residual stream, so that r_{i+1} = r_i at every position."""

    layer: int

    def hooks(self, model: Any, batch: PromptBatch) -> list[Hook]:
        n_layers = hooked(model).sizes.n_layers
        if not 0 <= self.layer < n_layers:
            raise InputError(f"DropLayer({self.layer}): this model has layers 0-{n_layers - 1}.")

        def zero(value: Tensor, hook: Any) -> Tensor:
            return torch.zeros_like(value)

        return [(f"blocks.{self.layer}.hook_{part}_out", zero) for part in ("attn", "mlp")]
