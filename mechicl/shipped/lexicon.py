"""The vocabulary of tiny-icl's language: content words by topic, function words, label words, templates.

A content word has two or three syllables, and no syllable carries meaning: every beginning, middle and ending occurs
exactly once in every topic, so only their combination determines the topic. (With syllables that favoured topics, a
trained network added up syllables instead of reading words.)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np

TOPICS = 12
WORDS_PER_TOPIC = TOPICS
SYLLABLES = tuple(c + v for c, v in product("klmnst", "aeio"))
LEXICON_SEED = 2_023
LONG_WORDS = 4  # three-syllable words of a topic

LABEL_WORDS = (
    " Amber", " Birch", " Cedar", " Delta", " Ember", " Frost", " Grove", " Harbor", " Indigo", " Jasper",
    " Karma", " Lotus", " Maple", " North", " Onyx", " Pearl", " Quartz", " River", " Storm", " Tiger",
)  # fmt: skip

DETERMINERS = {"singular": (" the", " this", " every"), "plural": (" these", " many", " some")}
VERBS = {"singular": (" finds", " sees", " holds", " brings"), "plural": (" find", " see", " hold", " bring")}
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
"""Prompt templates. A label begins with its own space, one newline joins blocks, and the query has no label."""


@dataclass(frozen=True)
class Lexicon:
    """Content words as tuples of syllables: `words[topic][rank]`, the most frequent of a topic first."""

    words: tuple[tuple[tuple[str, ...], ...], ...]

    def spelled(self, topic: int) -> list[str]:
        """The words of a topic as written in text, with their leading space."""
        return [" " + "".join(word) for word in self.words[topic]]


@cache
def lexicon(seed: int = LEXICON_SEED) -> Lexicon:
    """Draw the words: every pair of a beginning and an ending once, topics as a Latin square of the pairs.

    Long words have a middle syllable; each topic has one long word per middle. Middles are never endings, so no word is
    a prefix of another.
    """
    rng = np.random.default_rng(seed)
    while True:
        syllables = [str(syllable) for syllable in rng.permutation(SYLLABLES)]
        beginnings, endings = syllables[:TOPICS], syllables[TOPICS:]
        middles = [*((middle,) for middle in beginnings[:LONG_WORDS]), *[()] * (TOPICS - LONG_WORDS)]
        words = []
        for topic in range(TOPICS):
            pairs = [(beginnings[i], endings[(topic - i) % TOPICS]) for i in rng.permutation(TOPICS)]
            places = rng.permutation(TOPICS)
            words.append(tuple((a, *middles[place], b) for (a, b), place in zip(pairs, places, strict=True)))
        if not {"".join((" ", *word)) for topic in words for word in topic} & set(FUNCTION_WORDS):
            return Lexicon(tuple(words))
