"""In-context classification: texts about topics, each answered by the label word that its topic has in
this sequence.

A sequence chooses some topics, gives each a label word afresh, and shows blocks "prefix: text, answer
prefix: label". Nothing but the earlier blocks says which label belongs to which topic.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from benchmarks.tiny_icl import tokens
from mechicl.shipped import lexicon as lex
from mechicl.shipped.texts import FILLED, Split, draw_mapping, draw_text

BARE = "{text}{label}"  # not a template of the language: the curriculum begins with it


@dataclass(frozen=True)
class Shape:
    """What classification sequences may look like; the curriculum widens it step by step."""

    words: int = lex.WORDS_PER_TOPIC  # words of a topic that occur
    shortest: int = 2  # content words of a text
    longest: int = 4
    filled: float = FILLED
    templates: tuple[str, ...] = lex.TEMPLATES


@cache
def _pieces(template: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids of a template before and after its text."""
    tokenizer = tokens.build()
    before, _, after = template.replace(" {text}", "{text}").removesuffix("{label}").partition("{text}")
    return tuple(tokenizer.encode(before).ids), tuple(tokenizer.encode(after).ids)


@cache
def _label_ids() -> tuple[int, ...]:
    return tuple(tokens.ids(*lex.LABEL_WORDS))


@dataclass(frozen=True)
class Demonstrated:
    """One sequence: token ids, the positions of its label words, and the block's class at each of them."""

    ids: list[int]
    label_positions: list[int]
    classes: list[int]
    labels: list[int]  # token id of each class's label word


def order_of_classes(classes: int, shots: int, queries: int, rng: np.random.Generator) -> list[int]:
    """Classes of the blocks: every class once, then the other shots in any order, then random queries."""
    rest = rng.permutation(np.repeat(np.arange(classes), shots - 1))
    return [*rng.permutation(classes).tolist(), *rest.tolist(), *rng.integers(0, classes, queries).tolist()]


def draw_sequence(
    classes: int, shots: int, queries: int, shape: Shape, split: Split, rng: np.random.Generator
) -> Demonstrated:
    """A sequence of `classes * shots` demonstrations and `queries` more blocks.

    In the test split the queries' texts and the mapping are held out; demonstrations are training texts.
    """
    topics, labels = draw_mapping(classes, split, rng)
    before, after = _pieces(shape.templates[int(rng.integers(len(shape.templates)))])
    label_ids = [_label_ids()[label] for label in labels]
    newline = tokens.ids("\n")[0]
    out = Demonstrated([], [], order_of_classes(classes, shots, queries, rng), label_ids)
    for i, which in enumerate(out.classes):
        part = split if i >= classes * shots else "train"
        text = draw_text(topics[which], part, rng, shape.words, shape.shortest, shape.longest, shape.filled)
        text_ids = (index for word in text for index in tokens.spelled()[word])
        out.ids.extend((*before, *text_ids, *after, label_ids[which], newline))
        out.label_positions.append(len(out.ids) - 2)
    out.ids.pop()
    return out


@dataclass(frozen=True)
class Batch:
    """Sequences padded on the right: `tokens` batch pos, and the weight of each position as a target."""

    tokens: NDArray[np.int64]
    is_answer: NDArray[np.bool_]  # label words whose class has been shown before
    is_other: NDArray[np.bool_]  # all other real tokens


def draw_batch(size: int, classes: int, blocks: int, shape: Shape, rng: np.random.Generator) -> Batch:
    """Training sequences of `blocks` blocks each, the first of which show every class once."""
    drawn = [draw_sequence(classes, 1, blocks - classes, shape, "train", rng) for _ in range(size)]
    length = max(len(sequence.ids) for sequence in drawn)
    batch = Batch(
        np.full((size, length), tokens.ids(tokens.BOS)[0]),
        np.zeros((size, length), dtype=bool),
        np.zeros((size, length), dtype=bool),
    )
    for row, sequence in enumerate(drawn):
        batch.tokens[row, : len(sequence.ids)] = sequence.ids
        batch.is_answer[row, sequence.label_positions[classes:]] = True
        batch.is_other[row, 1 : len(sequence.ids)] = True
    batch.is_other[batch.is_answer] = False
    return batch
