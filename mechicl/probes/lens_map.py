"""How the model's prediction at each position forms: the logit lens at every layer, against the final prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechicl.hooks import Probe, Watch, watch_points
from mechicl.metrics.readout import read_out
from mechicl.models import Adapter, hooked
from mechicl.probes.last_residual import resid_name
from mechicl.probes.lens_tokens import check_positions
from mechicl.probes.logit_lens import tiles_of
from mechicl.prompts import PromptBatch


@dataclass(frozen=True)
class LensMap(Probe):
    """The logit lens at some positions against the model's own prediction there: reading [prompt point position].

    Quantities: `token`, the lens's most probable id (the lowest among ties); `probability`, that of the token that the
    model finally predicts; `kl`, KL(final || lens) in nats. Points are the residuals before each layer and the one
    after the last, L + 1 in all; each is read through the final norm and the unembedding with its bias, so that the
    last point is the model. Positions are the same for all prompts and lie inside each.
    """

    positions: tuple[int, ...]
    axes = ("prompt", "point", "position")
    units = {"token": "token id", "probability": "share", "kl": "nats"}

    def watch(self, model: Any, batch: PromptBatch) -> Watch:
        net = hooked(model)
        n_layers = net.sizes.n_layers
        check_positions(self.positions, batch, type(self).__name__)
        places = torch.tensor(self.positions, device=batch.device)
        return watch_points(
            [(resid_name(point, n_layers),) for point in range(n_layers + 1)],
            reduce=lambda _, resid: resid[:, places],
            collect=lambda resid: _against_the_last(net, resid),
            coordinates={"position": self.positions},
        )


@torch.no_grad()
def _against_the_last(net: Adapter, resid: Float[Tensor, "batch point position d_model"]) -> dict[str, Tensor]:
    """All points together, so that the unembedding is read only once."""
    tiles, d_vocab = tiles_of(net), net.sizes.d_vocab
    *others, final = resid.transpose(0, 1).flatten(1, 2)
    none = torch.zeros(len(final), dtype=torch.long, device=final.device)
    answer = read_out(tiles, [final], none, ["top_token"], d_vocab=d_vocab)["top_token"][:, 0]
    asked = ("top_token", "loss", "kl")
    read = read_out(tiles, [final, *others], answer.to(final.device), asked, d_vocab=d_vocab)
    batch, _, position, _ = resid.shape
    token, loss, kl = (  # the final prediction is the first stream, and the last point
        read[name].roll(-1, 1).view(batch, position, -1).transpose(1, 2) for name in asked
    )
    return {"token": token, "probability": loss.neg().exp(), "kl": kl}
