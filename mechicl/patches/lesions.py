"""Ablations of whole layers (*Stages of Inference*, sections 3, 4.1, 5.4): left out, swapped, replaced, repeated.

Embedding, final norm and unembedding are unchanged. A dropped part adds nothing to the residual stream, at every
position or at some. Reordered blocks move with everything that belongs to them: weights, norms, and settings by depth
(a local window, a scale by layer). The authors' code moves only the weights, which is the same if all blocks have the
same settings.

`run(..., patches=[Swap(4)])` combines them with anything else, `with Swap(4).on(model): ...` changes a model inside the
`with` block, and `mechicl.engines.wavefront` runs many of them in one sweep. Layers count from 0, or from the end: -1
is the last.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from mechicl.errors import InputError
from mechicl.hooks import Hook, OrderAlone, Patch, as_layers, resolved_layers
from mechicl.models import Adapter
from mechicl.patches.edit import Change, Edit


class LeftOut(Edit):
    """Base of ablations that drop what some layers, or halves of them, add to the residual stream."""

    halves: ClassVar[tuple[str, ...]] = ("attn", "mlp")

    @abstractmethod
    def layers(self, n_layers: int) -> tuple[int, ...]:
        """The dropped layers, counted from 0."""

    def changes(self, net: Adapter) -> list[tuple[str, Change]]:
        halves = [half for half in self.halves if net.sizes.d_mlp or half == "attn"]
        if not halves:
            raise InputError(f"{net.name} has no MLPs that could be left out.")
        layers = self.layers(net.sizes.n_layers)
        return [(f"blocks.{layer}.hook_{half}_out", torch.zeros_like) for layer in layers for half in halves]


@dataclass(frozen=True, repr=False)
class _OneLeftOut(LeftOut):
    layer: int

    def layers(self, n_layers: int) -> tuple[int, ...]:
        return resolved_layers(self.layer, n_layers, self)


@dataclass(frozen=True, repr=False)
class Drop(_OneLeftOut):
    """Drop a layer: r_{i+1} = r_i (the authors' zero ablation)."""


@dataclass(frozen=True, repr=False)
class DropAttention(_OneLeftOut):
    """Drop a layer's attention; if blocks are sequential, its MLP then reads another input."""

    halves = ("attn",)


@dataclass(frozen=True, repr=False)
class DropMLP(_OneLeftOut):
    """Drop a layer's MLP."""

    halves = ("mlp",)


@dataclass(frozen=True, repr=False)
class DropMany(LeftOut):
    """Drop several layers at once."""

    dropped: Iterable[int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "dropped", tuple(sorted(set(as_layers(self.dropped, "DropMany")))))

    def layers(self, n_layers: int) -> tuple[int, ...]:
        return resolved_layers(self.dropped, n_layers, self)


class Reordering(Patch):
    """Base of ablations that run the blocks in another order, some of them several times or not at all."""

    @abstractmethod
    def order(self, n_layers: int) -> Sequence[int]:
        """The blocks to run instead of 0 to n_layers - 1.

        Raises:
            InputError: the model lacks one of these layers.
        """

    def hooks(self, model: Any, batch: Any = None) -> list[Hook]:
        raise OrderAlone(
            f"{self} runs blocks in another order, which hooks cannot do; use run(model, prompts, patches=[...]) or "
            "`with patch.on(model)`."
        )


@dataclass(frozen=True)
class Swap(Reordering):
    """Run layer i + 1 before layer i."""

    layer: int

    def order(self, n_layers: int) -> list[int]:
        (layer,) = resolved_layers(self.layer, n_layers, self)
        resolved_layers(layer + 1, n_layers, self)
        return [*range(layer), layer + 1, layer, *range(layer + 2, n_layers)]


@dataclass(frozen=True)
class Reorder(Reordering):
    """Run all layers, each once, in another order: `to[0]` first."""

    to: tuple[int, ...]

    def order(self, n_layers: int) -> tuple[int, ...]:
        order = resolved_layers(self.to, n_layers, self)
        if sorted(order) != list(range(n_layers)):
            raise InputError(f"{self} is not an order of layers 0-{n_layers - 1}; name each layer once.")
        return order

    @property
    def kendall_tau(self) -> float:
        """Rank correlation of the order with the model's own: 1 if nothing moves, -1 if the order is reversed."""
        n = len(self.to)
        turned = sum(a > b for i, a in enumerate(self.to) for b in self.to[i + 1 :])
        return 1 - 4 * turned / (n * (n - 1)) if n > 1 else 1.0


@dataclass(frozen=True)
class Replace(Reordering):
    """Run layer `source` in place of layer `layer` (`source` also runs in its own place)."""

    layer: int
    source: int

    def order(self, n_layers: int) -> list[int]:
        layer, source = resolved_layers((self.layer, self.source), n_layers, self)
        return [source if i == layer else i for i in range(n_layers)]


@dataclass(frozen=True)
class Repeat(Reordering):
    """Run each of `length` layers from `start` on `times` more times in its place: 5-5-6-6-7-7 (section 5.4)."""

    start: int
    length: int
    times: int = 1

    def order(self, n_layers: int) -> list[int]:
        if self.times < 1 or self.length < 1:
            raise InputError(f"{self} repeats nothing of layers 0-{n_layers - 1}; length and times must be at least 1.")
        (start,) = resolved_layers(self.start, n_layers, self)
        (last,) = resolved_layers(start + self.length - 1, n_layers, self)
        return [i for i in range(n_layers) for _ in range(1 + self.times if start <= i <= last else 1)]
