"""Exchange: chosen tokens gather, in chosen layers, what tokens of another prompt gather.

Unlike isolation, it cuts nothing, makes no attention sink, and gives tokens only activations that occur in the model.
With the same label word in both prompts, its residual, keys and values in the first layers are the other prompt's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechicl.doors import door
from mechicl.errors import InputError
from mechicl.hooks import Hook, Patch, Probe, Scope, Watch, resolved_layers, run, watch_points
from mechicl.models import hooked
from mechicl.patches.isolate import Isolate, IsolateLabels, Span
from mechicl.prompts import Prompt, PromptBatch, PromptSet


@dataclass(frozen=True, eq=False, repr=False)
class Exchange(Patch):
    """Attention writes to the tokens of an isolation what it writes to those of another prompt. See `exchange`."""

    isolation: Isolate
    """The tokens and layers; its mode is ignored."""
    donors: Mapping[Prompt, Prompt] = field(hash=False)
    """Each prompt's donor; its i-th token goes to the i-th, starting over if the donor has fewer. Label words get what
    those of the same class gathered, where the donor has that class.
    """
    outputs: Mapping[Prompt, Float[Tensor, "layer token d_model"]] = field(hash=False)
    """For each donor, what attention writes to its tokens."""

    def __repr__(self) -> str:
        return f"Exchange({self.isolation!r})"

    @property
    def scope(self) -> Scope:
        return self.isolation.scope

    def _tokens(self, prompt: Prompt, n: int) -> list[int]:
        """For each of the n isolated tokens of a prompt, the index of the donor's token in its place."""
        donor, given = self.donors[prompt], self.outputs[self.donors[prompt]].shape[1]
        if not isinstance(self.isolation, IsolateLabels):
            return [i % given for i in range(n)]
        own, theirs = (_classes(one, self.isolation.span) for one in (prompt, donor))
        chosen = []
        for i, class_ in enumerate(own):
            alike = [j for j, other in enumerate(theirs) if other == class_] or range(given)
            chosen.append(alike[own[:i].count(class_) % len(alike)])
        return chosen

    def hooks(self, model: Any, batch: PromptBatch) -> list[Hook]:
        layers = _layers(self.isolation, model)
        if any(prompt not in self.donors for prompt in batch.prompts):
            raise InputError("Exchange has no donor for one of the prompts; give one for every prompt.")
        outputs = [self.outputs[self.donors[prompt]] for prompt in batch.prompts]
        hooks: list[Hook] = []
        for place, layer in enumerate(layers):
            rows = _rows(self.isolation, batch, layer)
            chosen = [self._tokens(prompt, rows.shape[1]) for prompt in batch.prompts]
            given = torch.stack([one[place, own] for one, own in zip(outputs, chosen, strict=True)])
            hooks.append((f"blocks.{layer}.hook_attn_out", partial(_write, rows, given)))
        return hooks


@door
def exchange(model: Any, isolation: Isolate, donors: Mapping[Prompt, Prompt], *, batch_size: int = 16) -> Exchange:
    """Read what attention writes to the tokens that `isolation` names in each donor, and give it to the prompts'.

    Raises:
        InputError: a donor lacks such tokens, or the donors differ in their classes.
    """
    prompts, probe = PromptSet.of(list(dict.fromkeys(donors.values()))), _Written(isolation)
    outputs: dict[Prompt, Tensor] = {}
    for indices in prompts.chunks(batch_size):  # prompts of a batch have the same number of label words
        part = prompts.select(indices)
        values = run(model, part, [probe], batch_size=batch_size, progress=None)[probe].values
        if not values.shape[2]:
            raise InputError("A donor has no label words to exchange; give prompts with demonstrations.")
        outputs.update(zip(part, values, strict=True))
    return Exchange(isolation, donors, outputs)


@dataclass(frozen=True)
class _Written(Probe):
    """What attention writes to the tokens of an isolation, in its layers."""

    isolation: Isolate
    axes = ("prompt", "layer", "token", "d_model")
    units = {"attn_out": "activation"}

    def watch(self, model: Any, batch: PromptBatch) -> Watch:
        layers = _layers(self.isolation, model)
        rows = [_rows(self.isolation, batch, layer) for layer in layers]
        index = torch.arange(len(batch), device=batch.device)[:, None]
        return watch_points(
            [(f"blocks.{layer}.hook_attn_out",) for layer in layers],
            reduce=lambda place, written: written[index, rows[place]], coordinates={"layer": layers},
        )  # fmt: skip


def _classes(prompt: Prompt, span: Span) -> list[int]:
    """The class of each token that `IsolateLabels` isolates."""
    pairs = zip(prompt.demonstrations, prompt.anchor_classes, strict=True)
    return [class_ for one, class_ in pairs for _ in (one.label if span == "label" else (one.anchor,))]


def _layers(isolation: Isolate, model: Any) -> tuple[int, ...]:
    return resolved_layers(isolation.layers, hooked(model).sizes.n_layers, "Exchange")


def _rows(isolation: Isolate, batch: PromptBatch, layer: int) -> Int[Tensor, "batch token"]:
    rows = [list(isolation.rows(prompt, layer)) for prompt in batch.prompts]
    if len(set(map(len, rows))) > 1:
        raise InputError(
            "Exchange needs the same number of label-word tokens in every prompt of a batch, and these prompts differ; "
            'use span="anchor", or run the prompts one by one.'
        )
    return torch.tensor(rows, dtype=torch.long, device=batch.device)


def _write(rows: Tensor, given: Tensor, written: Tensor, hook: Any) -> Tensor:
    index = torch.arange(len(rows), device=written.device)[:, None]
    return written.index_put((index, rows), given.to(written))
