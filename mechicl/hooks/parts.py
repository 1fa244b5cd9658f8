"""Probes read, patches write, and both are nothing but hooks.

A patch yields `(hook name, function)` pairs whose functions return a new value. A probe yields pairs whose functions
return nothing and keep a small statistic. The pairs are ordinary TransformerLens forward hooks: they may as well be
passed to `model.run_with_hooks` by hand.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechicl.corpora import TokenBatch
from mechicl.display import described
from mechicl.errors import InputError
from mechicl.metrics.objective import Objective
from mechicl.models import Adapter, Hook, hooked
from mechicl.prompts import PromptBatch
from mechicl.readings import Reading, reading_of

Batch = PromptBatch | TokenBatch
"""Both have `tokens` [batch pos], padded on the right, and `lengths` [batch]."""
Place = Literal["anywhere", "demonstrations", "target"]
"""Which positions an edit changes or a reading reads, so that a pass may be divided there (`mechicl.engines`).

What is at "target" touches row q alone. It finds q at `batch.target` on every axis of queries, and label words at
`batch.anchors` on every axis of keys: in a pass over part of a prompt the two axes start at different positions.
"""


class Patch(ABC):
    """Something that can be changed in a forward pass. Patches are frozen dataclasses: printable and comparable."""

    @property
    def place(self) -> Place:
        """Where the patch acts; "anywhere" promises nothing."""
        return "anywhere"

    @abstractmethod
    def hooks(self, model: Any, batch: Any) -> list[Hook]:
        """The forward hooks that make the edit for this batch; each returns a new tensor and never edits in place.

        `batch` is a PromptBatch, or a TokenBatch where the edit makes sense in running text.
        """

    def _repr_html_(self) -> str:
        return described(self)


@dataclass
class Watch:
    """One probe at work on one batch: its hooks, and how to collect what they saw.

    `hooks` are forward hooks. `result` returns, after the pass (and the backward pass, where the probe has an
    objective), a tensor [batch ...] for each quantity and count that the probe declares, by name; or the tensor alone,
    where it declares one. `coordinates` names what stands along an axis, where that is not 0, 1, 2, ...
    `read_logits`, if given, receives the full-vocabulary logits at q, shape [batch d_vocab].
    """

    hooks: list[Hook]
    result: Callable[[], Tensor | Mapping[str, Tensor]]
    read_logits: Callable[[Float[Tensor, "batch d_vocab"]], None] | None = None
    coordinates: Mapping[str, Sequence[Any]] = field(default_factory=dict)


class Probe(ABC):
    """Something that can be read from a pass. It declares the axes of its reading, and the units of its quantities."""

    axes: tuple[str, ...] = ("prompt",)
    """The first is the prompt's (or, of running text, the sequence's)."""
    units: Mapping[str, str] = {"value": ""}
    """Unit of each quantity."""
    terms: Mapping[str, str] = {}
    """Of each quantity that is a mean: the name of the count that the result holds beside it."""

    @property
    def place(self) -> Place:
        """Where the probe reads; "anywhere" promises nothing."""
        return "anywhere"

    @property
    def objective(self) -> Objective | None:
        """The scalar whose gradient the probe needs, or None for a forward-only probe."""
        return None

    @abstractmethod
    def watch(self, model: Any, batch: Any) -> Watch:
        """Hooks that reduce what they see at once, on the device, and keep only the reading.

        `batch` is a PromptBatch, or a TokenBatch where the probe reads running text.
        """

    def reading(self, watch: Watch, batch: Any) -> Reading:
        """What was read of one batch.

        Raises:
            InputError: the result is not what the probe declares.
        """
        rows, name = len(batch.tokens), type(self).__name__
        return reading_of(name, self.axes, self.units, self.terms, watch.result(), watch.coordinates, rows)

    def _repr_html_(self) -> str:
        return described(self)


def watch_layers(model: Any, *sites: str, reduce: Callable[..., Tensor], **more: Any) -> Watch:
    """Reduce the values at some sites of every layer, such as "attn.hook_pattern": a result [batch layer ...].

    `reduce` is given the layer and the values of its sites in this order, once all are there; `more` is that of
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
        reduce: given the number of a group and its values, returns what is kept: [batch ...].
        collect: makes the quantities of what was kept: [batch point ...].
        coordinates: what stands along an axis, where that is not 0, 1, 2, ...
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


def neurons_by_layer(net: Adapter, neurons: Sequence[tuple[int, int]]) -> dict[int, Int[Tensor, " neuron"]]:
    """MLP neurons (layer, index) as the indices of each layer, both in order, on the model's device.

    Raises:
        InputError: there are none, or the model does not have one of them.
    """
    sizes = net.sizes
    beyond = [n for n in neurons if not (0 <= n[0] < sizes.n_layers and 0 <= n[1] < sizes.d_mlp)]
    if beyond or not neurons:
        raise InputError(
            f"There is no neuron {beyond[0] if beyond else 'given'}; {net.name} has layers 0-{sizes.n_layers - 1} with "
            f"neurons 0-{sizes.d_mlp - 1} each."
        )
    chosen = sorted(neurons)
    per_layer = Counter(layer for layer, _ in chosen)
    index = torch.tensor([neuron for _, neuron in chosen], device=net.device)
    return dict(zip(per_layer, torch.split(index, list(per_layer.values())), strict=True))


class HookError(InputError):
    """A hook that was asked for never ran: the edit did not happen, or there is nothing to read."""


def count_firings(edits: Sequence[Hook], readings: Sequence[Hook]) -> tuple[list[Hook], Callable[[], None]]:
    """Wrap hooks so that a silent one is noticed: returns them and a check that raises HookError if any never fired."""
    hooks = [*edits, *readings]
    fired = [0] * len(hooks)
    busy = False  # a run that is started from inside a hook is another run: it neither sees nor feeds these hooks

    def counting(index: int, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(value: Tensor, hook: Any) -> Any:
            nonlocal busy
            if busy:
                return None
            fired[index] += 1
            busy = True
            try:
                return function(value, hook=hook)
            finally:
                busy = False

        return counted

    def check() -> None:
        silent = [name for (name, _), count in zip(hooks, fired, strict=True) if not count]
        if silent:
            raise HookError(
                f"Hook point {silent[0]!r} exists but never fired in this model, so what was asked of it did not "
                f"happen; choose a hook point on this architecture's path."
            )

    return [(name, counting(i, function)) for i, (name, function) in enumerate(hooks)], check
