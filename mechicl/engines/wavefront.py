"""Wavefront: many patches of a model in one sweep through its blocks, equal to running each alone.

A patched pass equals the clean one up to the first changed block, so it starts as a copy of the clean residual there.
From then on all passes that have reached the same block are stacked on the batch axis and run together (a block that a
patch hooks runs by itself): each block's weights are read once for all patches. At the end each pass is compared with
the clean one in chunks of tokens; logits are never kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechicl.corpora import TokenBatch
from mechicl.display import shown
from mechicl.doors import door
from mechicl.engines.comparison import Compared, Comparison
from mechicl.engines.swap_weights import SwapWeights, exchanged
from mechicl.errors import InputError
from mechicl.hooks import Batch, Hook, Pass, Patch, layer_of
from mechicl.models import Blockwise, blockwise, frozen
from mechicl.patches.lesions import Drop, DropMany

RESIDUAL_BYTES = 2**30
"""Most bytes of live residuals; more passes are swept in several groups."""
_TOKENS_AT_ONCE = {"cpu": 2048, "cuda": 65536, "mps": 16384}
"""Tokens per call of a block: enough to fill the machine, few enough for its caches and memory."""


@door
def lesion_sweep(
    model: Any,
    tokens: Int[Tensor, "batch pos"],
    lesions: Sequence[Patch],
    *,
    lengths: Int[Tensor, "batch"] | None = None,
    top_k: int = 10,
    max_streams: int | None = None,
    clamped: bool = False,
) -> Compared:
    """Run the clean model and every ablation on the same tokens, and compare them at every position.

    Args:
        model: a HookedTransformer; hooks that are installed on it act in every pass.
        tokens: padded on the right if lengths differ.
        lesions: ablations of layers, or any patches that act inside blocks and need no prompts, each in its own pass.
        lengths: real tokens of each sequence; default: all.
        top_k: size of the sets of most probable tokens whose overlap is computed; 0 leaves it out.
        max_streams: passes alive at the same time; default: as many as fit 1 GiB of residuals.
        clamped: entropies as the authors of *Stages of Inference* compute them, from probabilities of at least 1e-9.

    Raises:
        InputError: a patch names a layer that the model lacks or acts outside the blocks, there are no patches, or the
            model can only be run whole.
        HookError: an edit never happened.
    """
    if not lesions:
        raise InputError("There is no ablation to sweep; give at least one.")
    if not len(tokens):
        raise InputError("There is no text to sweep; give at least one sequence.")
    net = blockwise(model, "lesion_sweep")
    known = torch.full((len(tokens),), tokens.shape[1]) if lengths is None else lengths
    batch = TokenBatch(tokens, known).to(net.device)
    with frozen(net), torch.no_grad():
        comparison = Comparison(net, tokens, lengths, top_k, clamped=clamped)
        for clean, *patched in residual_groups(net, batch, lesions, max_streams):
            comparison.add(clean, patched)
        return comparison.finish(lesions)


def residual_groups(
    net: Blockwise, batch: Batch, patches: Sequence[Patch], max_streams: int | None = None
) -> Iterator[list[Float[Tensor, "batch pos d_model"]]]:
    """Last residuals, under as many patches at a time as fit 1 GiB; the clean model's come first in each group."""
    first = net.embed(batch.tokens)
    at_once = max_streams or max(1, RESIDUAL_BYTES // first.nbytes - 1)
    for start in range(0, max(1, len(patches)), at_once):
        yield final_residuals(net, first, batch, patches[start : start + at_once])


class Step(NamedTuple):
    """One block to run, the patch's hooks in it, and the layer of its weights if these are not its own."""

    layer: int
    hooks: tuple[Hook, ...] = ()
    weights: int | None = None


def final_residuals(
    net: Blockwise, first: Float[Tensor, "batch pos d_model"], batch: Batch, patches: Sequence[Patch]
) -> list[Float[Tensor, "batch pos d_model"]]:
    """The last residual of the clean model, then under every single patch; `first` is the embedding."""
    base = tuple(Step(layer) for layer in range(net.sizes.n_layers))
    planned = [_program(net, patch, batch) for patch in patches]
    waiting = [_Stream(program, _agreement(program, base)) for program, _ in planned]
    clean = _Stream(base, 0, first)
    streams = [clean, *waiting]
    while True:
        for stream in waiting:
            if stream.resid is None and stream.step == clean.step:
                stream.resid = clean.resid
        running = [stream for stream in streams if stream.resid is not None and stream.step < len(stream.program)]
        if not running:
            break
        _advance(net, running, min(running, key=_Stream.urgency).next)
    for _, installed in planned:
        installed.check()
    return [stream.final() for stream in streams]


def _program(net: Blockwise, patch: Patch, batch: Batch) -> tuple[tuple[Step, ...], Pass]:
    """The steps under a patch; blocks that add nothing at any position are not run."""
    skipped: tuple[int, ...] = ()
    if isinstance(patch, Drop | DropMany) and patch.positions == "all":
        skipped = patch.layers(net.sizes.n_layers)
    installed = Pass(net, [] if skipped else [patch], batch)
    hooks: dict[int, list[Hook]] = {}
    for hook in installed.edits:
        layer = layer_of(hook[0])
        if layer is None:
            raise InputError(f"{shown(patch)} acts at {hook[0]}, outside the blocks; use run.")
        hooks.setdefault(layer, []).append(hook)
    steps = (Step(layer, tuple(hooks.get(layer, ()))) for layer in installed.order if layer not in skipped)
    if isinstance(patch, SwapWeights):
        whose = patch.weights(net.sizes.n_layers)
        steps = (Step(layer, (), None if whose[layer] == layer else whose[layer]) for layer in installed.order)
    return tuple(steps), installed


@dataclass
class _Stream:
    """One pass: its program, its progress, and the residual there (None until it diverges from the clean pass)."""

    program: tuple[Step, ...]
    step: int
    resid: Tensor | None = None

    @property
    def next(self) -> Step:
        return self.program[self.step]

    def urgency(self) -> tuple[int, int, bool]:
        """Smallest first: passes with shallow layers left must catch up before the others proceed."""
        return min(step.layer for step in self.program[self.step :]), self.next.layer, not self.next.hooks

    def final(self) -> Tensor:
        assert self.resid is not None
        return self.resid


def _agreement(program: tuple[Step, ...], base: tuple[Step, ...]) -> int:
    """Number of steps that a program shares with the clean model before they diverge."""
    pairs = enumerate(zip(program, base, strict=False))
    return next((number for number, (step, clean) in pairs if step != clean), min(len(program), len(base)))


def _advance(net: Blockwise, running: Sequence[_Stream], step: Step) -> None:
    """Run one step for every stream that takes it, stacked as far as suits the machine."""
    together = [stream for stream in running if stream.next == step]
    batch, pos, _ = together[0].final().shape
    size = max(1, _TOKENS_AT_ONCE.get(net.device.type, 16384) // (batch * pos))
    with net.hooks(step.hooks), exchanged(net, step.layer, step.layer if step.weights is None else step.weights):
        for start in range(0, len(together), size):
            group = together[start : start + size]
            stacked = torch.cat([stream.final() for stream in group])
            out = net.whole_block(step.layer, stacked)
            for stream, resid in zip(group, torch.split(out, batch), strict=True):
                stream.resid, stream.step = resid, stream.step + 1
