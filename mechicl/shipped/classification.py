"""In-context classification: texts about topics, each answered by the label word that its topic has in
this sequence.

A sequence chooses some topics, gives each a label word afresh, and shows blocks "prefix: text, answer
prefix: label". Nothing but the earlier blocks says which label belongs to which topic. One text in five,
told by a hash of its content words, and one mapping in ten are never trained on.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mechicl.shipped import lexicon as lex
from mechicl.shipped import tokens

Split = Literal["train", "test"]

FILLERS = (" of", " in", " with", " near", " the", " these")
FILLED = 0.3  # the probability of a function word before a content word of a text
BARE = "{text}{label}"  # not a template of the language: the curriculum begins with it
TEST_TEXTS = 5  # one text in so many is held out
TEST_MAPPINGS = 10


def topic_name(topic: int) -> str:
    """The name of a topic: its most frequent word."""
    return lex.lexicon().spelled(topic)[0].strip()


def split_of_text(words: Sequence[str]) -> Split:
    """Where a combination of content words belongs; a single word is none and always for training."""
    held_out = len(words) > 1 and zlib.crc32(" ".join(words).encode()) % TEST_TEXTS == 0
    return "test" if held_out else "train"


def split_of_mapping(topics: Sequence[int], labels: Sequence[int]) -> Split:
    """Where a mapping from topics to label words (indices) belongs, whatever the order of its pairs."""
    named = ",".join(f"{t}:{label}" for t, label in sorted(zip(topics, labels, strict=True)))
    return "test" if zlib.crc32(named.encode()) % TEST_MAPPINGS == 0 else "train"


@dataclass(frozen=True)
class Shape:
    """What classification sequences may look like; the curriculum widens it step by step."""

    words: int = lex.WORDS_PER_TOPIC  # words of a topic that occur
    shortest: int = 2  # content words of a text
    longest: int = 4
    filled: float = FILLED
    templates: tuple[str, ...] = lex.TEMPLATES


@dataclass(frozen=True)
class Text:
    """A text: its content words as spelled, and its token ids."""

    string: str
    ids: tuple[int, ...]


@cache
def _word_table() -> tuple[tuple[tuple[str, tuple[int, ...]], ...], ...]:
    return tuple(
        tuple((" " + "".join(word), tuple(tokens.word_ids(word))) for word in topic) for topic in lex.lexicon().words
    )


@cache
def _fillers() -> tuple[tuple[str, int], ...]:
    return tuple((word, tokens.ids(word)[0]) for word in FILLERS)


def draw_text(topic: int, shape: Shape, split: Split, rng: np.random.Generator) -> Text:
    """A text about a topic: some of its words in random order, some with a function word before them."""
    table = _word_table()[topic]
    while True:
        count = int(rng.integers(shape.shortest, shape.longest + 1))
        chosen = rng.permutation(shape.words)[:count]
        if split_of_text([table[i][0] for i in chosen]) == split or shape.longest == 1:
            break
    string = ""
    ids: list[int] = []
    for index, draw in zip(chosen, rng.random(count), strict=True):
        if draw < shape.filled:
            filler = _fillers()[int(draw / shape.filled * len(FILLERS))]
            string, ids = string + filler[0], [*ids, filler[1]]
        string, ids = string + table[index][0], [*ids, *table[index][1]]
    return Text(string.strip(), tuple(ids))


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


def draw_mapping(classes: int, split: Split, rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """Topics and their label words, as indices, never from the other split."""
    while True:
        topics = rng.permutation(lex.TOPICS)[:classes].tolist()
        labels = rng.permutation(len(lex.LABEL_WORDS))[:classes].tolist()
        if split_of_mapping(topics, labels) == split:
            return topics, labels


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
        text = draw_text(topics[which], shape, split if i >= classes * shots else "train", rng)
        out.ids.extend((*before, *text.ids, *after, label_ids[which], newline))
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
        np.full((size, length), tokens.ids(lex.BOS)[0]),
        np.zeros((size, length), dtype=bool),
        np.zeros((size, length), dtype=bool),
    )
    for row, sequence in enumerate(drawn):
        batch.tokens[row, : len(sequence.ids)] = sequence.ids
        batch.is_answer[row, sequence.label_positions[classes:]] = True
        batch.is_other[row, 1 : len(sequence.ids)] = True
    batch.is_other[batch.is_answer] = False
    return batch


def examples(split: Split, topics: Sequence[int], count: int, seed: int) -> Iterator[tuple[str, str]]:
    """Labelled texts, (text, name of its topic): "train" for demonstrations, "test" never trained on.

    Topics take turns, so that the classes are balanced.
    """
    rng = np.random.default_rng(seed)
    for i in range(count):
        topic = topics[i % len(topics)]
        yield draw_text(topic, Shape(), split, rng).string, topic_name(topic)


def widened(shape: Shape, **changes: object) -> Shape:
    """A shape with some fields changed."""
    return replace(shape, **changes)  # type: ignore[arg-type]
