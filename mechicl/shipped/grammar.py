"""Running text: documents about a topic, from a small grammar.

A document is a chain of hidden states (topic, place in the sentence), one word each. The place determines the kind of
word and the next place; the topic determines which content words are likely, and may change at the end of a sentence.
Determiners fix the number with which the sentence's verb must agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from mechicl.shipped import lexicon as lex

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ON_TOPIC = 0.9  # the share of content words that belong to the document's topic
TOPIC_CHANGE = 0.1  # the probability that the next sentence has a topic of its own
ZIPF = 1.0  # the exponent of word frequency within a topic


@dataclass(frozen=True)
class Grammar:
    """A hidden Markov chain over words.

    `start` place; `move` place place; `emit` place topic word; `turn` place topic topic (the topic's own
    change on leaving a place); `prior` topic; `words` as they stand in text, with their leading space.
    """

    start: int
    move: Floats
    emit: Floats
    turn: Floats
    prior: Floats
    words: tuple[str, ...]


# Places of a sentence and the next places of each; singular and plural share the name before "/".
ROUTES: dict[str, dict[str, float]] = {
    "open": {"adverb": 0.3, "subject determiner/singular": 0.35, "subject determiner/plural": 0.35},
    "adverb": {"subject determiner/singular": 0.5, "subject determiner/plural": 0.5},
    "subject determiner": {"subject adjective": 0.2, "subject label": 0.15, "subject": 0.65},
    "subject adjective": {"subject": 1.0},
    "subject label": {"subject": 1.0},
    "subject": {"verb": 0.75, "preposition": 0.25},
    "preposition": {"complement": 1.0},
    "complement": {"verb": 1.0},
    "verb": {"object determiner": 0.7, "object": 0.3},
    "object determiner": {"object label": 0.15, "object": 0.85},
    "object label": {"object": 1.0},
    "object": {"object preposition": 0.25, "stop": 0.75},
    "object preposition": {"object": 1.0},
    "stop": {"adverb": 0.3, "subject determiner/singular": 0.35, "subject determiner/plural": 0.35},
}
NUMBERED = ("subject determiner", "subject adjective", "subject label", "subject", "preposition", "complement", "verb")
CONTENT = ("subject adjective", "subject", "complement", "object")


def _words_at(place: str) -> tuple[str, ...]:
    kind, _, number = place.partition("/")
    kinds: dict[str, tuple[str, ...]] = {
        "adverb": lex.ADVERBS,
        "subject determiner": lex.DETERMINERS.get(number, ()),
        "subject label": lex.LABEL_WORDS,
        "preposition": lex.PREPOSITIONS,
        "verb": lex.VERBS.get(number, ()),
        "object determiner": (*lex.DETERMINERS["singular"], *lex.DETERMINERS["plural"]),
        "object label": lex.LABEL_WORDS,
        "object preposition": lex.PREPOSITIONS,
        "stop": (lex.STOP,),
    }
    return kinds.get(kind, ())


def _places() -> list[str]:
    names = [f"{name}/{n}" if name in NUMBERED else name for name in ROUTES for n in ("singular", "plural")]
    return list(dict.fromkeys(names))


@cache
def grammar() -> Grammar:
    """The grammar of tiny-icl, over the words of its lexicon."""
    places = _places()
    plain = [*lex.FUNCTION_WORDS, *lex.LABEL_WORDS]
    content = [word for topic in range(lex.TOPICS) for word in lex.lexicon().spelled(topic)]
    move = np.zeros((len(places), len(places)))
    emit = np.zeros((len(places), lex.TOPICS, len(plain) + len(content)))
    for i, place in enumerate(places):
        kind, _, number = place.partition("/")
        for target, probability in ROUTES[kind].items():
            full = f"{target}/{number}" if target in NUMBERED else target
            move[i, places.index(full)] += probability
        for word in _words_at(place):
            emit[i, :, plain.index(word)] = 1 / len(_words_at(place))
        if kind in CONTENT:
            emit[i, :, len(plain) :] = _content_words()
    stay = np.eye(lex.TOPICS)
    turn = np.repeat(stay[None], len(places), axis=0)
    turn[places.index("stop")] = (1 - TOPIC_CHANGE) * stay + TOPIC_CHANGE / lex.TOPICS
    prior = np.full(lex.TOPICS, 1 / lex.TOPICS)
    return Grammar(places.index("open"), move, emit, turn, prior, (*plain, *content))


def _content_words() -> Floats:
    """Probability of each content word, `topic word`: Zipf within a topic, with a preference for the own topic."""
    zipf = 1 / np.arange(1, lex.WORDS_PER_TOPIC + 1) ** ZIPF
    stray = (1 - ON_TOPIC) / lex.TOPICS
    topics = ON_TOPIC * np.eye(lex.TOPICS) + stray
    return np.kron(topics, zipf / zipf.sum())


def _draw(rng: np.random.Generator, cumulative: Floats) -> Ints:
    """One index per row of cumulative probabilities, `batch choice`."""
    chosen: Ints = (rng.random((len(cumulative), 1)) * cumulative[:, -1:] >= cumulative).sum(-1)
    return chosen


def sample_words(g: Grammar, documents: int, words: int, rng: np.random.Generator) -> Ints:
    """Draw documents as word indices, `document word`."""
    moves, turns, emits = g.move.cumsum(-1), g.turn.cumsum(-1), g.emit.cumsum(-1)
    topic = _draw(rng, np.repeat(g.prior.cumsum()[None], documents, axis=0))
    place = np.full(documents, g.start)
    drawn = np.empty((documents, words), dtype=np.int64)
    for i in range(words):
        topic, place = _draw(rng, turns[place, topic]), _draw(rng, moves[place])
        drawn[:, i] = _draw(rng, emits[place, topic])
    return drawn


def running_text(documents: int, words: int, seed: int) -> list[str]:
    """Running text as strings, one per document; each begins with the space of its first word.

    Training draws from streams seeded by two numbers (seed, step), so no seed here repeats its documents.
    """
    drawn = sample_words(grammar(), documents, words, np.random.default_rng([seed, 0, 0]))
    return ["".join(grammar().words[w] for w in row) for row in drawn]
