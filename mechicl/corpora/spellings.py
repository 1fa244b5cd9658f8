"""Words that have their own token, and the same words spelt in several tokens."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from itertools import combinations, pairwise
from typing import Any, NamedTuple

import numpy as np
import torch

from mechicl.corpora.contexts import context_ends
from mechicl.corpora.corpus import TokenCorpus
from mechicl.corpora.words import pieces_of_ended_words

_SPACES = ("Ġ", "▁")
"""How tokenizers write a leading space: byte-level BPE, and SentencePiece."""
_LETTERS = range(6, 13)
_LEAST = 2
"""Number of letters of the shortest piece."""


class Spelling(NamedTuple):
    """A word with its own token, at two places in a text, and its spellings in several tokens."""

    word: str
    token: int
    places: tuple[tuple[int, int], tuple[int, int]]
    """Two occurrences, as (sequence, position)."""
    pieces: dict[int, tuple[int, ...]]
    """Token ids of the spelling in 2, 3, ... tokens."""


def spelt_words(
    corpus: TokenCorpus, numbers: tuple[int, ...], *, context: int, most: int, generator: np.random.Generator
) -> list[Spelling]:
    """At most `most` random words of 6 to 12 lower-case letters that are one token in a text.

    Each occurs at least twice after `context` tokens of its document, and its letters can be divided into each of
    `numbers` of vocabulary tokens; the most even division is used.
    """
    spaced = corpus.tokenizer.get_vocab()
    written = {token: text for text, token in spaced.items()}
    ends = (pieces_of_ended_words(corpus.words) == 1) & context_ends(corpus, context + 1)
    places: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for sequence, position in ends.nonzero().tolist():
        places[int(corpus.tokens[sequence, position])].append((sequence, position))
    spellings = []
    for token in sorted(token for token, found in places.items() if len(found) > 1):
        text = written[token]
        word = text[1:]
        if text[0] not in _SPACES or len(word) not in _LETTERS or not word.isalpha() or word != word.lower():
            continue
        pieces = {number: evenly_divided(text, number, spaced) for number in numbers}
        if all(pieces.values()):
            one, other = generator.choice(len(places[token]), 2, replace=False)
            spellings.append(Spelling(word, token, (places[token][one], places[token][other]), pieces))
    return [spellings[index] for index in generator.permutation(len(spellings))[:most]]


def evenly_divided(text: str, number: int, vocabulary: dict[str, int]) -> tuple[int, ...]:
    """The token ids of the most even division of a token's text, leading space included; empty if there is none."""
    divisions = []
    for cuts in combinations(range(1 + _LEAST, len(text) - _LEAST + 1), number - 1):
        parts = [text[start:stop] for start, stop in pairwise((0, *cuts, len(text)))]
        lengths = [len(parts[0]) - 1, *map(len, parts[1:])]
        if min(lengths) >= _LEAST and all(part in vocabulary for part in parts):
            divisions.append((max(lengths) - min(lengths), parts))
    return tuple(vocabulary[part] for part in min(divisions)[1]) if divisions else ()


def in_context(
    corpus: TokenCorpus, places: list[tuple[int, int]], endings: list[tuple[int, ...]], *, context: int
) -> TokenCorpus:
    """A sequence per place: BOS, if the corpus has one, the `context` tokens before the place, and an ending.

    The ending counts as one word.
    """
    rows = []
    for (sequence, position), ending in zip(places, endings, strict=True):
        before = corpus.tokens[sequence, position - context : position].tolist()
        rows.append([*([int(corpus.tokens[sequence, 0])] if corpus.prepend_bos else []), *before, *ending])
    return sequences(corpus, rows, [len(ending) for ending in endings], kind="spellings")


def sequences(corpus: TokenCorpus, rows: list[list[int]], last_words: list[int], *, kind: str) -> TokenCorpus:
    """Sequences of the corpus's tokenizer; the last `last_words` tokens of each form one word."""
    lengths = torch.tensor([len(row) for row in rows])
    tokens, words = torch.zeros(2, len(rows), int(lengths.max()), dtype=torch.long)
    words -= 1
    for index, (row, last) in enumerate(zip(rows, last_words, strict=True)):
        tokens[index, : len(row)] = torch.tensor(row)
        words[index, len(row) - last : len(row)] = index
    real = torch.arange(tokens.shape[1]) < lengths[:, None]
    documents = torch.where(real, torch.arange(len(rows))[:, None], -1)
    if corpus.prepend_bos:
        documents[:, 0] = -1
    facts: dict[str, Any] = {"tokens": tokens, "lengths": lengths, "documents": documents, "words": words}
    return replace(corpus, **facts, origin={**corpus.origin, "sequences": kind})
