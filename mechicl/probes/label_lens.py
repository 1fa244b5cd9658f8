"""The logit lens for the label words at q, throughout the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mechicl.hooks import Probe, Watch, watch_points
from mechicl.models import hooked
from mechicl.probes.last_residual import resid_name
from mechicl.prompts import PromptBatch


@dataclass(frozen=True)
class LabelLens(Probe):
    """Log-probability of every class's scoring token at q, by the logit lens: reading [prompt point class].

    Points are the residuals before each layer and the one after the last, L + 1 in all; each is read through the final
    norm and the unembedding with its bias, so that the last point is the model. Probabilities are those of the full
    vocabulary; differences between classes are differences of the lens's logits.
    """

    axes = ("prompt", "point", "class")
    units = {"log_prob": "nats"}
    scope = "target"

    def watch(self, model: Any, batch: PromptBatch) -> Watch:
        net = hooked(model)
        rows = torch.arange(len(batch), device=batch.device)

        @torch.no_grad()
        def read(_: int, resid: Tensor) -> Tensor:
            logits = net.lens(resid[rows, batch.target])
            return logits[:, batch.label_ids] - logits.logsumexp(-1, keepdim=True)

        points = [(resid_name(point, net.sizes.n_layers),) for point in range(net.sizes.n_layers + 1)]
        return watch_points(points, reduce=read, coordinates={"class": batch.prompts[0].class_names})
