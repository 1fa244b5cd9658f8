"""The tasks of the shipped model's own language: generated, so they need neither network nor data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from mechicl import shipped
from mechicl.errors import check_seed
from mechicl.tasks.examples import ClassReader, Examples, Splits, read_examples
from mechicl.tasks.task import Task

PER_CLASS = 100
"""Number of examples per topic from which demonstrations are drawn."""
QUERIES = 1000
TEMPLATE = "Text: {text}\nTopic:{label}"


@dataclass(frozen=True)
class TopicsSource:
    """Texts about some topics of the language; the queries' word combinations are held out from training."""

    topics: tuple[int, ...]
    seed: int

    def load(self, class_names: Sequence[str], query_split: str) -> Splits:
        """Generate the examples."""
        return Splits(
            _examples(self, "train", PER_CLASS * len(self.topics), tuple(class_names)),
            _examples(self, "test", QUERIES, tuple(class_names)),
        )


@lru_cache(maxsize=64)
def _examples(
    source: TopicsSource, split: Literal["train", "test"], count: int, class_names: tuple[str, ...]
) -> Examples:
    """Texts about the source's topics; cached, because every study of a reproduction asks for the same."""
    origin = f"the language of tiny-icl, {split}, seed {source.seed}"
    drawn = shipped.examples(split, source.topics, count, source.seed)
    rows = ((f"{origin}, text {i}", {"text": text, "label": name}) for i, (text, name) in enumerate(drawn))
    return read_examples(rows, ClassReader(class_names), origin, {})


@dataclass(frozen=True)
class TopicsTask(Task):
    """Name the topic of a text.

    Every seed draws new topics and label words, in a pairing that is held out from training: only the demonstrations
    show which word means which topic.
    """

    def for_seed(self, seed: int) -> Task:
        """This seed's topics, with a label word for each."""
        check_seed(seed)
        topics, words = shipped.draw_mapping(len(self.label_words), "test", np.random.default_rng(seed))
        label_words = {
            shipped.topic_name(topic): shipped.LABEL_WORDS[word] for topic, word in zip(topics, words, strict=True)
        }
        source = TopicsSource(tuple(topics), seed)
        return Task(self.name, self.template, label_words, source, chat=self.chat, score=self.score)


def topics_task(name: str, n_topics: int) -> TopicsTask:
    """A task with this many topics: those of seed 42, until a seed draws others."""
    blank = TopicsTask(name, TEMPLATE, {f"topic {k}": shipped.LABEL_WORDS[k] for k in range(n_topics)})
    drawn = blank.for_seed(42)
    return TopicsTask(name, TEMPLATE, drawn.label_words, drawn.source)
