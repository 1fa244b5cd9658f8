"""One prompt: its tokens, and the positions of everything in it.

Positions are token indices into :attr:`Prompt.tokens`. The names are the paper's (Wang et al. 2023, section
2.1): *w* the words of the demonstrations, *p* the label words, *q* the target, the last token, where the
model answers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from reprlib import repr as shorten
from typing import NamedTuple

import numpy as np

from mechicl.doors import door
from mechicl.errors import InputError, check_seed, check_unicode
from mechicl.prompts.display import marked_html


def generator_of(tokens: Sequence[int], *seeds: int) -> np.random.Generator:
    """A generator for draws from a prompt that depends only on the seeds and the tokens, not on batches or order."""
    for seed in seeds:
        check_seed(seed)
    digest = hashlib.sha256(np.asarray(tokens, dtype=np.int64).tobytes()).digest()
    return np.random.default_rng([seeds[0], int.from_bytes(digest[:8], "little"), *seeds[1:]])


class PromptRows(NamedTuple):
    """The rows of the data that a prompt was made of."""

    demonstrations: tuple[int, ...] = ()
    """Row of each demonstration in its split, in prompt order."""
    query: int | None = None
    """Row of the query in its split."""


@dataclass(frozen=True)
class Demonstration:
    """One example with its answer inside a prompt; every field except the class is a token position."""

    label_class: int
    span: tuple[int, int]
    """First token of the block and the token after its last."""
    text: tuple[int, ...]
    """*w*: the tokens of the text."""
    label: tuple[int, ...]
    """*p*: every sub-token of the label word."""
    template: tuple[int, ...]
    """All other tokens of the block, with the separator that follows it."""
    anchor: int
    """The one sub-token that represents the label: the first, or the last if requested."""


@door
@dataclass(frozen=True, repr=False)
class Prompt:
    """Tokens of a prompt, and the positions of demonstrations, label words and target, known from
    construction."""

    tokens: tuple[int, ...]
    string: str
    demonstrations: tuple[Demonstration, ...]
    """Demonstrations in prompt order."""
    query_start: int
    """First token of the query's block: the tokens before it are the demonstrations."""
    query_text: tuple[int, ...]
    target: int
    """*q*, always the last token."""
    label_words: tuple[str, ...]
    """Label words as written in the prompt, in class order."""
    label_ids: tuple[int, ...]
    """Token by which each class is scored at the target: the first sub-token of its label word."""
    class_names: tuple[str, ...]
    gold: int | None = None
    offsets: tuple[tuple[int, int], ...] = ()
    """Characters of :attr:`string` that each token covers; (0, 0) for the BOS token."""
    ids: PromptRows = field(default_factory=PromptRows)
    prepend_bos: bool = False
    task: str = ""
    label_tokens: tuple[tuple[int, ...], ...] = ()
    """All tokens of every label word, if these together score a class (`score="sequence"`); else empty."""
    tokenizer_digest: str = field(default="", compare=False)
    """Digest of its tokenizer, see `mechicl.models.tokenizer_digest`; empty for a prompt made by hand."""

    def __post_init__(self) -> None:
        n = len(self.label_ids)
        if not n == len(self.class_names) == len(self.label_words):
            raise InputError("A prompt needs a scoring token, a name and a label word for each of its classes.")
        wrong = [c for c in (self.gold, *self.anchor_classes) if c is not None and not 0 <= c < n]
        if wrong:
            raise InputError(f"The class {wrong[0]} is not one of the {n} classes (counted from 0).")
        if not max((-1, *self.label_positions)) < self.target == len(self.tokens) - 1:
            raise InputError("The target of a prompt is its last token, and its label words stand before.")
        for text in (self.string, self.task, *self.class_names, *self.label_words):
            check_unicode(text, f"The text {shorten(text)} of a prompt")

    @property
    def anchors(self) -> tuple[int, ...]:
        """Position of each demonstration's anchor, in prompt order."""
        return tuple(demonstration.anchor for demonstration in self.demonstrations)

    @property
    def anchor_classes(self) -> tuple[int, ...]:
        """Class of each demonstration, in prompt order."""
        return tuple(demonstration.label_class for demonstration in self.demonstrations)

    @property
    def w(self) -> tuple[int, ...]:
        """Positions of all demonstration texts."""
        return tuple(chain.from_iterable(demonstration.text for demonstration in self.demonstrations))

    @property
    def label_positions(self) -> tuple[int, ...]:
        """Positions of all sub-tokens of all label words."""
        return tuple(chain.from_iterable(demonstration.label for demonstration in self.demonstrations))

    @property
    def template_positions(self) -> tuple[int, ...]:
        """Positions of the demonstrations' template tokens; the query's are in :attr:`query_template`."""
        return tuple(chain.from_iterable(demonstration.template for demonstration in self.demonstrations))

    @property
    def separator_positions(self) -> tuple[int, ...]:
        """Positions of the demonstrations' template tokens without a letter or digit, such as ":" and line breaks.

        Empty if the characters of the tokens are unknown.
        """
        spans = ((i, self.offsets[i]) for i in self.template_positions) if self.offsets else ()
        return tuple(i for i, (start, end) in spans if not any(map(str.isalnum, self.string[start:end])))

    @property
    def query_template(self) -> tuple[int, ...]:
        """Positions of the template tokens of the query, the target last."""
        text = set(self.query_text)
        return tuple(i for i in range(self.query_start, len(self.tokens)) if i not in text)

    @property
    def n_read(self) -> int:
        """Number of tokens read to score the classes: the prompt's and all but the last of a label word."""
        return len(self.tokens) + max((len(word) - 1 for word in self.label_tokens), default=0)

    def __len__(self) -> int:
        return len(self.tokens)

    def __repr__(self) -> str:
        shown = ", ".join(f"{self.class_names[d.label_class]}@{d.anchor}" for d in self.demonstrations[:8])
        more = ", ..." if len(self.demonstrations) > 8 else ""
        gold = "unknown" if self.gold is None else self.class_names[self.gold]
        name = self.task or "stored"
        return f"Prompt({name}: {len(self)} tokens, p=[{shown}{more}], q={self.target}, gold={gold})"

    def _repr_html_(self) -> str:
        return marked_html(self.string, self.character_roles(), repr(self))

    def character_roles(self) -> list[str]:
        """The role of each character of the text: "w", "p", "anchor", "q" or "" (template, query).

        Later roles win if two tokens share a character.
        """
        roles = [""] * len(self.string)
        marked = [("w", self.w), ("p", self.label_positions), ("anchor", self.anchors), ("q", (self.target,))]
        for role, positions in marked:
            for position in positions:
                start, stop = self.offsets[position] if self.offsets else (0, 0)
                roles[start:stop] = [role] * (stop - start)
        return roles

    @classmethod
    @door
    def from_positions(
        cls,
        tokens: Sequence[int],
        label_positions: Sequence[Sequence[int]],
        label_ids: Sequence[int],
        gold: int | None = None,
        *,
        string: str = "",
        class_names: Sequence[str] | None = None,
        label_words: Sequence[str] | None = None,
        ids: PromptRows | None = None,
        task: str = "",
    ) -> Prompt:
        """A prompt with stored tokens and label positions; its texts are unknown (w is empty).

        Args:
            tokens: Token ids, unpadded; the target is the last.
            label_positions: For each class, the positions of its anchors.
            label_ids: Scoring token of each class.
            gold: The true class, or None.

        Raises:
            InputError: There are no tokens, a position is outside the prompt or used twice, or numbers of classes
                differ.
        """
        names = tuple(class_names or (f"class {c}" for c in range(len(label_ids))))
        placed = sorted((int(p), c) for c, positions in enumerate(label_positions) for p in positions)
        _check_stored(tokens, label_positions, label_ids, names, [p for p, _ in placed], gold)
        starts = [0, *(p + 1 for p, _ in placed)]
        return cls(
            tokens=tuple(int(token) for token in tokens), string=string,
            demonstrations=tuple(
                Demonstration(c, span=(start, p + 1), text=(), label=(p,), template=(), anchor=p)
                for start, (p, c) in zip(starts, placed, strict=False)
            ),
            query_start=starts[-1], query_text=(), target=len(tokens) - 1, label_words=tuple(label_words or names),
            label_ids=tuple(int(token) for token in label_ids), class_names=names, gold=gold, ids=ids or PromptRows(),
            task=task,
        )  # fmt: skip


