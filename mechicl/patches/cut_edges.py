"""Cutting attention edges in some layers: the core of isolation and of cutting words."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from mechicl.errors import InputError
from mechicl.hooks import Hook, Patch, as_layers, resolved_layers
from mechicl.models import hooked

Mode = Literal["presoftmax", "presoftmax_keep_0", "postsoftmax_zero", "postsoftmax_renorm"]


@dataclass(frozen=True)
class CutEdges(Patch):
    """Base of all patches that cut attention edges: in which layers, and how.

    `mode="presoftmax"` is the code of *Label Words*: cut scores become -inf, so attention to the rest still sums to
    one. `"presoftmax_keep_0"` keeps the edge to position 0: heads rely on that attention sink, and a token without it
    may become a sink itself. `"postsoftmax_zero"` zeroes the weights after the softmax, as that paper's text says,
    which also shrinks the head's output; `"postsoftmax_renorm"` divides by the remaining sum, which equals
    `"presoftmax"` up to rounding. One layer may be given alone; negative layers count from the end.
    """

    layers: int | Iterable[int]
    mode: Mode = field(default="presoftmax", kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", as_layers(self.layers, type(self).__name__))
        if self.mode not in _EDITS:
            raise InputError(f"{type(self).__name__} got the mode {self.mode!r}; choose {' or '.join(_EDITS)}.")

    @abstractmethod
    def edges(self, batch: Any, layers: tuple[int, ...]) -> Iterable[Bool[Tensor, "batch query key"]]:
        """For each of the patch's layers (counted from 0), a mask that is True where an edge is cut."""

    def hooks(self, model: Any, batch: Any) -> list[Hook]:
        layers = resolved_layers(self.layers, hooked(model).sizes.n_layers, type(self).__name__)
        site, edit = _EDITS[self.mode]
        masks = replace(self, layers=layers).edges(batch, layers)
        return [
            (f"blocks.{layer}.attn.{site}", partial(edit, mask[:, None]))
            for layer, mask in zip(layers, masks, strict=True)
        ]


def _cut_scores(mask: Tensor, scores: Tensor, hook: Any) -> Tensor:
    return scores.masked_fill(mask, -torch.inf)


def _cut_scores_but_first(mask: Tensor, scores: Tensor, hook: Any) -> Tensor:
    return _cut_scores(mask & (torch.arange(mask.shape[-1], device=mask.device) > 0), scores, hook)


def _zero_weights(mask: Tensor, pattern: Tensor, hook: Any) -> Tensor:
    return pattern.masked_fill(mask, 0.0)


def _renormalise_weights(mask: Tensor, pattern: Tensor, hook: Any) -> Tensor:
    kept = pattern.masked_fill(mask, 0.0)
    touched = mask.any(-1, keepdim=True)
    return torch.where(touched, kept / kept.sum(-1, keepdim=True).clamp_min(torch.finfo(kept.dtype).tiny), kept)


_EDITS: dict[str, tuple[str, Callable[..., Tensor]]] = {
    "presoftmax": ("hook_attn_scores", _cut_scores),
    "presoftmax_keep_0": ("hook_attn_scores", _cut_scores_but_first),
    "postsoftmax_zero": ("hook_pattern", _zero_weights),
    "postsoftmax_renorm": ("hook_pattern", _renormalise_weights),
}
