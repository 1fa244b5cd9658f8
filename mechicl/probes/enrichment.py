"""Enrichment: saliency of label words, relative to average tokens of the same prompt.

A share of saliency (S_wp, S_pq) has no null: in an untrained model, too, most of it may be on few edges. Enrichment has
a built-in one: if saliency is spread evenly it is 1, whatever the prompt's length.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechicl.errors import InputError
from mechicl.hooks import Probe, Watch
from mechicl.metrics.objective import Objective
from mechicl.models import hooked
from mechicl.probes.saliency import HeadReduce, saliency_hooks
from mechicl.prompts import Prompt, PromptBatch, generator_of
from mechicl.readings import by_name

TOKEN_SETS = ("label words", "random text", "colon", "line break")
"""The label words; a text token of the demonstrations for each; the token before each label word; the one after."""
_NEAREST = 8
"""Number of text tokens from which a label word's match is drawn."""


def token_sets(prompt: Prompt, seed: int = 0) -> list[list[int]]:
    """Positions of each of `TOKEN_SETS` in a prompt.

    Random text is matched in position, because an early token has fewer edges, each with more attention: for each label
    word it is one of the eight nearest text tokens of the demonstrations, without repetition if possible. The draw
    depends only on the seed and the prompt's tokens. In a prompt whose text is not marked (`from_positions`), all other
    tokens of its demonstrations except the first count as text.
    """
    generator = generator_of(prompt.tokens, seed)
    unmarked = set(range(1, prompt.query_start)) - set(prompt.label_positions)
    text, matched = sorted(set(prompt.w) - {0} or unmarked), list[int]()
    for anchor in prompt.anchors:
        free = sorted(set(text) - set(matched)) or text
        nearest = sorted(free, key=lambda position: abs(position - anchor))[:_NEAREST]
        matched += [int(generator.choice(nearest))] if nearest else []
    before = [one.label[0] - 1 for one in prompt.demonstrations if one.label[0]]
    return [list(prompt.anchors), matched, before, [one.label[-1] + 1 for one in prompt.demonstrations]]


def enrichment(
    saliency: Float[Tensor, "batch query key"],
    sets: Int[Tensor, "batch set member"],
    target: Int[Tensor, "batch"],
    query_start: Int[Tensor, "batch"],
    *,
    absolute: bool = False,
) -> Float[Tensor, "batch set metric"]:
    """Reading and gathering of each set of positions (-1 fills up sets of fewer members).

    Reading: saliency per edge from the set to q, relative to an average edge to q. Gathering: saliency per edge into
    the set's tokens, relative to its mean over all tokens of the demonstrations except position 0, which no edge
    enters. Both are 1 if saliency is uniform, and 0 if a set is empty or there is no saliency (in the last layer
    nothing flows into the demonstrations). `absolute`: not relative to the average, hence in units of the loss.
    """
    below = saliency.tril(-1)
    position = torch.arange(saliency.shape[1], device=saliency.device)
    to_target = below[torch.arange(len(target), device=saliency.device), target]
    per_edge = below.sum(-1) / position.clamp(min=1)
    demonstrations = (position[None] < query_start[:, None]).float() * (position > 0)
    present = (sets >= 0).float()

    def over_average(values: Tensor, total: Tensor, n: Tensor) -> Tensor:
        of_set = (values[:, None].expand(-1, sets.shape[1], -1).gather(2, sets.clamp(min=0)) * present).sum(2)
        of_member = of_set / present.sum(2).clamp(min=1)
        average = total[:, None] / n[:, None].clamp(min=1)
        return of_member if absolute else torch.where(average > 0, of_member / average, 0)

    reading = over_average(to_target, to_target.sum(1), target)
    gathering = over_average(per_edge, (per_edge * demonstrations).sum(1), demonstrations.sum(1))
    return torch.stack([reading, gathering], -1)


@dataclass(frozen=True)
class Enrichment(Probe):
    """How much more saliency flows out of label words into q (reading), and into label words (gathering), than average.

    Reading [prompt layer set] for each of `TOKEN_SETS`, reduced inside the backward pass, which is shared with a
    `SaliencyFlow` of the same objective.
    """

    head_reduce: HeadReduce = "abs_of_sum"
    loss: Objective = field(default=Objective())
    seed: int = 0
    """Seed of the random text."""
    axes = ("prompt", "layer", "set")
    units = dict.fromkeys(("reading", "gathering"), "times an average token")

    @property
    def objective(self) -> Objective:
        return self.loss

    def watch(self, model: Any, batch: PromptBatch) -> Watch:
        layers = range(hooked(model).sizes.n_layers)
        places = _filled([token_sets(prompt, self.seed) for prompt in batch.prompts], batch)
        starts = torch.tensor([prompt.query_start for prompt in batch.prompts], device=batch.device)
        nothing = torch.zeros(len(batch), len(TOKEN_SETS), 2, device=batch.device)
        hooks, result = saliency_hooks(
            layers, self.head_reduce, nothing, lambda edges: enrichment(edges, places, batch.target, starts)
        )
        return Watch(hooks, lambda: by_name(result(), tuple(self.units)), coordinates={"set": TOKEN_SETS})


@dataclass(frozen=True)
class HeadEnrichment(Probe):
    """Reading and gathering of the label words in every head: reading [prompt layer head], of its own |A * dL/dA|.

    As a null, it can be that of another set of `TOKEN_SETS` at matched positions.
    """

    loss: Objective = field(default=Objective())
    tokens: str = "label words"
    absolute: bool = False
    """Saliency per edge in units of the loss, because a head may prefer label words but hardly matter."""
    seed: int = 0
    """Seed of the random text."""
    axes = ("prompt", "layer", "head")

    @property
    def units(self) -> dict[str, str]:  # type: ignore[override]
        return dict.fromkeys(Enrichment.units, "loss per edge") if self.absolute else Enrichment.units

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tokens not in TOKEN_SETS:
            raise InputError(f"tokens is {self.tokens!r}; it must be one of {', '.join(map(repr, TOKEN_SETS))}.")

    @property
    def objective(self) -> Objective:
        return self.loss

    def watch(self, model: Any, batch: PromptBatch) -> Watch:
        n_heads, of_set = hooked(model).sizes.n_heads, TOKEN_SETS.index(self.tokens)
        places = _filled([[token_sets(prompt, self.seed)[of_set]] for prompt in batch.prompts], batch)
        places = places.repeat_interleave(n_heads, 0)
        starts = torch.tensor([prompt.query_start for prompt in batch.prompts], device=batch.device)
        target, starts = (each.repeat_interleave(n_heads) for each in (batch.target, starts))

        def of_heads(edges: Tensor) -> Tensor:
            of_set = enrichment(edges.flatten(0, 1), places, target, starts, absolute=self.absolute)
            return of_set.view(len(batch), n_heads, 2)

        nothing = torch.zeros(len(batch), n_heads, 2, device=batch.device)
        hooks, result = saliency_hooks(range(hooked(model).sizes.n_layers), None, nothing, of_heads)
        return Watch(hooks, lambda: by_name(result(), tuple(self.units)))


def _filled(sets: list[list[list[int]]], batch: PromptBatch) -> Int[Tensor, "batch set member"]:
    """Sets of positions as a tensor, filled up with -1."""
    most = max((len(members) for of_prompt in sets for members in of_prompt), default=0)
    filled = [[[*members, *[-1] * (most - len(members))] for members in of_prompt] for of_prompt in sets]
    return torch.tensor(filled, dtype=torch.long, device=batch.device)
