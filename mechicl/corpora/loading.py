"""From documents to sequences: packed to one length, or truncated as by the authors of *Stages of Inference*."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from sys import maxsize
from typing import Any, Literal

import numpy as np
import torch

from mechicl.corpora.corpus import TokenCorpus
from mechicl.corpora.sources import PYDOCS, Documents, open_source
from mechicl.corpora.words import IntArray, word_numbers
from mechicl.doors import door
from mechicl.errors import InputError, check_count, check_seed
from mechicl.limits import free_bytes, in_words
from mechicl.models.tokenizers import bos_id, check_tokenizer, describe_bos, encode_texts, warn_if_spelled

Packing = Literal["packed", "documents"]

DEFAULT_SOURCE = "NeelNanda/pile-10k"

_BYTES_A_TOKEN = 64
"""The rows of a token while a corpus is read: its id, document and word."""

_LOOKED_AT = 1000
"""Number of tokens of text on which to test whether the tokenizer spells words out."""

_TOKEN, _DOCUMENT, _WORD = range(3)
"""Rows of an encoded stretch of text, an integer array [3, n]."""


@door
def load_corpus(
    tokenizer: Any,
    source: str | Path | Sequence[str] = DEFAULT_SOURCE,
    *,
    prepend_bos: bool,
    n_ctx: int = 256,
    tokens: int | None = None,
    documents: int | None = None,
    packing: Packing = "packed",
    characters: int | None = None,
    seed: int = 0,
    column: str = "text",
    split: str = "train",
) -> TokenCorpus:
    """Read running text and cut it into sequences of at most `n_ctx` positions; warn if several are of one document.

    `packing="packed"` shuffles the documents with `seed`, joins them with a BOS (or end-of-text) token between, and
    fills every sequence to `n_ctx`; leftover tokens are not used. `packing="documents"` is what the authors do:
    documents in order, one sequence each, truncated at `n_ctx`. With `prepend_bos`, position 0 of every sequence is
    BOS.

    Args:
        source: A hub data set, a .txt, .jsonl, .csv, .tsv or .parquet file, a folder of them, a list of
            texts, "pydocs" for English prose from the documentation inside Python's standard library (160,000
            tokens or more, which differ by the version of Python; no network), or "tiny-icl" for the language of the
            shipped model.
        tokens: Number of tokens of text, without BOS; whole sequences are taken until it is reached.
        documents: Largest number of documents to read (not counting empty ones).
        characters: Largest number of characters to read of each document.
        column: The column of a table with the text.
        split: The split of a hub data set.

    Raises:
        InputError: The source cannot be read, is empty, or holds less than was asked for.
    """
    check_seed(seed)
    for name, count in (("tokens", tokens), ("documents", documents), ("characters", characters)):
        if count is not None:
            check_count(name, count)
    _check(prepend_bos, n_ctx, tokens)
    check_tokenizer(tokenizer)
    begin = [bos_id(tokenizer)] if prepend_bos else []
    found = open_source(
        source, column=column, split=split, shuffle_seed=seed if packing == "packed" else None, words=n_ctx
    )
    if found.endless and tokens is None and documents is None:
        raise InputError(f"{found.name} is a long stream; say how many tokens (or documents) of it to take.")
    body = n_ctx - len(begin)
    encoded = _encode(tokenizer, found, characters)
    if documents is not None:
        encoded = iter(_first(encoded, documents, found.name))
    if packing == "packed":
        between = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        pieces = _pack(encoded, body, between, tokens)
    else:
        pieces = _truncate(encoded, body, tokens)
    have = sum(int((piece[_DOCUMENT] >= 0).sum()) for piece in pieces)
    _check_enough(found.name, pieces, have, n_ctx, tokens, packing)
    origin = {
        "packing": packing, "n_ctx": n_ctx, "seed": seed if packing == "packed" else None,
        "tokens_asked": tokens, "documents_asked": documents,
        "documents_used": len({int(d) for piece in pieces for d in np.unique(piece[_DOCUMENT]) if d >= 0}),
        **({} if characters is None else {"characters": characters}),
        **({"words_by": "letters"} if getattr(tokenizer, "is_fast", False) else {}),
        **found.origin,
        **({"bos": describe_bos(tokenizer)} if prepend_bos else {}),
    }  # fmt: skip
    corpus = _assemble(pieces, begin, tokenizer, found.name, origin)
    if found.name == PYDOCS:
        text = corpus.tokens[corpus.documents >= 0][:_LOOKED_AT].tolist()
        words = (tokenizer.decode([token]) for token in text)
        warn_if_spelled(words, PYDOCS, "English", "the text of tiny-icl is 'tiny-icl'", stacklevel=4)
    if len(pieces) > 1 and origin["documents_used"] == 1:  # known before hours of work, not after
        warnings.warn(
            f"The {have:,} tokens taken of {found.name} are of one document, so claims over documents will be "
            "undecided; take more tokens, give more documents, or use packing='documents'.",
            stacklevel=3,
        )
    return corpus


def _encode(
    tokenizer: Any, documents: Documents, characters: int | None, at_a_time: int = 64
) -> Iterator[IntArray]:  # fmt: skip
    """Encode nonempty documents, numbering documents and words consecutively."""
    texts = (text[:characters] for text in documents.read() if text[:characters].strip())
    fast = getattr(tokenizer, "is_fast", False)
    n_documents = n_words = 0
    while block := list(islice(texts, at_a_time)):
        encoded = encode_texts(tokenizer, block, return_offsets_mapping=fast)
        for i, text in enumerate(block):
            ids = np.array(encoded["input_ids"][i], dtype=np.int64)
            words = word_numbers(text, encoded["offset_mapping"][i]) if fast else np.full(len(ids), -1)
            words = np.where(words >= 0, words + n_words, -1)
            yield np.stack([ids, np.full(len(ids), n_documents), words])
            n_documents += 1
            n_words = max(n_words, int(words.max(initial=-1)) + 1)


def _first(encoded: Iterator[IntArray], documents: int, name: str) -> list[IntArray]:
    first = list(islice(encoded, min(documents, maxsize)))
    if len(first) < documents:
        raise InputError(f"{name} holds {len(first)} documents, fewer than the {documents} asked for.")
    return first


def _pack(encoded: Iterator[IntArray], body: int, between: int | None, tokens: int | None) -> list[IntArray]:
    """Stretches of exactly `body` tokens from all documents joined."""
    separator = np.array([[-1 if between is None else between], [-1], [-1]], dtype=np.int64)
    separator = separator[:, : between is not None]
    pieces: list[IntArray] = []
    have = 0
    rest = np.empty((3, 0), dtype=np.int64)
    for document in encoded:
        rest = np.concatenate([rest, separator, document], axis=1) if rest.shape[1] else document
        while rest.shape[1] >= body and (tokens is None or have < tokens):
            piece, rest = _cut(rest, body)
            if rest.shape[1] and rest[_DOCUMENT, 0] < 0:  # every sequence gets its own BOS
                rest = rest[:, 1:]
            pieces.append(piece)
            have += int((piece[_DOCUMENT] >= 0).sum())
        if tokens is not None and have >= tokens:
            break
    return pieces


def _truncate(encoded: Iterator[IntArray], body: int, tokens: int | None) -> list[IntArray]:
    """The first `body` tokens of each document."""
    pieces: list[IntArray] = []
    have = 0
    for document in encoded:
        if tokens is not None and have >= tokens:
            break
        pieces.append(_cut(document, body)[0])
        have += pieces[-1].shape[1]
    return pieces


def _cut(stretch: IntArray, at: int) -> tuple[IntArray, IntArray]:
    """Both sides of a cut, as views; a word that the cut divides counts on neither side."""
    words = stretch[_WORD]
    if at < len(words) and words[at] >= 0:
        start, stop = at, at
        while start > 0 and words[start - 1] == words[at]:
            start -= 1
        while stop < len(words) and words[stop] == words[at]:
            stop += 1
        if start < at:
            words[start:stop] = -1
    return stretch[:, :at], stretch[:, at:]


def _assemble(
    pieces: list[IntArray], begin: list[int], tokenizer: Any, source: str, origin: dict[str, Any]
) -> TokenCorpus:
    widest = max(piece.shape[1] for piece in pieces)
    filled = np.full((3, len(pieces), len(begin) + widest), -1, dtype=np.int64)
    filled[_TOKEN] = 0
    filled[_TOKEN, :, : len(begin)] = begin
    for row, piece in enumerate(pieces):
        filled[:, row, len(begin) : len(begin) + piece.shape[1]] = piece
    tokens, documents, words = (torch.from_numpy(part) for part in filled)
    lengths = torch.tensor([len(begin) + piece.shape[1] for piece in pieces])
    return TokenCorpus(tokens, lengths, documents, words, tokenizer, bool(begin), source, origin)


def _check(prepend_bos: bool, n_ctx: int, tokens: int | None) -> None:
    if n_ctx < 2 + prepend_bos:
        raise InputError(f"n_ctx is {n_ctx}; a sequence needs at least two tokens of text.")
    if tokens is not None and (free := free_bytes("cpu")) is not None and tokens * _BYTES_A_TOKEN > free:
        raise InputError(f"tokens is {tokens:.3g}, more than fit into {in_words(free)} of free memory; ask for fewer.")


def _check_enough(name: str, pieces: list[IntArray], have: int, n_ctx: int, tokens: int | None, packing: str) -> None:
    if not pieces:
        what = f"too little text for one sequence of {n_ctx} positions" if packing == "packed" else "no text"
        raise InputError(f"{name} holds {what}; give more text, a smaller n_ctx, or packing='documents'.")
    if tokens is not None and have < tokens:
        raise InputError(
            f"{name} gives {have} tokens in sequences of {n_ctx}, fewer than the {tokens} asked for; ask for "
            f"at most {have}, or leave tokens out to take all."
        )
