"""Prompts that share their demonstrations: run the demonstrations once, then only the queries.

This is exact by causality: nothing in the demonstrations depends on what follows. Patches inside the demonstrations act
while these are read; patches and probes at q act on the queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mechicl.engines.context import read_context
from mechicl.engines.lower_layers import first_layer, run_above
from mechicl.hooks import Patch, Probe, Run, run
from mechicl.hooks.doors import check_parts, prompts_of
from mechicl.models import hooked, runs_by_block
from mechicl.progress import progress as progress_bar
from mechicl.prompts import Prompt, PromptSet
from mechicl.readings import joined


def run_shared(
    model: Any,
    prompts: PromptSet | Sequence[Prompt],
    probes: Sequence[Probe] = (),
    patches: Sequence[Patch] = (),
    *,
    batch_size: int = 16,
    progress: str | None = "prompts",
) -> Run:
    """Return the same as `mechicl.run`, but run every set of demonstrations only once.

    If patches and probes act anywhere in the prompt but only from some layer on, layers below are shared. If nothing
    can be shared (a probe that needs gradients, reordered blocks, prompts without common demonstrations, an
    architecture that does not run block by block), this is `mechicl.run`, which on a CPU takes products with weights
    once for all prompts (`mechicl.models.repeated_rows`).
    """
    prompts = prompts_of(prompts)
    check_parts(probes, patches)
    net, groups = hooked(model), shared_demonstrations(prompts)
    reordered = any(patch.order(net.sizes.n_layers) is not None for patch in patches)
    whole = reordered or bool(prompts.label_tokens) or not runs_by_block(net)
    whole = whole or any(probe.objective is not None for probe in probes)
    divisible = not whole and _divisible(probes, patches)
    layer = 0 if whole or divisible or not len(prompts) else first_layer(net, prompts, probes, patches)
    if not runs_by_block(net) or not (divisible or layer) or not groups or len(prompts) < 2 * len(groups):
        return run(model, prompts, probes, patches, batch_size=batch_size, progress=progress)
    inside = [patch for patch in patches if patch.scope == "demonstrations"]
    at_target = [patch for patch in patches if patch.scope == "target"]
    parts = []
    with progress_bar(progress or "", len(prompts)) as advance:
        for indices in groups:
            members = prompts.select(indices)
            if not members[0].query_start:
                part = run(model, members, probes, patches, batch_size=batch_size, progress=None)
            elif layer:
                part = run_above(net, members, probes, patches, layer, batch_size=batch_size)
            else:
                context = read_context(model, members[0], inside)
                part = context.ask(model, members, probes, at_target, batch_size=batch_size, progress=None)
            parts.append(part)
            advance(len(indices))
    return joined_runs(parts, groups, probes)


def joined_runs(parts: Sequence[Run], groups: Sequence[Sequence[int]], probes: Sequence[Probe] = ()) -> Run:
    """Runs of groups of prompts joined into one, in the order of the groups' indices."""
    order = torch.tensor([i for indices in groups for i in indices]).argsort()
    return Run(
        torch.cat([part.label_logits for part in parts])[order],
        {probe: joined([part[probe] for part in parts], order) for probe in probes},
        parts[0].classes,
    )


def shared_demonstrations(prompts: PromptSet) -> list[tuple[int, ...]]:
    """Indices of prompts that begin with the same demonstrations, in order of appearance."""
    groups: dict[object, list[int]] = {}
    for index, prompt in enumerate(prompts):
        groups.setdefault((prompt.tokens[: prompt.query_start], prompt.demonstrations), []).append(index)
    return [tuple(group) for group in groups.values()]


def _divisible(probes: Sequence[Probe], patches: Sequence[Patch]) -> bool:
    """Whether everything acts within the demonstrations, or at the target."""
    return all(probe.scope == "target" for probe in probes) and all(patch.scope != "anywhere" for patch in patches)
