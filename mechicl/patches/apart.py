"""Demonstrations read apart: none attends to those before it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from mechicl.patches.cut_edges import CutEdges
from mechicl.prompts import PromptBatch


@dataclass(frozen=True)
class CutDemonstrations(CutEdges):
    """Cut all attention between demonstrations, as if each were read by itself at its position.

    An initial token common to all prompts (BOS) remains visible to all. With relative positions, a demonstration's keys
    and values equal those of reading it alone.
    """

    scope = "demonstrations"

    def edges(self, batch: PromptBatch, layers: tuple[int, ...]) -> Iterator[Bool[Tensor, "batch query key"]]:
        number = torch.zeros_like(batch.tokens)  # each token's demonstration, from 1; 0: before and after
        for row, prompt in enumerate(batch.prompts):
            for place, one in enumerate(prompt.demonstrations, start=1):
                number[row, slice(*one.span)] = place
        cut = (number[:, :, None] != number[:, None]) & (number[:, :, None] > 0) & (number[:, None] > 0)
        return (cut for _ in layers)
