"""Probes read activations, patches edit them, and both are just hooks.

A patch yields `(hook name, function)` pairs whose functions return a new value. A probe yields pairs whose functions
return nothing and keep a small statistic. The pairs are ordinary TransformerLens forward hooks, which you may also pass
to `model.run_with_hooks` yourself.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mechicl import renamed
from mechicl.corpora import TokenBatch
from mechicl.display import described, shown
from mechicl.doors import Parts
from mechicl.errors import InputError
from mechicl.hooks.layers import layer_of
from mechicl.metrics.objective import Objective
from mechicl.models import Adapter, Hook, blockwise, hooked
from mechicl.prompts import PromptBatch
from mechicl.readings import Reading, reading_of

Batch = PromptBatch | TokenBatch
"""Both have `tokens` [batch pos], padded on the right, and `lengths` [batch]."""
HookByName = tuple[str | Callable[[str], bool], Callable[..., Any]]
"""A hook with a point's name, or a filter of names, as in `run_with_hooks`."""
Scope = Literal["anywhere", "demonstrations", "target"]
"""The positions that an edit changes or a probe reads, at which a pass may be divided (`mechicl.engines`).

A part that acts at "target" touches only row q. It finds q at `batch.target` on every query axis, and label words at
`batch.anchors` on every key axis: in a pass over part of a prompt the two axes start at different positions.
"""


class Patch(metaclass=Parts):
    """An edit of activations in a forward pass. Patches are frozen dataclasses that you can print and compare."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        renamed.member(cls, "place", "scope")

    @property
    def scope(self) -> Scope:
        """Where the patch acts; "anywhere" guarantees nothing."""
        return "anywhere"

    def order(self, n_layers: int) -> Sequence[int] | None:
        """The blocks to run, in order, instead of 0 to n_layers - 1; None if hooks make the edit.

        Hooks of a patch with an order act on the blocks wherever they run.
        """
        return None

    @abstractmethod
    def hooks(self, model: Any, batch: Any) -> Sequence[HookByName]:
        """The forward hooks that make the edit for this batch; each returns a new tensor and never edits in place.

        `batch` is a PromptBatch, or a TokenBatch if the edit makes sense in running text.
        """

    @contextmanager
    def on(self, model: Any, batch: Any = None) -> Iterator[None]:
        """A context in which the model is patched; on exit the patch is always removed.

        `batch` is needed if the edit depends on the prompts or the text that the model will read.
        """
        net = hooked(model)
        patched = Pass(net, [self], batch)
        with patched.reordered(), net.hooks(patched.edits):
            yield

    def _repr_html_(self) -> str:
        return described(self)


@dataclass
class Watch:
    """A probe on one batch: its hooks, and a function that collects the reading.

    `hooks` are forward hooks. After the pass (and the backward pass, if the probe has an objective), `result` returns a
    tensor [batch ...] by name for each quantity and count that the probe declares; or just the tensor, if it declares
    only one. `coordinates` gives an axis's labels if they are not 0, 1, 2, ... `read_logits`, if given, receives the
    full-vocabulary logits at q, shape [batch d_vocab].
    """

    hooks: list[Hook]
    result: Callable[[], Tensor | Mapping[str, Tensor]]
    read_logits: Callable[[Float[Tensor, "batch d_vocab"]], None] | None = None
    coordinates: Mapping[str, Sequence[Any]] = field(default_factory=dict)


class Probe(metaclass=Parts):
    """A reader of activations. It declares the axes of its reading and the units of its quantities."""

    axes: tuple[str, ...] = ("prompt",)
    """Axes of the reading; the first is the prompt (or, for running text, the sequence)."""
    units: Mapping[str, str] = {"value": ""}
    """Unit of each quantity."""
    terms: Mapping[str, str] = {}
    """For each quantity that is a mean, the name of its count in the result."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        renamed.member(cls, "place", "scope")

    def __post_init__(self) -> None:
        """Convert lists to tuples, because a reading is looked up by its (hashable) probe."""
        for name, value in vars(self).items():
            if isinstance(value, list | range):
                object.__setattr__(self, name, tuple(value))

    @property
    def scope(self) -> Scope:
        """Where the probe reads; "anywhere" guarantees nothing."""
        return "anywhere"

    @property
    def objective(self) -> Objective | None:
        """The scalar whose gradient the probe needs, or None for a forward-only probe."""
        return None

    @abstractmethod
    def watch(self, model: Any, batch: Any) -> Watch:
        """Hooks that immediately reduce what they see, on the device, and keep only the reading.

        `batch` is a PromptBatch, or a TokenBatch if the probe reads running text.
        """

    def reading(self, watch: Watch, batch: Any) -> Reading:
        """The reading of one batch.

        Raises:
            InputError: the result does not match the probe's declaration.
        """
        rows, name = len(batch.tokens), type(self).__name__
        first = "sequence" if isinstance(batch, TokenBatch) else "prompt"
        axes = tuple(first if axis in ("prompt", "sequence") else axis for axis in self.axes)
        return reading_of(name, axes, self.units, self.terms, watch.result(), watch.coordinates, rows)

    def _repr_html_(self) -> str:
        return described(self)


