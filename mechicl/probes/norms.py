"""How much each layer adds: norms of attention and MLP outputs, and how far the residual rotates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechicl.errors import InputError
from mechicl.hooks import Batch, Probe, Watch, watch_layers
from mechicl.models import hooked
from mechicl.readings import by_name

PARTS = ("attn", "mlp", "resid_pre", "resid_post")
_SITES = ("hook_attn_out", "hook_mlp_out", "hook_resid_pre", "hook_resid_post")
NORM_QUANTITIES = (
    *(f"{part}_norm" for part in PARTS), *(f"{part}_median" for part in PARTS), *(f"{part}_at_0" for part in PARTS),
    "attn_ratio", "mlp_ratio", "cosine",
)  # fmt: skip
_UNITS = {"attn_ratio": "share of |resid_pre|", "mlp_ratio": "share of |resid_pre|", "cosine": "cosine"}


@dataclass(frozen=True)
class Norms(Probe):
    """Each sequence's norms by layer, over d_model: reading [sequence layer] of `NORM_QUANTITIES`.

    Means and medians of |attention out|, |MLP out| (after their biases) and of the residual before and after the layer,
    over all positions except 0, where norms have another order of magnitude (NaN if there is no other position); the
    values at position 0; means of the two outputs' norms over the norm of the residual before the layer, and of the
    cosine between the residual before and after it (1 - cosine is the block influence of ShortGPT). Norms depend on
    weight processing.
    """

    axes = ("sequence", "layer")
    units = {name: _UNITS.get(name, "L2 norm over d_model") for name in NORM_QUANTITIES}
    terms = {name: "positions" for name in NORM_QUANTITIES if not name.endswith("at_0")}

    def watch(self, model: Any, batch: Batch) -> Watch:
        net = hooked(model)
        if not net.sizes.d_mlp:
            raise InputError(f"{net.name} has no MLPs, and Norms reads their outputs.")
        real = torch.arange(batch.tokens.shape[1], device=batch.tokens.device) < batch.lengths[:, None]

        def norms(layer: int, *values: Tensor) -> Tensor:
            return _measure(dict(zip(PARTS, (value.float() for value in values), strict=True)), real)

        return watch_layers(
            model, *_SITES, reduce=norms,
            collect=lambda result: by_name(result, NORM_QUANTITIES) | {"positions": batch.lengths - 1},
        )  # fmt: skip


def _measure(values: dict[str, Float[Tensor, "batch pos d_model"]], real: Tensor) -> Float[Tensor, "batch quantity"]:
    norms = {part: values[part].norm(dim=-1) for part in PARTS}
    later = real & (torch.arange(real.shape[1], device=real.device) > 0)
    before = norms["resid_pre"].clamp(min=1e-30)
    per_position = [
        *norms.values(), norms["attn"] / before, norms["mlp"] / before,
        torch.cosine_similarity(values["resid_pre"], values["resid_post"], dim=-1),
    ]  # fmt: skip
    n = later.sum(1)
    means = [torch.where(later, value, 0).sum(1) / n for value in per_position]
    medians = [torch.where(later, norm, torch.nan).nanmedian(1).values for norm in norms.values()]
    at_0 = [norm[:, 0] for norm in norms.values()]
    return torch.stack([*means[:4], *medians, *at_0, *means[4:]], -1)
