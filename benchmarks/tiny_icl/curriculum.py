"""The curriculum: from bare word-label pairs to the whole language, each step taken once the last is
mastered.

In-context copying appears abruptly after a plateau, and templates, many words and long texts each
lengthen the plateau beyond what is affordable. So the first lessons are short and bare, and the
difficulties come one at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.tiny_icl.classification import BARE, Batch, Shape, draw_batch
from mechicl.shipped import lexicon as lex

MASTERED = 0.85  # held-out accuracy that opens the next lesson


@dataclass(frozen=True)
class Lesson:
    """A kind of classification sequence: its texts, the most classes, and the most blocks."""

    name: str
    shape: Shape
    classes: int
    blocks: int


LESSONS = (
    Lesson("word label", Shape(1, 1, 1, 0.0, (BARE,)), classes=3, blocks=12),
    Lesson("two words a topic", Shape(2, 1, 1, 0.0, (BARE,)), classes=3, blocks=12),
    Lesson("some templates", Shape(2, 1, 1, 0.0, (BARE, *lex.TEMPLATES)), classes=3, blocks=12),
    Lesson("longer texts", Shape(4, 1, 3, 0.15, lex.TEMPLATES), classes=3, blocks=10),
    Lesson("six words a topic", Shape(6, 1, 3, 0.15, lex.TEMPLATES), classes=3, blocks=12),
    Lesson("eight words a topic", Shape(8, 1, 3, 0.15, lex.TEMPLATES), classes=3, blocks=12),
    Lesson("ten words a topic", Shape(10, 1, 3, 0.3, lex.TEMPLATES), classes=3, blocks=12),
    Lesson("all words", Shape(lex.WORDS_PER_TOPIC, 1, 4, 0.3, lex.TEMPLATES), classes=4, blocks=14),
    Lesson("the language", Shape(), classes=6, blocks=24),
)


def training_batch(lesson: Lesson, budget: int, rng: np.random.Generator) -> Batch:
    """A batch of about `budget` tokens: classes and blocks as drawn, as many sequences as fit.

    Short sequences are more frequent than long ones: an answer after one shot is the hardest.
    """
    classes = int(rng.integers(2, lesson.classes + 1))
    fewest = classes + 2
    blocks = fewest + int((lesson.blocks + 1 - fewest) * rng.random() ** 2)
    shape = lesson.shape
    spelled = (shape.shortest + shape.longest) / 2 * 2.4
    template = 0 if shape.templates == (BARE,) else 5
    per_block = spelled + template + 2
    return draw_batch(max(2, round(budget / per_block / blocks)), classes, blocks, shape, rng)