_MOST = 2**31
"""An upper bound on token ids: no vocabulary is this large."""


def _check_stored(
    tokens: Sequence[int],
    label_positions: Sequence[Sequence[int]],
    label_ids: Sequence[int],
    class_names: Sequence[str],
    positions: Sequence[int],
    gold: int | None,
) -> None:
    if not len(tokens):
        raise InputError("A stored prompt needs at least one token; this one has none.")
    if not len(label_positions) == len(label_ids) == len(class_names):
        raise InputError(
            f"A stored prompt needs positions, a scoring token and a name for every class; it has "
            f"{len(label_positions)}, {len(label_ids)} and {len(class_names)}."
        )
    if not len(label_ids) or not all(0 <= token < _MOST for token in (*label_ids, *tokens)):
        raise InputError("A stored prompt needs a class or more, and token ids of 0 or more for classes and text.")
    outside = [p for p in positions if not 0 <= p < len(tokens) - 1]
    if outside:
        raise InputError(f"Label positions {outside} are not before the last of the prompt's {len(tokens)} tokens.")
    if len(set(positions)) < len(positions):
        raise InputError(f"A label position is given twice: {sorted(positions)}.")
    if gold is not None and not 0 <= gold < len(label_ids):
        raise InputError(f"The gold class {gold} is not one of the {len(label_ids)} classes (counted from 0).")
