"""Saliency before heads are summed: what each head of a layer adds to an edge (section 2.1, inside Eq. 1)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from mechicl.hooks import Probe, Watch, resolved_layers
from mechicl.metrics.objective import Objective
from mechicl.models import hooked
from mechicl.prompts import PromptBatch


@dataclass(frozen=True)
class HeadSaliency(Probe):
    """A * dL/dA of every edge and head of one layer, with its sign: reading [prompt head query key], in units of the
    loss.

    The absolute value of its sum over heads is the saliency of `SaliencyMap`. Meant for single prompts.
    """

    layer: int
    loss: Objective = field(default=Objective())
    axes = ("prompt", "head", "query", "key")
    units = {"saliency": "loss"}

    @property
    def objective(self) -> Objective:
        return self.loss

    def watch(self, model: Any, batch: PromptBatch) -> Watch:
        (layer,) = resolved_layers(self.layer, hooked(model).sizes.n_layers, "HeadSaliency")
        edges: list[Tensor] = []

        def see(pattern: Tensor, hook: Any) -> None:
            value = pattern.detach().float()
            edges.append(value.new_zeros(value.shape))  # a layer on which the loss does not depend gets no gradient
            pattern.register_hook(lambda gradient: edges.append(value * gradient.float()))  # type: ignore[no-untyped-call]

        return Watch([(f"blocks.{layer}.attn.hook_pattern", see)], lambda: edges[-1])
