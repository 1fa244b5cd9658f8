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
            reduce=lambda _, resid: resid[:, places],
            collect=lambda resid: self._top(net, resid),
            coordinates={"position": self.positions},
        )

    @torch.no_grad()
    def _top(self, net: Adapter, resid: Float[Tensor, "batch point position d_model"]) -> dict[str, Tensor]:
        """All points together, so that the unembedding is read once and not once a layer."""
        k, found = min(self.k, net.sizes.d_vocab), []
        for rows in torch.split(resid.flatten(0, 2), max(1, _LOGITS_AT_ONCE // net.sizes.d_vocab)):
            probabilities = net.lens(rows).softmax(-1)
            ids = top_k_ids(probabilities, k)
            found.append((ids, probabilities.gather(-1, ids)))
        ids, shares = (torch.cat(parts).reshape(*resid.shape[:3], k) for parts in zip(*found, strict=True))
        return {"token": ids, "probability": shares}
