"""Lesions of whole layers (*Stages of Inference*, sections 3, 4.1, 5.4): left out, swapped, replaced, repeated.

A lesion is an order of steps: which blocks are run, one after the other, and whether whole. Embedding, final norm and
unembedding stay as they are. `with Swap(4).on(model): ...` changes a model for as long as the block of code lasts;
lesions that leave something out are also patches, to be combined with others in `run`; `mechicl.engines.wavefront`
runs many of them in one sweep.

A block moves with all that belongs to it: weights, norms, and settings by depth (a local window, a scale by layer). The
authors' code moves only the weights, which is the same wherever all blocks are built alike.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from mechicl.display import described
from mechicl.errors import InputError
from mechicl.hooks import Hook, Patch
from mechicl.models import Adapter, blockwise, hooked

Half = Literal["attn", "mlp"]


class Step(NamedTuple):
    """One block to be run, or, without one of its halves, a part of it."""

    layer: int
    without: Half | None = None


@dataclass(frozen=True)
class Lesion(ABC):
    """An order in which a model's blocks are run."""

    @abstractmethod
    def layers(self, n_layers: int) -> range | tuple[int, ...]:
        """The layers that the lesion names."""

    @abstractmethod
    def order(self, n_layers: int) -> tuple[Step, ...]:
        """The steps that are run instead of blocks 0 to n_layers - 1."""

    def program(self, n_layers: int) -> tuple[Step, ...]:
        """The order, once it is sure that the model has the layers.

        Raises:
            InputError: it has not.
        """
        named = self.layers(n_layers)
        if not named or not 0 <= min(named) <= max(named) < n_layers:
            raise InputError(f"{self} does not fit: this model has layers 0-{n_layers - 1}.")
        return self.order(n_layers)

    def on(self, model: Any) -> AbstractContextManager[None]:
        """A context in which the model has the lesion; afterwards it is as it was, whatever happened inside."""
        net = blockwise(model, type(self).__name__)
        return net.reordered([step.layer for step in self.program(net.sizes.n_layers)])

    def _repr_html_(self) -> str:
        return described(self)


@dataclass(frozen=True)
class _LeftOut(Lesion, Patch):
    """Lesions that zero what some blocks or halves add to the residual stream: exact as hooks."""

    def zeroed(self) -> tuple[tuple[int, tuple[Half, ...]], ...]:
        """Layers, and the halves of each that add nothing."""
        raise NotImplementedError

    def layers(self, n_layers: int) -> tuple[int, ...]:
        return tuple(layer for layer, _ in self.zeroed())

    def order(self, n_layers: int) -> tuple[Step, ...]:
        zeroed = dict(self.zeroed())
        whole = ((layer, zeroed.get(layer, ())) for layer in range(n_layers))
        return tuple(Step(layer, halves[0] if halves else None) for layer, halves in whole if len(halves) < 2)

    def hooks(self, model: Any, batch: Any = None) -> list[Hook]:
        net = hooked(model)
        check_halves(net, self.program(net.sizes.n_layers))
        there = ("attn", "mlp") if net.sizes.d_mlp else ("attn",)
        return [
            (f"blocks.{layer}.hook_{half}_out", zero_out) for layer, halves in self.zeroed() for half in halves
            if half in there
        ]  # fmt: skip

    def on(self, model: Any) -> AbstractContextManager[None]:
        net = hooked(model)
        return net.hooks(self.hooks(net))


def check_halves(net: Adapter, program: Iterable[Step]) -> None:
    """Raise InputError where a program leaves out MLPs of a model that has none: it would silently change nothing."""
    if not net.sizes.d_mlp and any(step.without == "mlp" for step in program):
        raise InputError(f"{net.name} has no MLPs that could be left out.")


def zero_out(value: Tensor, hook: Any) -> Tensor:
    """A forward hook that leaves out what a module adds."""
    return torch.zeros_like(value)


@dataclass(frozen=True)
class Drop(_LeftOut):
    """Leave a layer out: r_{i+1} = r_i at every position (the authors' zero ablation)."""

    layer: int

    def zeroed(self) -> tuple[tuple[int, tuple[Half, ...]], ...]:
        return ((self.layer, ("attn", "mlp")),)


@dataclass(frozen=True)
class DropAttention(_LeftOut):
    """Leave a layer's attention out; where blocks are sequential, its MLP then reads another input."""

    layer: int

    def zeroed(self) -> tuple[tuple[int, tuple[Half, ...]], ...]:
        return ((self.layer, ("attn",)),)


@dataclass(frozen=True)
class DropMLP(_LeftOut):
    """Leave a layer's MLP out."""

    layer: int

    def zeroed(self) -> tuple[tuple[int, tuple[Half, ...]], ...]:
        return ((self.layer, ("mlp",)),)


@dataclass(frozen=True)
class DropMany(_LeftOut):
    """Leave several layers out at once."""

    dropped: Iterable[int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "dropped", tuple(sorted(set(self.dropped))))

    def zeroed(self) -> tuple[tuple[int, tuple[Half, ...]], ...]:
        return tuple((layer, ("attn", "mlp")) for layer in self.dropped)


@dataclass(frozen=True)
class Swap(Lesion):
    """Run layer i + 1 before layer i."""

    layer: int

    def layers(self, n_layers: int) -> tuple[int, ...]:
        return (self.layer, self.layer + 1)

    def order(self, n_layers: int) -> tuple[Step, ...]:
        order = list(range(n_layers))
        order[self.layer : self.layer + 2] = [self.layer + 1, self.layer]
        return tuple(map(Step, order))


@dataclass(frozen=True)
class Reorder(Lesion):
    """Run all layers, each once, in another order: `to[0]` first."""

    to: tuple[int, ...]

    def layers(self, n_layers: int) -> tuple[int, ...]:
        return self.to

    def order(self, n_layers: int) -> tuple[Step, ...]:
        if sorted(self.to) != list(range(n_layers)):
            raise InputError(f"{self} is no order of layers 0-{n_layers - 1}; name each of them once.")
        return tuple(map(Step, self.to))

    @property
    def kendall_tau(self) -> float:
        """Rank correlation of the order with the intact one: 1 where nothing moves, -1 where all is reversed."""
        n = len(self.to)
        turned = sum(a > b for i, a in enumerate(self.to) for b in self.to[i + 1 :])
        return 1 - 4 * turned / (n * (n - 1)) if n > 1 else 1.0


@dataclass(frozen=True)
class Replace(Lesion):
    """Run layer `source` in the place of layer `layer` (`source` also stays where it is)."""

    layer: int
    source: int

    def layers(self, n_layers: int) -> tuple[int, ...]:
        return (self.layer, self.source)

    def order(self, n_layers: int) -> tuple[Step, ...]:
        return tuple(Step(self.source if layer == self.layer else layer) for layer in range(n_layers))


@dataclass(frozen=True)
class Repeat(Lesion):
    """Run each of `length` layers from `start` on `times` more times in its place: 5-5-6-6-7-7 (section 5.4)."""

    start: int
    length: int
    times: int = 1

    def layers(self, n_layers: int) -> range:
        return range(self.start, self.start + self.length)

    def order(self, n_layers: int) -> tuple[Step, ...]:
        window = self.layers(n_layers)
        if self.times < 1:
            raise InputError(f"{self} repeats nothing; times must be at least 1.")
        return tuple(Step(layer) for layer in range(n_layers) for _ in range(1 + self.times if layer in window else 1))
