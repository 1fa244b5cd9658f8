"""Attention of each token to the tokens just before it, one by one, in chosen heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechicl.errors import InputError
from mechicl.hooks import Batch, Probe, Watch, heads_by_layer, watch_points
from mechicl.models import hooked


@dataclass(frozen=True)
class LookBack(Probe):
    """Attention of every token to itself and to the tokens before it: reading [sequence head query back].

    `back` is the distance, from 0 (the token itself) to `reach` - 1; attention is 0 if there is no such token. Heads
    (layer, query head) are in the order of layers, with the name "layer.head".
    """

    heads: tuple[tuple[int, int], ...]
    reach: int = 16
    axes = ("sequence", "head", "query", "back")
    units = {"attention": "share of a query's attention"}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reach < 1:
            raise InputError(f"reach is {self.reach}; give a number of tokens, at least 1.")

    def watch(self, model: Any, batch: Batch) -> Watch:
        chosen = heads_by_layer(hooked(model), self.heads)
        heads = [(layer, int(head)) for layer, of_layer in chosen.items() for head in of_layer]
        return watch_points(
            [(f"blocks.{layer}.attn.hook_pattern",) for layer, _ in heads],
            reduce=lambda number, pattern: self._back(pattern[:, heads[number][1]].float()),
            coordinates={"head": [f"{layer}.{head}" for layer, head in heads]},
        )

    def _back(self, pattern: Float[Tensor, "batch query key"]) -> Float[Tensor, "batch query back"]:
        query = torch.arange(pattern.shape[1], device=pattern.device)[:, None]
        key = query - torch.arange(self.reach, device=pattern.device)
        return torch.where(key >= 0, pattern[:, query, key.clamp(min=0)], 0)
