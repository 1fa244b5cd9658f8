"""Running text as tokens: sequences that know their documents and words, and the batches a model is given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from html import escape
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mechicl.corpora.words import WordSpan, runs
from mechicl.doors import door
from mechicl.errors import InputError, check_count
from mechicl.models import tokenizer_digest


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """Sequences of one batch, padded on the right: with causal attention no real token sees the padding."""

    tokens: Int[Tensor, "batch pos"]
    lengths: Int[Tensor, "batch"]
    words: Int[Tensor, "batch pos"] | None = None
    """Word that a token belongs to; -1 for none."""

    @property
    def real(self) -> Bool[Tensor, "batch pos"]:
        """Which positions hold a token rather than padding."""
        return torch.arange(self.tokens.shape[1], device=self.tokens.device) < self.lengths[:, None]

    @property
    def device(self) -> torch.device:
        return self.tokens.device

    def __len__(self) -> int:
        return len(self.tokens)

    def to(self, device: torch.device | str) -> TokenBatch:
        """The same batch on another device."""
        words = None if self.words is None else self.words.to(device)
        return TokenBatch(self.tokens.to(device), self.lengths.to(device), words)


@door
@dataclass(frozen=True, eq=False, repr=False)
class TokenCorpus:
    """Sequences of tokens of running text; made by `load_corpus`."""

    tokens: Int[Tensor, "sequence pos"]
    """Padded on the right with 0 where `lengths` says so."""
    lengths: Int[Tensor, "sequence"]
    documents: Int[Tensor, "sequence pos"]
    """Document that a token comes from, counted as read; -1 for BOS and padding."""
    words: Int[Tensor, "sequence pos"]
    """Word that a token belongs to, counted through the corpus; -1 for none, and for words cut by a sequence's edge.
    """
    tokenizer: Any
    prepend_bos: bool
    """Position 0 of every sequence is BOS; predictions from it, and attention to it, are a separate matter.
    """
    source: str = ""
    origin: Mapping[str, Any] = field(default_factory=dict)
    """How the sequences were made; plain values, for provenance."""
    tokenizer_digest: str | None = None
    """Digest of the tokenizer at the time the corpus was made (see `mechicl.models.tokenizer_digest`)."""

    remedy: ClassVar = ("This text was tokenized", "load it again with load_corpus(model.tokenizer, ...)")
    """What it is, and what to do if another tokenizer made it."""

    def __post_init__(self) -> None:
        shape = tuple(self.tokens.shape)
        if (*self.documents.shape, *self.words.shape, *self.lengths.shape) != (*shape, *shape, *shape[:1]):
            raise InputError("Documents and words need one number per token, lengths one per sequence.")
        if len(self.tokens) and not 0 < int(self.lengths.min()) <= int(self.lengths.max()) <= shape[1]:
            raise InputError(f"The length of a sequence is outside 1 to {shape[1]} tokens.")
        if self.tokenizer_digest is None:
            object.__setattr__(self, "tokenizer_digest", tokenizer_digest(self.tokenizer))

    @property
    def tokenizer_digests(self) -> frozenset[str]:
        """The digest of its tokenizer."""
        return frozenset({self.tokenizer_digest or ""})

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def n_tokens(self) -> int:
        """Number of tokens of text, without BOS and padding."""
        return int((self.documents >= 0).sum())

    @property
    def document_of(self) -> Int[Tensor, "sequence"]:
        """The document that most tokens of each sequence come from: sequences of one document are not independent."""
        return torch.stack([row[row >= 0].mode().values if (row >= 0).any() else row[0] for row in self.documents])

    def __getitem__(self, rows: slice) -> TokenCorpus:
        if not isinstance(rows, slice):
            raise InputError(f"A corpus has no item {rows!r}; use a slice, such as corpus[:3], or select.")
        return self.select(range(len(self))[rows])

    @door
    def select(self, indices: Sequence[int]) -> TokenCorpus:
        """The sequences at these indices, in this order."""
        rows = torch.tensor(list(indices), dtype=torch.long)
        if len(absent := rows[(rows < -len(self)) | (rows >= len(self))]):
            raise InputError(f"There is no sequence {int(absent[0])}; this corpus has {len(self)}, counted from 0.")
        parts = {name: getattr(self, name)[rows] for name in ("tokens", "lengths", "documents", "words")}
        return replace(self, **parts, origin={**self.origin, "selected": len(rows)})

    @door
    def apart(self, tokens: int) -> tuple[TokenCorpus, TokenCorpus]:
        """The first sequences that hold at least `tokens` tokens of text, and those after them that share no document.

        Raises:
            InputError: one of the two would be empty.
        """
        check_count("tokens", tokens)
        have = (self.documents >= 0).sum(1).cumsum(0)
        n = min(int((have < tokens).sum()) + 1, len(self))
        known = torch.unique(self.documents[:n])
        known = known[known >= 0]
        rest = [row for row in range(n, len(self)) if not bool(torch.isin(self.documents[row], known).any())]
        if not rest:
            raise InputError(
                f"Every sequence of {self.source} holds a document of its first {tokens} tokens; give more text."
            )
        return self[:n], self.select(rest)

    def batch(self, device: torch.device | str | None = None) -> TokenBatch:
        """All sequences in one batch, in order, no wider than the longest."""
        if not len(self):
            raise InputError("A batch needs at least one sequence; this corpus has none.")
        widest = int(self.lengths.max())
        batch = TokenBatch(self.tokens[:, :widest], self.lengths, self.words[:, :widest])
        return batch if device is None else batch.to(device)

    @door
    def chunks(self, size: int) -> Iterator[tuple[int, ...]]:
        """Indices of at most `size` sequences at a time, longest first, to minimise padding."""
        check_count("batch_size", size)
        size = int(min(size, max(1, len(self))))
        for rows in torch.split(self.lengths.argsort(descending=True, stable=True), size):
            yield tuple(rows.tolist())

    def batches(
        self, size: int, device: torch.device | str | None = None
    ) -> Iterator[tuple[tuple[int, ...], TokenBatch]]:
        """Every sequence once, as (indices into this corpus, batch): see `chunks`."""
        for indices in self.chunks(size):
            yield indices, self.select(indices).batch(device)

    def word_spans(self, index: int) -> list[WordSpan]:
        """The words of one sequence and the positions of their tokens; see `mechicl.corpora.word_spans`."""
        if "words_by" not in self.origin:
            raise InputError("Finding words needs the character offsets of a fast tokenizer; use one.")
        one = self.select([index])
        tokens = one.tokens[0].tolist()
        return [
            WordSpan(start, stop, self.tokenizer.decode(tokens[start:stop]).strip())
            for start, stop, _ in runs(one.words[0].numpy())
        ]

    def text(self, index: int) -> str:
        """One sequence as text, without its BOS."""
        one = self.select([index])
        tokens = one.tokens[0, int(self.prepend_bos) : int(one.lengths[0])]
        return str(self.tokenizer.decode(tokens.tolist()))

    def digest(self) -> str:
        """SHA-256 of the tokens, their documents and words, the lengths, and whether BOS was prepended."""
        digest = sha256(f"{tuple(self.tokens.shape)} {self.prepend_bos}".encode())
        for tensor in (self.tokens, self.lengths, self.documents, self.words):
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def sequence_digests(self) -> list[str]:
        """The first 16 digits of the SHA-256 of each sequence's tokens, to check whether two corpora share any."""
        rows = zip(self.tokens, self.lengths.tolist(), strict=True)
        return [sha256(row[:length].contiguous().numpy().tobytes()).hexdigest()[:16] for row, length in rows]

    def provenance(self) -> dict[str, Any]:
        """Provenance of the text, as plain values."""
        return {
            "source": self.source, "sequences": len(self), "tokens": self.n_tokens, "prepend_bos": self.prepend_bos,
            "digest": self.digest(), **self.origin,
        }  # fmt: skip

    def __repr__(self) -> str:
        return (
            f"TokenCorpus({self.source}: {len(self)} sequences of up to {self.tokens.shape[1]} positions, "
            f"{self.n_tokens} tokens of text, prepend_bos={self.prepend_bos})"
        )

    def _repr_html_(self) -> str:
        shown = "".join(f"<li>{escape(self.text(i)[:400])}</li>" for i in range(min(3, len(self))))
        return f"<p>{escape(repr(self))}</p><ol>{shown}</ol>"