def watch_layers(model: Any, *sites: str, reduce: Callable[..., Tensor], **more: Any) -> Watch:
    """Reduce the values at some sites of every layer, such as "attn.hook_pattern": a result [batch layer ...].

    `reduce` gets the layer and the values of its sites in this order, once all have fired; `more` is passed to
    `watch_points`.
    """
    layers = range(hooked(model).sizes.n_layers)
    points = [tuple(f"blocks.{layer}.{site}" for site in sites) for layer in layers]
    return watch_points(points, reduce=reduce, **more)


def watch_points(
    points: Sequence[tuple[str, ...]],
    *,
    reduce: Callable[..., Tensor],
    collect: Callable[[Tensor], Tensor | Mapping[str, Tensor]] = lambda result: result,
    coordinates: Mapping[str, Sequence[Any]] | None = None,
) -> Watch:
    """Reduce the values at each group of hook points.

    Args:
        points: the names of each group; a group of one is the usual case.
        reduce: maps a group's number and values to what is kept: [batch ...].
        collect: turns what was kept into quantities: [batch point ...].
        coordinates: an axis's labels, if they are not 0, 1, 2, ...
    """
    waiting: dict[int, dict[str, Tensor]] = {}
    kept: dict[int, Tensor] = {}

    def hook_at(number: int, name: str) -> Callable[..., None]:
        def see(value: Tensor, hook: Any) -> None:
            values = waiting.setdefault(number, {})
            values[name] = value.detach()
            if len(values) == len(points[number]):
                values = waiting.pop(number)
                kept[number] = reduce(number, *(values[each] for each in points[number]))

        return see

    hooks = [(name, hook_at(number, name)) for number, group in enumerate(points) for name in group]

    def result() -> Tensor | Mapping[str, Tensor]:
        return collect(torch.stack([kept[number] for number in range(len(points))], 1))

    return Watch(hooks, result, coordinates=coordinates or {})


class OrderAlone(InputError):
    """Hooks were requested of a patch that only reorders blocks, which hooks cannot do."""


class HookError(InputError):
    """A requested hook never fired: the edit did not happen, or there is nothing to read."""


