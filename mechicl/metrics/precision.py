"""Float64 for devices that lack it."""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

WITHOUT_FLOAT64 = ("mps",)
"""Device types without float64."""


def in_float64(values: Float[Tensor, "*any"]) -> Float64[Tensor, "*any"]:
    """The same numbers in float64, on the host if their device lacks it."""
    there = values.cpu() if values.device.type in WITHOUT_FLOAT64 else values
    return there.to(torch.float64)
