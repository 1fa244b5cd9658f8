"""Steering: add a vector to the residual stream at a layer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mechicl.display import shown
from mechicl.errors import InputError
from mechicl.hooks import resolved_layers
from mechicl.models import Adapter
from mechicl.patches.edit import Change, Edit, EqualByValue


@dataclass(frozen=True, repr=False, eq=False)
class Steer(EqualByValue, Edit):
    """Add `scale` times a vector to the residual stream before a layer, or at another point of the layer.

    Gradients reach the vector, so it can be learned.
    """

    vector: Float[Tensor, " d_model"] = field(repr=False)
    layer: int
    scale: float = 1.0
    point: Literal["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"] = field(
        default="resid_pre", kw_only=True
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "vector", torch.as_tensor(self.vector))

    def changes(self, net: Adapter) -> list[tuple[str, Change]]:
        (layer,) = resolved_layers(self.layer, net.sizes.n_layers, self)
        if self.vector.shape != (net.sizes.d_model,):
            raise InputError(
                f"The vector of {shown(self)} has shape {list(self.vector.shape)}; the residual stream of {net.name} "
                f"has [{net.sizes.d_model}]."
            )
        return [(f"blocks.{layer}.hook_{self.point}", lambda value: value + (self.scale * self.vector).to(value))]