class Pass:
    """Everything that one pass installs on a model: the hooks of patches and probes, and the order of its blocks.

    Filters are expanded into names of hook points, return values of edits are checked, and a hook that never fires is
    detected. A run started from inside a hook is separate: it neither sees nor feeds these hooks.

    Raises:
        InputError: the model lacks a hook point, two patches reorder blocks, or a part's block is left out; the message
            names the part.
    """

    def __init__(self, net: Adapter, patches: Sequence[Patch], batch: Any) -> None:
        self._net, self._busy = net, False
        self._waiting: list[tuple[Patch | Probe, Any, set[str]]] = []
        n_layers = net.sizes.n_layers
        orders = [(patch, order) for patch in patches if (order := patch.order(n_layers)) is not None]
        if len(orders) > 1:
            both = " and ".join(shown(patch) for patch, _ in orders[:2])
            raise InputError(f"{both} both set the order of blocks; give one of them.")
        self.order: Sequence[int] = orders[0][1] if orders else range(n_layers)
        self._reordering = orders[0][0] if orders else None
        self.edits = [hook for patch in patches for hook in self.hooks(patch, self._edits(patch, batch))]

    def _edits(self, patch: Patch, batch: Any) -> Sequence[HookByName]:
        """A patch's hooks; empty if it only changes the order of blocks."""
        try:
            return patch.hooks(self._net, batch)
        except OrderAlone:
            return ()

    @cached_property
    def _names(self) -> frozenset[str]:
        return self._net.hook_names()

    def reordered(self) -> AbstractContextManager[None]:
        """A context in which the blocks run in this pass's order."""
        if self._reordering is None:
            return nullcontext()
        return blockwise(self._net, type(self._reordering).__name__).reordered(self.order)

    def hooks(self, part: Patch | Probe, hooks: Iterable[HookByName]) -> list[Hook]:
        """Hooks of one part, ready to be installed."""
        ready: list[Hook] = []
        for point, function in hooks:
            names = self._matching(point) if callable(point) else [point]
            if not names:
                raise InputError(
                    f"{_name(part)} chooses hook points by a filter that matches none of {self._net.name}'s; "
                    "mi.models.hooked(model).hook_names() lists them."
                )
            fired: set[str] = set()  # at least one of a filter's points has to fire
            self._waiting.append((part, point, fired))
            for name in names:
                self._check_name(part, name)
                ready.append((name, self._watched(part, name, function, fired)))
        return ready

    def _matching(self, point: Callable[[str], bool]) -> list[str]:
        """One name per hook point that a filter matches; a TransformerBridge has several names for some."""
        names = sorted(filter(point, self._names))
        distinct = getattr(self._net, "distinct", list)
        return list(distinct(names))

    def _check_name(self, part: Patch | Probe, name: str) -> None:
        if name not in self._names:
            try:
                with self._net.hooks([(name, lambda value, hook: None)]):
                    pass
            except InputError as error:
                raise InputError(f"{_name(part)}: {error}") from None
        layer, last = layer_of(name), self._net.sizes.n_layers - 1
        if self._reordering is None or layer is None:
            return
        runs, reads = list(self.order).count(layer), isinstance(part, Probe)
        order = shown(self._reordering)
        if not runs or (reads and runs > 1):
            how = f"runs {runs} times" if runs else "leaves out"
            raise InputError(f"{_name(part)} acts on block {layer}, which {order} {how}; choose other layers.")
        if reads and name == f"blocks.{last}.hook_resid_post" and self.order[-1] != last:
            raise InputError(f"{_name(part)} reads the residual after block {last}, which {order} does not run last.")

    def _watched(
        self, part: Patch | Probe, name: str, function: Callable[..., Any], fired: set[str]
    ) -> Callable[..., Any]:
        def watched(value: Tensor, hook: Any) -> Any:
            if self._busy:
                return None
            fired.add(name)
            self._busy = True
            try:
                edited = function(value, hook=hook)
            finally:
                self._busy = False
            return _checked(part, name, value, edited) if isinstance(part, Patch) else None

        return watched

    def check(self) -> None:
        """Raise HookError if a hook never fired."""
        for part, point, fired in self._waiting:
            if not fired:
                where = "Every hook point that its filter matches" if callable(point) else f"Hook point {point!r}"
                raise HookError(
                    f"{where} exists but never fired in {self._net.name}, so {_name(part)} had no effect; "
                    "choose a hook point on this architecture's path."
                )


def _name(part: Patch | Probe) -> str:
    return type(part).__name__ if isinstance(part, Probe) else shown(part)


def _checked(part: Patch, name: str, value: Tensor, edited: Any) -> Tensor:
    """An edit's return value, after checking that it can replace the original value."""
    if isinstance(edited, Tensor) and _kind(edited) == _kind(value):
        return edited
    shape, dtype, device = _kind(value)
    returned = " ".join(map(str, _kind(edited))) if isinstance(edited, Tensor) else type(edited).__name__
    raise InputError(
        f"{shown(part)} returned {returned} at {name}; an edit returns a tensor like the value that it is given, "
        f"{shape} {dtype} {device}."
    )


def _kind(value: Tensor) -> tuple[torch.Size, torch.dtype, torch.device]:
    return value.shape, value.dtype, value.device
