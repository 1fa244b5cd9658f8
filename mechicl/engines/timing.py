"""Timed queries: prepared beforehand, run one at a time, and timed until the device is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechicl.engines.context import Context, forward_on
from mechicl.engines.cost import forward_flops
from mechicl.models import Adapter, Blockwise, KeyValues, blockwise, frozen
from mechicl.patches import ReweightAnchors
from mechicl.prompts import PromptBatch, PromptSet

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Ready:
    """Queries as tensors on the device, and their cached contexts."""

    batches: tuple[PromptBatch, ...]
    """One query each."""
    past: tuple[KeyValues, ...] = ()
    position: int = 0
    """Position of a query's first token."""
    patches: tuple[ReweightAnchors, ...] = ()
    """Patches that act at q."""

    @classmethod
    def whole(cls, net: Adapter, prompts: PromptSet) -> Ready:
        """Whole prompts, including demonstrations."""
        return cls(tuple(prompts.select([i]).batch(net.device) for i in range(len(prompts))))

    @classmethod
    def on(cls, net: Adapter, context: Context, prompts: PromptSet, patches: Sequence[ReweightAnchors] = ()) -> Ready:
        """The prompts' queries on top of a context."""
        batches = tuple(context.queries(prompts.select([i]), net.device) for i in range(len(prompts)))
        return cls(batches, context.layers, context.next_position, tuple(patches))

    def ask(self, net: Blockwise, index: int) -> Float[Tensor, "1 class"]:
        """Logits of the label words of one query."""
        batch = self.batches[index]
        with net.hooks([hook for patch in self.patches for hook in patch.hooks(net, batch)]):
            final, _ = forward_on(net, batch.tokens, self.position, self.past)
        return net.lens(final[:, -1], batch.label_ids)

    def flops(self, net: Adapter) -> list[int]:
        """Operations of each query (see `forward_flops`); only q is unembedded, for the label words."""
        cached = len(self.past[0]) if self.past else 0
        return [forward_flops(net.sizes, b.tokens.shape[1], cached, len(b.label_ids)) for b in self.batches]

    def __len__(self) -> int:
        return len(self.batches)


def timed(net: Adapter, work: Callable[[], T]) -> tuple[T, float]:
    """The result of the work and its seconds; the device is idle before and after."""
    _wait(net.device)
    start = time.perf_counter()
    outcome = work()
    _wait(net.device)
    return outcome, time.perf_counter() - start


def in_turn(
    model: Any, ways: Sequence[Ready], *, warm_up: int, repeats: int
) -> tuple[Float[np.ndarray, "way query"], Int[np.ndarray, "way query"]]:
    """Seconds of every query in every way, the median of its repeats, and its most probable class.

    A few queries run first as a warm-up; then the ways alternate at each query, so that all see the same machine.
    """
    net, n = blockwise(model, "in_turn"), len(ways[0])
    seconds, predicted = np.empty((len(ways), n, repeats)), np.empty((len(ways), n), dtype=int)
    with torch.no_grad(), frozen(net):
        for way in ways:
            for index in range(min(warm_up, n)):
                way.ask(net, index)
        for repeat in range(repeats):
            for index in range(n):
                for number, way in enumerate(ways):
                    logits, seconds[number, index, repeat] = timed(net, lambda way=way, i=index: way.ask(net, i))  # type: ignore[misc]
                    predicted[number, index] = int(logits.argmax())
    return np.median(seconds, axis=2), predicted


def whole_loop(model: Any, way: Ready) -> tuple[float, Int[np.ndarray, " query"]]:
    """Mean seconds of a query, from one loop over all, without warm-up and without waiting for the device; and every
    query's most probable class.
    """
    net = blockwise(model, "whole_loop")
    with torch.no_grad(), frozen(net):
        start = time.perf_counter()
        logits = [way.ask(net, index) for index in range(len(way))]
        seconds = (time.perf_counter() - start) / len(way)
    return seconds, torch.cat(logits).argmax(-1).cpu().numpy()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
