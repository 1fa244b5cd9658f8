"""Parse the layers, neurons and heads that a probe or a patch names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from operator import index
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from mechicl.errors import InputError
from mechicl.models import Adapter

_BLOCK = re.compile(r"blocks\.(\d+)\.")


def layer_of(point: str) -> int | None:
    """The layer of a hook point; None for a point outside the blocks."""
    match = _BLOCK.match(point)
    return int(match[1]) if match else None


def as_layers(layers: int | Iterable[int], part: str) -> tuple[int, ...]:
    """One layer or several as a tuple of integers.

    Raises:
        InputError: there are none, or one is not an integer; the message names `part`.
    """
    try:
        numbers = tuple(map(index, layers if isinstance(layers, Iterable) else (layers,)))
    except TypeError:
        raise InputError(f"{part} got the layers {layers!r}; give one integer or a list of integers.") from None
    if not numbers:
        raise InputError(f"{part} needs at least one layer; got none.")
    return numbers


def resolved_layers(layers: int | Iterable[int], n_layers: int, part: Any) -> tuple[int, ...]:
    """Layers counted from 0; negative ones count from the end, -1 is the last.

    Raises:
        InputError: the model lacks one of them.
    """
    numbers = as_layers(layers, str(part))
    beyond = [number for number in numbers if not -n_layers <= number < n_layers]
    if beyond:
        raise InputError(
            f"{part} names layer {beyond[0]}; this model has layers 0-{n_layers - 1} (-{n_layers} to -1 count from "
            "the end)."
        )
    return tuple(number % n_layers for number in numbers)


def neurons_by_layer(net: Adapter, neurons: Sequence[tuple[int, int]]) -> dict[int, Int[Tensor, " neuron"]]:
    """MLP neurons (layer, index) as the indices of each layer, both in order, on the model's device.

    Raises:
        InputError: there are none, or the model lacks one of them.
    """
    return _by_layer(net, neurons, "neuron", net.sizes.d_mlp)


def heads_by_layer(net: Adapter, heads: Sequence[tuple[int, int]]) -> dict[int, Int[Tensor, " head"]]:
    """The same for attention heads (layer, query head)."""
    return _by_layer(net, heads, "head", net.sizes.n_heads)


def _by_layer(net: Adapter, pairs: Sequence[tuple[int, int]], kind: str, size: int) -> dict[int, Tensor]:
    n_layers = net.sizes.n_layers
    beyond = [pair for pair in pairs if not (-n_layers <= pair[0] < n_layers and 0 <= pair[1] < size)]
    if beyond or not pairs:
        raise InputError(
            f"There is no {kind} {beyond[0] if beyond else 'given'}; {net.name} has layers 0-{n_layers - 1} with "
            f"{kind}s 0-{size - 1} each."
        )
    chosen = sorted((layer % n_layers, number) for layer, number in pairs)
    per_layer = Counter(layer for layer, _ in chosen)
    numbers = torch.tensor([number for _, number in chosen], device=net.device)
    return dict(zip(per_layer, torch.split(numbers, list(per_layer.values())), strict=True))
