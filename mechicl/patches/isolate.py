"""Isolation: chosen tokens cannot attend to anything before them, in chosen layers (section 2.2)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mechicl.doors import door
from mechicl.errors import InputError
from mechicl.hooks import Scope, as_layers
from mechicl.patches.cut_edges import CutEdges
from mechicl.prompts import Prompt, PromptBatch, generator_of

Pool = Literal["all", "demo_text", "demo_template"]
Resample = Literal["per_layer", "per_prompt", "per_seed"]
Span = Literal["anchor", "label"]


@door
def isolation_mask(rows: Int[Tensor, "batch row"], n_pos: int) -> Bool[Tensor, "batch query key"]:
    """True where an edge is cut: from a position in `rows` to every position before it. Negative rows are ignored.

    A position always keeps its edge to itself, so every row has something to attend to.
    """
    position = torch.arange(n_pos, device=rows.device)
    isolated = (position[None, :, None] == rows[:, None, :]).any(-1)
    return isolated[:, :, None] & (position[None, :] < position[:, None])


@dataclass(frozen=True)
class Isolate(CutEdges):
    """Base of all isolations: chosen tokens attend only to themselves."""

    @abstractmethod
    def rows(self, prompt: Prompt, layer: int) -> Sequence[int]:
        """Positions to isolate in this prompt and layer."""

    def edges(self, batch: PromptBatch, layers: tuple[int, ...]) -> Iterator[Bool[Tensor, "batch query key"]]:
        if not isinstance(batch, PromptBatch):
            raise InputError(f"{type(self).__name__} isolates tokens of a prompt; give it a batch of prompts.")
        masks: dict[tuple[tuple[int, ...], ...], Tensor] = {}  # layers that cut the same rows share a mask
        for layer in layers:
            rows = tuple(tuple(self.rows(prompt, layer)) for prompt in batch.prompts)
            if rows not in masks:
                padded = pad_sequence([torch.tensor(row, dtype=torch.long) for row in rows], True, padding_value=-1)
                masks[rows] = isolation_mask(padded.to(batch.device), batch.tokens.shape[1])
            yield masks[rows]


@dataclass(frozen=True)
class IsolateLabels(Isolate):
    """Isolate the label words: their anchor sub-token (the paper), or all their sub-tokens with `span="label"`."""

    span: Span = "anchor"
    scope = "demonstrations"

    def rows(self, prompt: Prompt, layer: int) -> Sequence[int]:
        return label_tokens(prompt, self.span)


@dataclass(frozen=True)
class IsolateTemplate(Isolate):
    """Isolate template tokens of the demonstrations.

    These are all of them; only the separators (":", line breaks) or only the words; or, in each demonstration, the
    token right before or after its label word.
    """

    which: Literal["all", "separators", "words", "before_label", "after_label"] = "all"
    scope = "demonstrations"

    def rows(self, prompt: Prompt, layer: int) -> Sequence[int]:
        if self.which == "all":
            return prompt.template_positions
        separators = set(prompt.separator_positions)
        if self.which == "separators":
            chosen = separators
        elif self.which == "words":
            chosen = set(prompt.template_positions) - separators if separators else set()
        elif self.which == "before_label":
            chosen = {one.label[0] - 1 for one in prompt.demonstrations} & set(prompt.template_positions)
        else:
            chosen = {one.label[-1] + 1 for one in prompt.demonstrations} & set(prompt.template_positions)
        if not chosen:
            raise InputError(f"IsolateTemplate({self.which!r}): the prompt knows no such token; build it from a task.")
        return sorted(chosen)


@dataclass(frozen=True)
class IsolateRandom(Isolate):
    """The control: random tokens, as many as `IsolateLabels` isolates with this span (Fig. 4, "random").

    The pool is all positions before q except label words and the last token before q (the authors' pool, `"all"`, which
    includes query text and position 0), or the text or template tokens of the demonstrations. Draws depend only on the
    seed and the prompt, not on batches or the order of prompts. They are made anew in every layer (the authors' code),
    once per prompt (default: then a token is isolated throughout, as label words are), or once for all prompts with the
    same demonstrations (only for pools within them).
    """

    seed: int = 0
    pool: Pool = "all"
    resample: Resample = "per_prompt"
    span: Span = "anchor"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resample == "per_seed" and self.pool == "all":
            raise InputError('IsolateRandom: resample="per_seed" needs a pool within the demonstrations.')

    @property
    def scope(self) -> Scope:
        return "demonstrations" if self.resample == "per_seed" else "anywhere"

    def rows(self, prompt: Prompt, layer: int) -> Sequence[int]:
        labels = label_tokens(prompt, self.span)
        pool, n_draws = [place for place in random_pool(prompt, self.pool) if place not in labels], len(labels)
        if len(pool) < n_draws:
            raise InputError(f"IsolateRandom: the pool {self.pool!r} has {len(pool)} tokens, {n_draws} are needed.")
        tokens = prompt.tokens[: prompt.query_start] if self.resample == "per_seed" else prompt.tokens
        generator = generator_of(tokens, self.seed, *([layer] if self.resample == "per_layer" else []))
        return [int(position) for position in generator.choice(pool, n_draws, replace=False)]


@dataclass(frozen=True)
class IsolatePositions(Isolate):
    """Isolate given positions: for each prompt, a tuple of positions per entry of `layers`."""

    positions: Mapping[Prompt, Sequence[Sequence[int]]] = field(default_factory=dict, hash=False, kw_only=True)

    def rows(self, prompt: Prompt, layer: int) -> Sequence[int]:
        if prompt not in self.positions:
            raise InputError("IsolatePositions has no positions for one of the prompts; give them for every prompt.")
        rows = self.positions[prompt][as_layers(self.layers, "IsolatePositions").index(layer)]
        if outside := [place for place in rows if not 0 <= place < len(prompt)]:
            raise InputError(f"IsolatePositions has position {outside[0]} of a prompt of {len(prompt)} tokens.")
        return rows


@dataclass(frozen=True)
class CutRandomEdges(CutEdges):
    """The control by edges: as many edges as the isolation of label words cuts, but of other demonstration rows.

    The draw depends only on the seed and the demonstrations, and is the same in every layer. An edge connects a token
    to one before it; if there are too few, all are cut.
    """

    seed: int = 0
    span: Span = "anchor"
    scope = "demonstrations"

    def edges(self, batch: PromptBatch, layers: tuple[int, ...]) -> list[Bool[Tensor, "batch query key"]]:
        mask = torch.zeros(*batch.tokens.shape, batch.tokens.shape[1], dtype=torch.bool)
        for of_prompt, prompt in zip(mask, batch.prompts, strict=True):
            labels = label_tokens(prompt, self.span)
            rows = sorted(set(range(prompt.query_start)) - set(labels))
            edges = [(row, before) for row in rows for before in range(row)]
            generator = generator_of(prompt.tokens[: prompt.query_start], self.seed)
            drawn = generator.choice(len(edges), min(sum(labels), len(edges)), replace=False)
            for place in drawn:
                of_prompt[edges[place]] = True
        return [mask.to(batch.device)] * len(layers)


def label_tokens(prompt: Prompt, span: Span) -> tuple[int, ...]:
    """Positions of the label words: their anchors, or all their tokens."""
    return prompt.anchors if span == "anchor" else tuple(prompt.label_positions)


@door
def random_pool(prompt: Prompt, pool: Pool = "all") -> list[int]:
    """Positions that the random control may draw, in order; never a label word's anchor.

    `"all"` is the authors' pool: positions 0 to q - 2.
    """
    if pool == "demo_text":
        return sorted(prompt.w)
    if pool == "demo_template":
        return sorted(prompt.template_positions)
    anchors = set(prompt.anchors)
    return [position for position in range(prompt.target - 1) if position not in anchors]


@door
def first_layers(n: int, n_layers: int) -> tuple[int, ...]:
    """The first n of the model's layers."""
    return tuple(range(_counted(n, n_layers)))


@door
def last_layers(n: int, n_layers: int) -> tuple[int, ...]:
    """The last n of the model's layers."""
    return tuple(range(n_layers - _counted(n, n_layers), n_layers))


def _counted(n: int, n_layers: int) -> int:
    if not 1 <= n <= n_layers:
        raise InputError(f"Asked for {n} layers of a model with {n_layers}; choose 1 to {n_layers}.")
    return n
