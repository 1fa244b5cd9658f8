"""Effects of isolation other than on the prediction: probability of the label words, norms of label words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mechicl.hooks import Probe, Watch, watch_layers
from mechicl.probes.saliency import check_anchors
from mechicl.prompts import PromptBatch
from mechicl.readings import by_name


@dataclass(frozen=True)
class LabelMass(Probe):
    """Probability of all label words' scoring tokens together at q, over the full vocabulary: reading [prompt]."""

    units = {"label_mass": "probability"}
    scope = "target"

    def watch(self, model: Any, batch: PromptBatch) -> Watch:
        mass: list[Tensor] = []

        def read(logits: Tensor) -> None:
            mass.append(logits.float().softmax(-1)[:, batch.label_ids].sum(-1))

        return Watch(hooks=[], result=lambda: mass[0], read_logits=read)


@dataclass(frozen=True)
class LabelNorms(Probe):
    """Norms of the residual after each layer: reading [prompt layer] of label_norm and first_norm.

    The mean over the label words (their anchors), and the value at position 0, the usual attention sink. L2 norms over
    d_model; they depend on weight processing.
    """

    axes = ("prompt", "layer")
    units = dict.fromkeys(("label_norm", "first_norm"), "L2 norm over d_model")

    def watch(self, model: Any, batch: PromptBatch) -> Watch:
        check_anchors(batch, "LabelNorms")

        def norms(_: int, resid: Tensor) -> Tensor:
            norm = resid.float().norm(dim=-1)
            return torch.stack([norm.gather(1, batch.anchors).mean(1), norm[:, 0]], -1)

        return watch_layers(
            model, "hook_resid_post", reduce=norms, collect=lambda result: by_name(result, list(self.units))
        )
