"""Estimate a study's memory, from the model's sizes, and its time, from one short pass, before it begins."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch

from mechicl.corpora import TokenCorpus, WordPairs
from mechicl.engines.cost import forward_flops
from mechicl.engines.prefix import shared_demonstrations
from mechicl.errors import InputError
from mechicl.limits import duration, free_bytes, in_words, pass_bytes, prompts_that_fit
from mechicl.models import Adapter, frozen, graph_bytes, prompts_at_once
from mechicl.models.provenance import own_hooks
from mechicl.prompts import PromptSet
from mechicl.tasks.benchmarks import Benchmarks

_FLOPS = {"cpu": 1e10, "cuda": 1e12}
"""Operations in the timed pass: about a tenth of a second, less on small models."""
_LOGITS = 2**25
"""Most logits that a timed pass may produce: 128 MiB in float32."""


@dataclass(frozen=True)
class Estimate:
    """Memory and time of a study."""

    weights: int
    """Bytes of the model's weights, which are loaded already."""
    memory: int
    """Approximate bytes that a batch takes on top of the weights."""
    free: int | None
    """Free bytes; None if unknown."""
    seconds: float
    """An order of magnitude."""
    twins: int = 0
    """Bytes of an untrained twin's weights."""

    @property
    def duration(self) -> str:
        """The time as one word: seconds, minutes, hours or days."""
        return duration(self.seconds)

    def __str__(self) -> str:
        free = "" if self.free is None else f" ({in_words(self.free)} free)"
        return (
            f"Estimated memory: {in_words(self.memory)} plus {in_words(self.weights + self.twins)} of weights"
            f"{' (with those of an untrained twin)' * (self.twins > 0)}{free}. "
            f"Estimated time: {self.duration} (an order of magnitude)"
        )


def sequence_lengths(material: Any, demonstrations_once: bool = False) -> list[int]:
    """Tokens per sequence of prompts (auxiliary ones too), texts, pairs, or benchmarks (estimated from characters).

    If demonstrations are read once for all their queries, they count once, apart from the queries.
    """
    if isinstance(material, PromptSet) and demonstrations_once:
        begins = [material[group[0]].query_start for group in shared_demonstrations(material)]
        return begins + [len(prompt) - prompt.query_start for prompt in material]
    if isinstance(material, PromptSet):
        return [len(prompt) for one in (material, *material.auxiliary.values()) for prompt in one]
    if isinstance(material, Benchmarks):
        return [1 + len("".join(request)) // 4 for request in material.requests]
    corpus = material.sentences if isinstance(material, WordPairs) else material
    return corpus.lengths.tolist() if isinstance(corpus, TokenCorpus) else []


def memory_needed(
    net: Adapter, longest: int, batch_size: int, *, gradients: bool, twins: int = 0,
    held: Callable[[int], int] = lambda tokens: 0,
) -> int:  # fmt: skip
    """Bytes that a batch takes on top of the weights, with batches already reduced to fit.

    Memory must also hold the other models of this size, and whatever the study keeps of each batch.

    Raises:
        InputError: not even one sequence fits into free memory.
    """
    itemsize = net.dtype.itemsize
    fit = prompts_that_fit(net.sizes, longest, itemsize, net.device)
    batch = batch_size if fit is None else min(batch_size, fit)
    one = pass_bytes(net.sizes, longest, itemsize)
    if gradients:
        kept, at_once = graph_bytes(net.sizes, longest, itemsize), prompts_at_once(net, longest)
        one += kept if at_once else kept // net.sizes.n_layers  # else block by block, computed again
        batch = min(batch, max(1, at_once))
    others, free = twins * _weights(net) + held(longest), free_bytes(net.device)
    if free is not None and one + others > free:
        raise InputError(
            f"A sequence of {longest} tokens does not fit in this study: estimated memory {in_words(one + others)}, "
            f"free memory {in_words(free)} on {net.device}; use shorter ones, a smaller model, or a lower-precision "
            "dtype."
        )
    return batch * one + held(batch * longest)


def _weights(net: Adapter) -> int:
    """Bytes of a model's weights."""
    return sum(parameter.numel() * parameter.element_size() for parameter in net.raw.parameters())


def estimate(
    net: Adapter, lengths: Sequence[int], passes: float, batch_size: int, *, gradients: bool = False, twins: int = 0,
    held: Callable[[int], int] = lambda tokens: 0,
) -> Estimate:  # fmt: skip
    """Estimate of the given number of passes over sequences of these lengths, from one short timed pass.

    Raises:
        InputError: not even one sequence fits into free memory.
    """
    longest = max(lengths, default=1)
    memory = memory_needed(net, longest, batch_size, gradients=gradients, twins=twins, held=held)
    seconds = sum(lengths) * passes * _seconds_a_token(net, longest, batch_size) if lengths else 0.0
    return Estimate(_weights(net), memory, free_bytes(net.device), seconds, twins * _weights(net))


_timed: WeakKeyDictionary[Any, dict[tuple[Any, ...], float]] = WeakKeyDictionary()
"""Seconds per token of each model, by device, data type, threads and size of the pass; a paper's studies share them."""


def _seconds_a_token(net: Adapter, longest: int, batch_size: int) -> float:
    """Seconds of one pass with logits, over at most one batch."""
    sizes = net.sizes
    worth = _FLOPS.get(net.device.type, 1e11) // forward_flops(sizes, 1, 0, sizes.d_vocab)
    n = int(max(1, min(longest * batch_size, worth, _LOGITS // sizes.d_vocab)))
    length = min(n, longest)
    known, size = _timed.setdefault(net.raw, {}), (n // length, length)
    timed = (net.device, net.dtype, torch.get_num_threads(), *size)
    if own_hooks(net.raw):  # they take time, too
        return _timed_pass(net, *size)
    if timed not in known:
        known[timed] = _timed_pass(net, *size)
    return known[timed]


@torch.no_grad()
def _timed_pass(net: Adapter, batch: int, pos: int) -> float:
    """Seconds per token; the second, warmed-up pass counts."""
    tokens = torch.zeros(batch, pos, dtype=torch.long, device=net.device)
    seconds = []
    with frozen(net):
        for _ in range(2):
            start = time.perf_counter()
            net.lens(net.forward(tokens)).sum().item()  # which waits for a GPU
            seconds.append(time.perf_counter() - start)
    return min(seconds) / tokens.numel()
