"""Attention from the target position to the label words (section 2.3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mechicl.errors import InputError
from mechicl.hooks import Probe, Scope, Watch, watch_layers
from mechicl.models import blockwise, hooked
from mechicl.prompts import PromptBatch

Weight = Literal["attention", "norm"]


@dataclass(frozen=True)
class LabelAttention(Probe):
    """A(q, p) of every layer, head and class: reading [prompt layer head class].

    Attention to several label words of one class (more than one shot) is summed. The paper also sums over heads
    (footnote 5), which is left to the user of the reading. `weight="norm"` multiplies each weight by the norm of what
    it moves, |v(p) W_O| of that head (Kobayashi et al. 2020), which the paper mentions but does not compute.
    """

    weight: Weight = "attention"
    axes = ("prompt", "layer", "head", "class")

    @property
    def units(self) -> dict[str, str]:  # type: ignore[override]
        return {"attention": "share of attention" if self.weight == "attention" else "share times |v W_O|"}

    def __post_init__(self) -> None:
        if self.weight not in ("attention", "norm"):
            raise InputError(f"LabelAttention: weight is {self.weight!r}; it must be 'attention' or 'norm'.")

    @property
    def scope(self) -> Scope:
        return "target" if self.weight == "attention" else "anywhere"

    def watch(self, model: Any, batch: PromptBatch) -> Watch:
        layers = range(hooked(model).sizes.n_layers)
        n_classes = len(batch.label_ids)
        member = torch.nn.functional.one_hot(batch.anchor_classes, n_classes).float()
        rows = torch.arange(len(batch.target), device=batch.target.device)
        lengths: dict[int, Tensor] = {}

        def read(layer: int, pattern: Tensor) -> Tensor:
            from_q = pattern[rows, :, batch.target]
            to_p = from_q.gather(2, batch.anchors[:, None].expand(-1, from_q.shape[1], -1)).float()
            return (to_p * lengths.pop(layer) if layer in lengths else to_p) @ member

        watch = watch_layers(
            model, "attn.hook_pattern", reduce=read, coordinates={"class": batch.prompts[0].class_names}
        )
        if self.weight == "norm":
            weights = blockwise(model, "LabelAttention with weight='norm'")
            watch.hooks += [(f"blocks.{i}.attn.hook_v", _measure(lengths, i, weights.W_O(i), batch)) for i in layers]
        return watch


def _measure(
    lengths: dict[int, Tensor], layer: int, W_O: Float[Tensor, "head d_head d_model"], batch: PromptBatch
) -> Callable[..., None]:
    """A hook on values that stores |v(p) W_O| as [batch head anchor]."""

    def see(values: Tensor, hook: Any) -> None:
        at_p = values.detach()[torch.arange(len(values), device=values.device)[:, None], batch.anchors]
        by_head = at_p.repeat_interleave(len(W_O) // at_p.shape[2], 2)  # key/value heads that queries share
        lengths[layer] = torch.einsum("bahd,hdm->bham", by_head, W_O).float().norm(dim=-1)

    return see
