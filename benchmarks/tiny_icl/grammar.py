"""Running text as tokens, and the exact entropy of each next token.

As words can be read off the tokens in one way only, a forward filter over the grammar's hidden states gives the
probability of every next token given all that came before.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from benchmarks.tiny_icl import tokens
from mechicl.shipped.grammar import Floats, Grammar, Ints, grammar, sample_words

Spelling = Sequence[tuple[int, ...]]
"""The token ids of each word of a grammar."""


@cache
def spelling() -> Spelling:
    """How tiny-icl's tokenizer spells the words of its grammar."""
    return [tuple(tokens.spelled()[word]) for word in grammar().words]


def token_rows(words: Ints, length: int) -> Ints:
    """Spell documents out as tokens after a BOS, each cut to `length`: `document length`."""
    rows = [(tokens.ids(tokens.BOS) + [t for w in row for t in spelling()[w]])[:length] for row in words.tolist()]
    return np.array(rows, dtype=np.int64)


def sample_tokens(documents: int, length: int, rng: np.random.Generator) -> Ints:
    """Running text as token ids with BOS in front, `document length`."""
    return token_rows(sample_words(grammar(), documents, length, rng), length)


def surprisal(g: Grammar, spelled: Spelling, words: Ints) -> list[Floats]:
    """Exact -log p (nats) of every token of every document given all tokens before it.

    The filter gives the distribution of the next word; within a word, each token's probability is the share
    that its words have among those that begin as read so far.
    """
    begins = _same_beginning(spelled)
    belief = np.repeat((np.eye(len(g.move))[g.start][:, None] * g.prior)[None], len(words), axis=0)
    out: list[list[float]] = [[] for _ in words]
    for i in range(words.shape[1]):
        belief = np.einsum("bst,stu,sr->bru", belief, g.turn, g.move, optimize=True)
        predicted = np.einsum("bst,stw->bw", belief, g.emit, optimize=True)
        seen = words[:, i]
        shares = [(begins[k][seen] * predicted).sum(-1) for k in range(len(begins))]
        for b, word in enumerate(seen):
            before = [predicted[b].sum()] + [shares[k][b] for k in range(len(spelled[word]))]
            out[b].extend(np.log(before[:-1]) - np.log(before[1:]))
        belief = belief * g.emit.transpose(2, 0, 1)[seen]
        belief /= belief.sum(axis=(1, 2), keepdims=True)
    return [np.array(row) for row in out]


def _same_beginning(spelled: Spelling) -> list[Floats]:
    """For k = 1, 2, ...: a matrix `word word`, 1 where two words agree in their first k tokens."""
    longest = max(len(word) for word in spelled)
    return [np.array([[float(a[:k] == b[:k]) for b in spelled] for a in spelled]) for k in range(1, longest + 1)]
