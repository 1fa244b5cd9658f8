"""Wavefront: every lesion of a model in one sweep through its blocks, equal to running each alone.

A lesioned pass is the intact one up to the lesion, so it starts as a copy of the intact residual there. From then on
all passes that have reached the same block are stacked on the batch axis and run together: each block's weights are
read once for all lesions. At the end each pass is compared with the intact one in chunks of tokens; logits are never
kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechicl.engines.comparison import Compared, Comparison
from mechicl.errors import InputError
from mechicl.models import Blockwise, blockwise, frozen
from mechicl.patches.lesions import Lesion, Step, check_halves, zero_out

RESIDUAL_BYTES = 2**30
"""Bytes of live residuals; more lesions than that are swept in several groups."""
_TOKENS_AT_ONCE = {"cpu": 2048, "cuda": 65536, "mps": 16384}
"""Tokens that a block is given at a time: enough to fill the machine, few enough for its caches and memory."""


def lesion_sweep(
    model: Any,
    tokens: Int[Tensor, "batch pos"],
    lesions: Sequence[Lesion],
    *,
    lengths: Int[Tensor, "batch"] | None = None,
    top_k: int = 10,
    max_streams: int | None = None,
) -> Compared:
    """Run the intact model and every lesion on the same tokens, and compare them at every position.

    Args:
        model: a HookedTransformer; hooks that are installed on it act in every pass.
        tokens: padded on the right, where lengths differ.
        lesions: any mixture, each in a pass of its own.
        lengths: real tokens of each sequence; default: all.
        top_k: size of the sets of most probable tokens whose overlap is taken; 0 leaves it out.
        max_streams: passes alive at the same time; default: as many as fit 1 GiB of residuals.

    Raises:
        InputError: a lesion names a layer that the model does not have, there is none, or the model can only be run
            whole.
    """
    if not lesions:
        raise InputError("There is no lesion to sweep; give at least one.")
    net = blockwise(model, "lesion_sweep")
    n_layers = net.sizes.n_layers
    programs = [lesion.program(n_layers) for lesion in lesions]
    for program in programs:
        check_halves(net, program)
    with frozen(net), torch.no_grad():
        first = net.embed(tokens)
        at_once = max_streams or max(1, RESIDUAL_BYTES // first.nbytes - 1)
        comparison = Comparison(net, tokens, lengths, top_k)
        for start in range(0, len(programs), at_once):
            finals = final_residuals(net, first, programs[start : start + at_once])
            comparison.add(finals[0], finals[1:])
        return comparison.finish(lesions)


def final_residuals(
    net: Blockwise, first: Float[Tensor, "batch pos d_model"], programs: Sequence[tuple[Step, ...]]
) -> list[Float[Tensor, "batch pos d_model"]]:
    """The last residual of the intact model, and of every program, in that order."""
    base = tuple(Step(layer) for layer in range(net.sizes.n_layers))
    waiting = [_Stream(program, _agreement(program, base)) for program in programs]
    intact = _Stream(base, 0, first)
    streams = [intact, *waiting]
    while True:
        for stream in waiting:
            if stream.resid is None and stream.at == intact.at:
                stream.resid = intact.resid
        running = [stream for stream in streams if stream.resid is not None and stream.at < len(stream.program)]
        if not running:
            return [stream.final() for stream in streams]
        _advance(net, running, min(running, key=_Stream.urgency).next)


@dataclass
class _Stream:
    """One pass: its program, how far it is, and the residual there (None before it parts from the intact pass)."""

    program: tuple[Step, ...]
    at: int
    resid: Tensor | None = None

    @property
    def next(self) -> Step:
        return self.program[self.at]

    def urgency(self) -> tuple[int, int, bool]:
        """Smallest first: who has shallow layers left to run must catch up before the others move on."""
        return min(step.layer for step in self.program[self.at :]), self.next.layer, self.next.without is None

    def final(self) -> Tensor:
        assert self.resid is not None
        return self.resid


def _agreement(program: tuple[Step, ...], base: tuple[Step, ...]) -> int:
    """Steps that a program shares with the intact model before they part."""
    pairs = enumerate(zip(program, base, strict=False))
    return next((at for at, (own, intact) in pairs if own != intact), min(len(program), len(base)))


def _advance(net: Blockwise, running: Sequence[_Stream], step: Step) -> None:
    """Run one step for every stream that is to take it, stacked as far as the machine likes."""
    together = [stream for stream in running if stream.next == step]
    batch, pos, _ = together[0].final().shape
    size = max(1, _TOKENS_AT_ONCE.get(net.device.type, 16384) // (batch * pos))
    left_out = [] if step.without is None else [(f"blocks.{step.layer}.hook_{step.without}_out", zero_out)]
    with net.hooks(left_out):
        for start in range(0, len(together), size):
            group = together[start : start + size]
            stacked = torch.cat([stream.final() for stream in group])
            out = net.whole_block(step.layer, stacked)
            for stream, resid in zip(group, torch.split(out, batch), strict=True):
                stream.resid, stream.at = resid, stream.at + 1
