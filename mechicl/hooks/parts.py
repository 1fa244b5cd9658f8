"""Probes read, patches write, and both are nothing but hooks.

A patch yields `(hook name, function)` pairs whose functions return a new value. A probe yields pairs whose functions
return nothing and keep a small statistic. The pairs are ordinary TransformerLens forward hooks: they may as well be
passed to `model.run_with_hooks` by hand.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechicl.corpora import TokenBatch
from mechicl.display import described
from mechicl.errors import InputError
from mechicl.metrics.objective import Objective
from mechicl.models import Adapter, Hook
from mechicl.prompts import PromptBatch

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

    `hooks` are forward hooks. `read_logits`, if given, receives the full-vocabulary logits at q, shape [batch d_vocab].
    `result` returns the reading, shape [batch ...], after the pass (and the backward pass, where the probe has an
    objective).
    """

    hooks: list[Hook]
    result: Callable[[], Tensor]
    read_logits: Callable[[Float[Tensor, "batch d_vocab"]], None] | None = None


class Probe(ABC):
    """Something that can be read from a pass. `axes` names the axes of its reading; the first is its prompt's (or, of
    running text, its sequence's).
    """

    axes: tuple[str, ...] = ("prompt",)

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

    def _repr_html_(self) -> str:
        return described(self)


def watch_points(points: Sequence[str], read: Callable[[int, Tensor], Tensor]) -> Watch:
    """Read at each of some hook points, such as that of every layer: a reading [batch point ...].

    `read` is given the number of the point and the value there, and returns [batch ...].
    """
    found: dict[int, Tensor] = {}

    def at(number: int) -> Callable[..., None]:
        def see(value: Tensor, hook: Any) -> None:
            found[number] = read(number, value.detach())

        return see

    hooks = [(name, at(number)) for number, name in enumerate(points)]
    return Watch(hooks, lambda: torch.stack([found[number] for number in range(len(points))], 1).cpu())


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
