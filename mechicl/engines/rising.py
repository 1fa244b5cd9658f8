"""Prompts with shared demonstrations under many lists of patches, each of which acts only from some layer on.

Below its first layer a patched pass equals the clean one, in the demonstrations and in the queries. So the clean run
rises from one list's first layer to the next's, and each list runs only the layers above: a sweep over all layers costs
half as much as separate runs. If a first layer is below the previous one, the clean run begins again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from mechicl.engines.context import Context, blocks_on, context_of
from mechicl.engines.lower_layers import first_layer
from mechicl.engines.prefix import joined_runs, run_shared, shared_demonstrations
from mechicl.engines.wavefront import RESIDUAL_BYTES
from mechicl.hooks import Pass, Patch, Probe, Run, layer_of, sweep, target_pass
from mechicl.hooks.doors import check_parts, prompts_of
from mechicl.models import Adapter, Blockwise, KeyValues, frozen, hooked, runs_by_block
from mechicl.prompts import Prompt, PromptBatch, PromptSet
from mechicl.readings import Reading


def run_each(
    model: Any,
    prompts: PromptSet | Sequence[Prompt],
    probes: Sequence[Probe],
    patch_lists: Sequence[Sequence[Patch]],
    *,
    batch_size: int = 16,
) -> Iterator[Run]:
    """Return the same as `run_shared` with each list of patches, in order.

    Layers are shared if all patches act inside the demonstrations, all probes act at the target without gradients, and
    the model runs block by block.
    """
    prompts = prompts_of(prompts)
    net, groups = hooked(model), shared_demonstrations(prompts)
    fits = not prompts.label_tokens and all(prompt.query_start for prompt in prompts)
    fits = fits and len(prompts) >= 2 * len(groups)
    fits = fits and all(probe.scope == "target" and probe.objective is None for probe in probes)
    below: list[_Below] = []
    if fits and runs_by_block(net):
        below = [_Below(net, prompts.select(indices)) for indices in groups]
    for patches in patch_lists:
        check_parts(probes, patches)
        if not below or not patches or not _inside_blocks(net, prompts, patches):
            yield run_shared(model, prompts, probes, patches, batch_size=batch_size, progress=None)
            continue
        layer = first_layer(net, prompts, probes, patches)
        parts = [one.run(probes, patches, layer, batch_size) for one in below]
        yield joined_runs(parts, groups, probes)


def _inside_blocks(net: Adapter, prompts: PromptSet, patches: Sequence[Patch]) -> bool:
    """Whether all patches act in blocks, and inside the demonstrations."""
    if any(patch.scope != "demonstrations" for patch in patches):
        return False
    edits = Pass(net, patches, prompts[:1].batch(net.device)).edits
    return all(layer_of(name) is not None for name, _ in edits)


@dataclass
class _Below:
    """The clean run of prompts with the same demonstrations, up to some layer."""

    net: Blockwise
    prompts: PromptSet
    layer: int = 0
    resid: Tensor | None = None
    """The demonstrations' residual before that layer."""
    past: list[KeyValues] = field(default_factory=list)
    """Their keys and values in every layer below."""
    queries: dict[tuple[Prompt, ...], tuple[int, Tensor]] = field(default_factory=dict)
    """The residual of each batch of queries, and the layer before which it stands."""

    def run(self, probes: Sequence[Probe], patches: Sequence[Patch], layer: int, batch_size: int) -> Run:
        """The prompts' run under patches that act from this layer on."""
        context = self._context(patches, layer)
        last = self.net.sizes.n_layers

        def one(part: PromptSet) -> tuple[Tensor, dict[Probe, Reading]]:
            batch = context.queries(part, self.net.device)
            with torch.no_grad():
                resid, positions = self._risen(part, batch, layer)

            def forward() -> Tensor:
                return blocks_on(self.net, range(layer, last), resid, positions, context.layers)[0]

            return target_pass(self.net, batch, probes, (), forward)

        return sweep(self.net, self.prompts, probes, one, batch_size=batch_size, progress=None)

    def _context(self, patches: Sequence[Patch], layer: int) -> Context:
        """The demonstrations' keys and values: clean below this layer, patched from it on."""
        whole = PromptBatch.of([self.prompts[0]], self.net.device)
        n = self.prompts[0].query_start
        batch, places = replace(whole, tokens=whole.tokens[:, :n]), torch.arange(n, device=self.net.device)
        installed = Pass(self.net, patches, batch)
        with torch.no_grad(), frozen(self.net):
            if self.resid is None or layer < self.layer:
                self.layer, self.past, self.resid = 0, [], self.net.embed(batch.tokens, places)
                self.queries.clear()
            self.resid, below = blocks_on(self.net, range(self.layer, layer), self.resid, places, ())
            self.past, self.layer = [*self.past, *below], layer
            with self.net.hooks(installed.edits):
                _, above = blocks_on(self.net, range(layer, self.net.sizes.n_layers), self.resid, places, ())
        installed.check()
        return context_of(self.net, self.prompts[0], (*self.past, *above))

    def _risen(self, part: PromptSet, batch: PromptBatch, layer: int) -> tuple[Tensor, Tensor]:
        """A batch of queries before this layer, and their positions; held for the next list if there is room."""
        n, width = self.prompts[0].query_start, batch.tokens.shape[1]
        positions = torch.arange(n, n + width, device=self.net.device)
        known = self.queries.pop(part.prompts, None)
        at, resid = known or (0, self.net.embed(batch.tokens, positions))
        resid, _ = blocks_on(self.net, range(at, layer), resid, positions, self.past)
        if sum(held.nbytes for _, held in self.queries.values()) + resid.nbytes <= RESIDUAL_BYTES:
            self.queries[part.prompts] = (layer, resid)
        return resid, positions
