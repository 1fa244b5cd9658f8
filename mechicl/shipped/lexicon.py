"""The vocabulary of tiny-icl's language: content words by topic, function words, label words, templates.

A content word is two or three syllables, and no syllable has a meaning of its own: every syllable begins
one word in exactly half of the topics and ends one in exactly half of them, so that the topic lies only
in the combination. No word is the beginning of another, so text splits into words in one way only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np

TOPICS = 12
WORDS_PER_TOPIC = 12
SYLLABLES = tuple(c + v for c, v in product("klmnst", "aeio"))
LEXICON_SEED = 20_231
LONG_WORDS = 0.25  # the share of three-syllable words

LABEL_WORDS = (
    " Amber", " Birch", " Cedar", " Delta", " Ember", " Frost", " Grove", " Harbor", " Indigo", " Jasper",
    " Karma", " Lotus", " Maple", " North", " Onyx", " Pearl", " Quartz", " River", " Storm", " Tiger",
)  # fmt: skip

DETERMINERS = {"singular": (" the", " this", " every"), "plural": (" these", " many", " some")}
VERBS = {
    "singular": (" finds", " sees", " holds", " brings"),
    "plural": (" find", " see", " hold", " bring"),
}
PREPOSITIONS = (" of", " in", " with", " near")
ADVERBS = (" then", " often", " now")
STOP = "."
FUNCTION_WORDS = (
    *DETERMINERS["singular"], *DETERMINERS["plural"], *VERBS["singular"], *VERBS["plural"],
    *PREPOSITIONS, *ADVERBS, STOP,
)  # fmt: skip

TEMPLATES = (
    "Review: {text}\nSentiment:{label}",
    "Article: {text}\nAnswer:{label}",
    "Question: {text}\nAnswer Type:{label}",
    "Dialogue: {text}\nEmotion:{label}",
    "Text: {text}\nTopic:{label}",
    "Input: {text}\nOutput:{label}",
    "Words: {text}\nThe class is:{label}",
    "Note: {text}\nFile this under:{label}",
)
"""Prompt templates. A label begins with its own space; one newline joins blocks; the query has no label."""

BOS = "<|bos|>"


@dataclass(frozen=True)
class Lexicon:
    """Content words as tuples of syllables: `words[topic][rank]`, the most frequent of a topic first."""

    words: tuple[tuple[tuple[str, ...], ...], ...]

    def spelled(self, topic: int) -> list[str]:
        """The words of a topic as they stand in text, with their leading space."""
        return [" " + "".join(word) for word in self.words[topic]]


@cache
def lexicon(seed: int = LEXICON_SEED) -> Lexicon:
    """Draw the words. Two topics at a time share out all syllables as beginnings, and again as endings."""
    rng = np.random.default_rng(seed)
    words: list[tuple[tuple[str, ...], ...]] = []
    while len(words) < TOPICS:
        pair = _two_topics(rng)
        if _one_way_to_read([word for topic in (*words, *pair) for word in topic]):
            words.extend(pair)
    return Lexicon(tuple(words))


def _two_topics(rng: np.random.Generator) -> list[tuple[tuple[str, ...], ...]]:
    first, last = rng.permutation(SYLLABLES), rng.permutation(SYLLABLES)
    middle = rng.choice(SYLLABLES, len(SYLLABLES))
    long = rng.random(len(SYLLABLES)) < LONG_WORDS
    drawn = [
        (str(a), str(b), str(c)) if is_long else (str(a), str(c))
        for a, b, c, is_long in zip(first, middle, last, long, strict=True)
    ]
    return [tuple(drawn[:WORDS_PER_TOPIC]), tuple(drawn[WORDS_PER_TOPIC:])]


def _one_way_to_read(words: list[tuple[str, ...]]) -> bool:
    """Whether all words differ, from function words too, and none is the beginning of another."""
    beginnings = {word[:2] for word in words if len(word) == 3}
    spoiled = any(word in beginnings or " " + "".join(word) in FUNCTION_WORDS for word in words)
    return len(set(words)) == len(words) and not spoiled
