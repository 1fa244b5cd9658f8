"""Labelled texts of tiny-icl's language: words of a topic, which each sequence maps to a label word of its own.

One text in five, by a hash of its content words, and one in ten mappings of topics to label words are held out from
training.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from mechicl.shipped.lexicon import LABEL_WORDS, TOPICS, WORDS_PER_TOPIC, lexicon

Split = Literal["train", "test"]

FILLERS = (" of", " in", " with", " near", " the", " these")
FILLED = 0.3  # the probability of a function word before a content word of a text
TEST_TEXTS = 5  # one text in TEST_TEXTS is held out
TEST_MAPPINGS = 10


def topic_name(topic: int) -> str:
    """The name of a topic: its most frequent word."""
    return lexicon().spelled(topic)[0].strip()


def split_of_text(words: Sequence[str]) -> Split:
    """The split of a combination of content words; a single word is always for training."""
    held_out = len(words) > 1 and zlib.crc32(" ".join(words).encode()) % TEST_TEXTS == 0
    return "test" if held_out else "train"


def split_of_mapping(topics: Sequence[int], labels: Sequence[int]) -> Split:
    """The split of a mapping from topics to label words (indices), whatever the order of its pairs."""
    named = ",".join(f"{t}:{label}" for t, label in sorted(zip(topics, labels, strict=True)))
    return "test" if zlib.crc32(named.encode()) % TEST_MAPPINGS == 0 else "train"


def draw_mapping(classes: int, split: Split, rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """Topics and their label words, as indices, only from this split."""
    while True:
        topics = rng.permutation(TOPICS)[:classes].tolist()
        labels = rng.permutation(len(LABEL_WORDS))[:classes].tolist()
        if split_of_mapping(topics, labels) == split:
            return topics, labels


def draw_text(
    topic: int,
    split: Split,
    rng: np.random.Generator,
    words: int = WORDS_PER_TOPIC,
    shortest: int = 2,
    longest: int = 4,
    filled: float = FILLED,
) -> list[str]:
    """A text about a topic: some of its most frequent `words` in random order, some after a function word.

    Every word has its leading space. The text has `shortest` to `longest` content words, each with a function word
    before it with probability `filled`.
    """
    while True:
        count = int(rng.integers(shortest, longest + 1))
        content = [lexicon().spelled(topic)[i] for i in rng.permutation(words)[:count]]
        if split_of_text(content) == split or longest == 1:
            break
    text = []
    for word, draw in zip(content, rng.random(count), strict=True):
        if draw < filled:
            text.append(FILLERS[int(draw / filled * len(FILLERS))])
        text.append(word)
    return text


def examples(split: Split, topics: Sequence[int], count: int, seed: int) -> Iterator[tuple[str, str]]:
    """Labelled texts, (text, name of its topic): "train" for demonstrations, "test" held out from training.

    Topics alternate, so the classes are balanced.
    """
    rng = np.random.default_rng(seed)
    for i in range(count):
        topic = topics[i % len(topics)]
        yield "".join(draw_text(topic, split, rng)).strip(), topic_name(topic)
