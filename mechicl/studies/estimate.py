"""What a study will need of this machine, said before it begins: memory by its sizes, time by a piece that is timed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from mechicl.engines.cost import forward_flops
from mechicl.engines.wavefront import RESIDUAL_BYTES
from mechicl.errors import InputError
from mechicl.limits import free_bytes, in_words, pass_bytes, prompts_that_fit
from mechicl.models import HookedModel, frozen, graph_bytes, prompts_at_once
from mechicl.models.seam import Sizes
from mechicl.studies.work import Extent, Work

_TIMED_FLOPS = 2e8
"""Operations that are timed: some hundredths of a second on one core."""


@dataclass(frozen=True)
class Estimate:
    """Memory and time of a study that is about to begin."""

    weights: int
    """Bytes of the model's weights, which are loaded."""
    memory: int
    """Bytes that its passes take beside them, about; on the safe side by half."""
    free: int | None
    """Bytes that are free; None where there is no telling."""
    flops: float
    """Operations in all: blocks and logits."""
    seconds: float
    """About, by the rate at which one block and the unembedding were timed."""
    beside: str = ""
    """What takes time and is not counted."""

    def __str__(self) -> str:
        free = "" if self.free is None else f", {in_words(self.free)} are free"
        rate = f"{_si(self.flops)}FLOP; a block and the unembedding were timed here"
        more = f", {self.beside} not counted" if self.beside else ""
        return (
            f"about {in_words(self.memory)} of memory beside the weights' {in_words(self.weights)}{free}; "
            f"about {_duration(self.seconds)} ({rate}{more})"
        )


def memory_needed(net: HookedModel, work: Work, extent: Extent, batch_size: int) -> int:
    """Bytes that a batch of the study takes beside the weights, batches as small as they are going to be made.

    Raises:
        InputError: not even one sequence fits into what is free.
    """
    longest, itemsize = extent.longest_of(work), net.dtype.itemsize
    fit = prompts_that_fit(net.sizes, longest, itemsize, net.device)
    batch = batch_size if fit is None else min(batch_size, fit)
    one = pass_bytes(net.sizes, longest, itemsize)
    if work.gradients:
        kept, at_once = graph_bytes(net.sizes, longest, itemsize), prompts_at_once(net, longest)
        one += kept if at_once else kept // net.sizes.n_layers  # else block by block, computed again
        batch = min(batch, max(1, at_once))
    free = free_bytes(net.device)
    if free is not None and one > free:
        raise InputError(
            f"A sequence of {longest} tokens needs about {in_words(one)} in this study and model, and {in_words(free)} "
            f"are free on {net.device}; use shorter ones, a smaller model, or a lower dtype."
        )
    streams = (work.streams - 1) * batch * longest * net.sizes.d_model * itemsize
    return batch * one + min(streams, RESIDUAL_BYTES)


def estimate(net: HookedModel, work: Work, extent: Extent, batch_size: int) -> Estimate:
    """Count the work, and time a small piece of it; a tenth of a second or two.

    Raises:
        InputError: not even one sequence fits into what is free.
    """
    memory = memory_needed(net, work, extent, batch_size)
    sizes, rows = net.sizes, extent.rows(work)
    flops, logit_flops = extent.flops(work, sizes), 2.0 * rows * sizes.d_model * sizes.d_vocab
    seconds = 0.0
    with torch.no_grad(), frozen(net.raw):
        for length, part in extent.pieces(work, sizes):
            seconds += part / _block_rate(net, length, batch_size)
        if rows:
            seconds += rows * _seconds_a_row(net, work.readings)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in net.raw.parameters())
    return Estimate(weights, memory, free_bytes(net.device), flops + logit_flops, seconds, work.beside)


def _block_rate(net: HookedModel, length: int, batch_size: int) -> float:
    """Operations a second of the middle block, on a batch of this length, cut to what is quickly timed."""
    sizes = net.sizes

    def a_block(length: int) -> float:
        return forward_flops(sizes, length, 0, 0) / sizes.n_layers

    while length > 8 and a_block(length) > _TIMED_FLOPS:
        length //= 2
    batch = int(max(1, min(batch_size, _TIMED_FLOPS // a_block(length))))
    tokens = torch.zeros(batch, length, dtype=torch.long, device=net.device)
    with net.reordered((sizes.n_layers // 2,)):
        return batch * a_block(length) / _timed(net, lambda: net.forward(tokens))


def _seconds_a_row(net: HookedModel, readings: int) -> float:
    """Seconds of one row of logits, and of so many passes over its probabilities."""
    sizes: Sizes = net.sizes
    n = int(max(4, min(256, _TIMED_FLOPS // (2 * sizes.d_model * sizes.d_vocab))))
    resid = torch.zeros(n, sizes.d_model, dtype=net.dtype, device=net.device)
    logits = net.lens(resid)
    return (_timed(net, lambda: net.lens(resid)) + readings * _timed(net, lambda: logits.log_softmax(-1))) / n


def _timed(net: HookedModel, work: Callable[[], object]) -> float:
    """Seconds of the second and faster time."""
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        work()
        if net.device.type == "cuda":
            torch.cuda.synchronize(net.device)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _duration(seconds: float) -> str:
    if seconds < 1:
        return "a second or less"
    for size, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} seconds"


def _si(number: float) -> str:
    for size, sign in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G")):
        if number >= size:
            return f"{number / size:.{0 if number >= 10 * size else 1}f} {sign}"
    return f"{number / 1e6:.0f} M"
