"""What the logit lens says token by token: the most probable next tokens in the middle of the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechicl.hooks import Probe, Watch, watch_points
from mechicl.metrics import top_k_ids
from mechicl.models import Adapter, hooked
from mechicl.probes.last_residual import resid_name
from mechicl.prompts import PromptBatch

_LOGITS_AT_ONCE = 2**24


@dataclass(frozen=True)
class LensTokens(Probe):
    """Ids of the k most probable next tokens at some positions, and their probabilities: reading [prompt point
    position rank].

    Points are the residuals before each layer and the one after the last, L + 1 in all; each is read through the final
    norm and the unembedding with its bias, so that the last point is the model. Positions are the same for all prompts
    and lie inside each. Ties go to the lower id.
    """

    positions: tuple[int, ...]
    k: int = 3
    axes = ("prompt", "point", "position", "rank")
    units = {"token": "token id", "probability": "share"}

    def watch(self, model: Any, batch: PromptBatch) -> Watch:
        net = hooked(model)
        n_layers = net.sizes.n_layers
        points = [(resid_name(point, n_layers),) for point in range(n_layers + 1)]
        places = torch.tensor(self.positions, device=batch.device)
        return watch_points(
            points,
            reduce=lambda _, resid: self._top(net, resid[:, places]),
            collect=lambda top: {"token": top[..., 0].long(), "probability": top[..., 1]},
            coordinates={"position": self.positions},
        )

    @torch.no_grad()
    def _top(
        self, net: Adapter, resid: Float[Tensor, "batch position d_model"]
    ) -> Float[Tensor, "batch position rank two"]:
        rows = resid.flatten(0, 1)
        parts = []
        for chunk in torch.split(rows, max(1, _LOGITS_AT_ONCE // net.sizes.d_vocab)):
            probabilities = net.lens(chunk).softmax(-1)
            ids = top_k_ids(probabilities, min(self.k, net.sizes.d_vocab))
            parts.append(torch.stack([ids.float(), probabilities.gather(-1, ids)], -1))
        return torch.cat(parts).reshape(*resid.shape[:2], -1, 2)
