"""The most probable next tokens at the target position, over the full vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mechicl.hooks import Probe, Watch
from mechicl.metrics import top_k_ids
from mechicl.prompts import PromptBatch


@dataclass(frozen=True)
class TopTokens(Probe):
    """Ids of the k most probable next tokens at q, most probable first, ties by id: reading [prompt k].

    Word loyalty (section 2.2) compares such sets.
    """

    k: int = 10
    axes = ("prompt", "rank")
    units = {"token": "token id"}
    scope = "target"

    def watch(self, model: Any, batch: PromptBatch) -> Watch:
        top: list[Tensor] = []

        def read(logits: Tensor) -> None:
            top.append(top_k_ids(logits, self.k))

        return Watch(hooks=[], result=lambda: top[0], read_logits=read)
