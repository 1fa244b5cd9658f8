"""Short contexts of equal length, cut out of running text: what a model has read when it reaches a certain token."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mechicl.corpora.corpus import TokenCorpus
from mechicl.errors import InputError


def context_ends(corpus: TokenCorpus, length: int) -> Bool[Tensor, "sequence pos"]:
    """Positions at which `length` tokens of a single document end."""
    if length < 1:
        raise InputError(f"length is {length}; a context needs at least 1 token.")
    documents = corpus.documents
    before = torch.full_like(documents, -1)
    before[:, length - 1 :] = documents[:, : max(0, documents.shape[1] - length + 1)]
    return (documents >= 0) & (documents == before)


def contexts(corpus: TokenCorpus, ends: Int[Tensor, "context 2"], length: int) -> TokenCorpus:
    """A sequence per end (sequence, position) of the corpus: BOS, if it has one, and the `length` tokens up to it.

    Raises:
        InputError: `context_ends` does not allow an end.
    """
    row, position = ends.unbind(1)
    if not bool(context_ends(corpus, length)[row, position].all()):
        raise InputError(f"Some contexts of {length} tokens would begin in another document; see context_ends.")
    places = position[:, None] + torch.arange(1 - length, 1)
    tokens, documents = corpus.tokens[row[:, None], places], corpus.documents[row[:, None], places]
    if corpus.prepend_bos:
        tokens = torch.cat([corpus.tokens[row, :1], tokens], 1)
        documents = torch.cat([torch.full_like(row, -1)[:, None], documents], 1)
    return replace(
        corpus,
        tokens=tokens,
        lengths=torch.full_like(row, tokens.shape[1]),
        documents=documents,
        words=torch.full_like(tokens, -1),
        origin={**corpus.origin, "contexts": length},
    )
