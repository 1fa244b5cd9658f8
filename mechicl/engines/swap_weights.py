"""Swapping the weights, but not the settings, of two layers, as the authors of *Stages of Inference* do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mechicl.errors import InputError
from mechicl.hooks import Hook, OrderAlone, Patch, resolved_layers
from mechicl.models import Blockwise


@dataclass(frozen=True)
class SwapWeights(Patch):
    """Layers i and i + 1 exchange their weights, but keep settings of their place: a local window, a scale by layer.

    `Swap` runs the blocks in another order, including their settings. If all blocks have the same settings, the two are
    the same. Only `lesion_sweep` can run it.
    """

    layer: int

    def hooks(self, model: Any, batch: Any = None) -> list[Hook]:
        raise OrderAlone(f"{self} exchanges weights, which hooks cannot do; give it to lesion_sweep.")

    def weights(self, n_layers: int) -> Sequence[int]:
        """The layer whose weights each layer has.

        Raises:
            InputError: the model lacks these layers.
        """
        first, second = resolved_layers((self.layer, self.layer + 1), n_layers, self)
        return [*range(first), second, first, *range(second + 1, n_layers)]


@contextmanager
def exchanged(net: Blockwise, one: int, other: int) -> Iterator[None]:
    """A context in which two blocks have each other's weights."""
    if one == other:
        yield
        return
    blocks: Any = net.raw.blocks
    first, second = (dict(blocks[layer].named_parameters()) for layer in (one, other))
    if {name: p.shape for name, p in first.items()} != {name: p.shape for name, p in second.items()}:
        raise InputError(f"Layers {one} and {other} of {net.name} are built differently and cannot exchange weights.")
    pairs = [(first[name], second[name]) for name in first]
    _exchange(pairs)
    try:
        yield
    finally:
        _exchange(pairs)


def _exchange(pairs: Sequence[tuple[Any, Any]]) -> None:
    for a, b in pairs:
        a.data, b.data = b.data, a.data
