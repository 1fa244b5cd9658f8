"""How much each layer adds: norms of attention and MLP outputs, and how far the residual turns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechicl.errors import InputError
from mechicl.hooks import Batch, Probe, Watch
from mechicl.models import hooked

PARTS = ("attn", "mlp", "resid_pre", "resid_post")
NORM_QUANTITIES = (
    *(f"{part}_norm" for part in PARTS), *(f"{part}_median" for part in PARTS), *(f"{part}_at_0" for part in PARTS),
    "attn_ratio", "mlp_ratio", "cosine",
)  # fmt: skip


@dataclass(frozen=True)
class Norms(Probe):
    """Each sequence's norms by layer, over d_model: reading [sequence layer quantity] (`NORM_QUANTITIES`).

    Means and medians of |attention out|, |MLP out| (after their biases) and of the residual before and after the
    layer, over all positions but 0, where norms are of another order; the values at position 0; means of the two
    outputs' norms over the norm of the residual before the layer, and of the cosine between the residual before and
    after it (1 - cosine is the block influence of ShortGPT). Norms depend on how the weights were processed.
    """

    axes = ("sequence", "layer", "quantity")

    def watch(self, model: Any, batch: Batch) -> Watch:
        net = hooked(model)
        if not net.sizes.d_mlp:
            raise InputError(f"{net.name} has no MLPs, whose norms are read beside those of attention.")
        layers = range(net.sizes.n_layers)
        names = {part: f"hook_{part}_out" if part in ("attn", "mlp") else f"hook_{part}" for part in PARTS}
        real = torch.arange(batch.tokens.shape[1], device=batch.tokens.device) < batch.lengths[:, None]
        kept: dict[str, Tensor] = {}
        found: dict[int, Tensor] = {}

        def at(layer: int, part: str) -> Callable[..., None]:
            def see(value: Tensor, hook: Any) -> None:
                kept[part] = value.detach().float()
                if part == "resid_post":
                    found[layer] = _measure(kept, real)
                    kept.clear()

            return see

        return Watch(
            hooks=[(f"blocks.{layer}.{names[part]}", at(layer, part)) for layer in layers for part in PARTS],
            result=lambda: torch.stack([found[layer] for layer in layers], 1).cpu(),
        )


def _measure(values: dict[str, Float[Tensor, "batch pos d_model"]], real: Tensor) -> Float[Tensor, "batch quantity"]:
    norms = {part: values[part].norm(dim=-1) for part in PARTS}
    later = real & (torch.arange(real.shape[1], device=real.device) > 0)
    before = norms["resid_pre"].clamp(min=1e-30)
    per_position = [
        *norms.values(), norms["attn"] / before, norms["mlp"] / before,
        torch.cosine_similarity(values["resid_pre"], values["resid_post"], dim=-1),
    ]  # fmt: skip
    n = later.sum(1).clamp(min=1)
    means = [torch.where(later, value, 0).sum(1) / n for value in per_position]
    medians = [torch.where(later, norm, torch.nan).nanmedian(1).values for norm in norms.values()]
    at_0 = [norm[:, 0] for norm in norms.values()]
    return torch.stack([*means[:4], *medians, *at_0, *means[4:]], -1)
