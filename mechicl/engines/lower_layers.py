"""Prompts with shared demonstrations that are changed anywhere, but only from some layer on, share the layers below.

By causality the demonstrations are the same for all prompts in every layer below the first changed or read one: there
they are run once, and each prompt adds its query. From that layer on, prompts run whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mechicl.engines.context import blocks_on
from mechicl.hooks import Pass, Patch, Probe, Run, layer_of, sweep, target_pass
from mechicl.models import Adapter, Blockwise, frozen
from mechicl.prompts import PromptSet
from mechicl.readings import Reading


def first_layer(net: Adapter, prompts: PromptSet, probes: Sequence[Probe], patches: Sequence[Patch]) -> int:
    """The lowest layer that is changed or read, from the names of the hooks."""
    batch = prompts[:1].batch(net.device)
    installed = Pass(net, patches, batch)
    hooks = installed.edits + [
        hook for probe in probes for hook in installed.hooks(probe, probe.watch(net, batch).hooks)
    ]
    return min((_layer(name, net.sizes.n_layers) for name, _ in hooks), default=net.sizes.n_layers)


def _layer(name: str, n_layers: int) -> int:
    if name.startswith(("ln_final", "unembed")):
        return n_layers
    return layer_of(name) or 0


def run_above(
    net: Blockwise,
    prompts: PromptSet,
    probes: Sequence[Probe],
    patches: Sequence[Patch],
    layer: int,
    *,
    batch_size: int,
) -> Run:
    """`mechicl.run` for prompts with the same demonstrations; nothing acts or reads below this layer."""
    n, last = prompts[0].query_start, net.sizes.n_layers
    places = torch.arange(n, device=net.device)
    with torch.no_grad(), frozen(net):
        shown = torch.tensor([prompts[0].tokens[:n]], device=net.device)
        demonstrations, past = blocks_on(net, range(layer), net.embed(shown), places, ())

    def one(part: PromptSet) -> tuple[Tensor, dict[Probe, Reading]]:
        batch = part.batch(net.device)

        def forward() -> Tensor:
            queries = batch.tokens[:, n:]
            positions = torch.arange(n, n + queries.shape[1], device=net.device)
            above, _ = blocks_on(net, range(layer), net.embed(queries, positions), positions, past)
            whole = torch.cat([demonstrations.expand(len(above), -1, -1), above], 1)
            return blocks_on(net, range(layer, last), whole, torch.arange(whole.shape[1], device=net.device), ())[0]

        return target_pass(net, batch, probes, patches, forward)

    return sweep(net, prompts, probes, one, batch_size=batch_size, progress=None)
