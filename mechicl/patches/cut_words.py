"""Cut a word's last piece off from its other pieces: a causal test of detokenization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mechicl.corpora import TokenBatch, pieces_of_ended_words
from mechicl.errors import InputError
from mechicl.patches.cut_edges import CutEdges


@dataclass(frozen=True)
class CutWords(CutEdges):
    """In some layers, the last piece of every word of several tokens no longer attends to certain tokens.

    `where="within"` cuts its attention to the word's own earlier pieces; `"before"`, the control, to the same number of
    tokens just before the word. Words so near the beginning that the control has no room are unchanged in both
    (`cut_words` gives those that are cut).
    """

    where: Literal["within", "before"] = "within"

    def edges(self, batch: TokenBatch, layers: tuple[int, ...]) -> list[Bool[Tensor, "batch query key"]]:
        return [self.mask(words_of(batch))] * len(layers)

    def mask(self, words: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch query key"]:
        """True where an edge is cut."""
        pieces = cut_words(words)[:, :, None]
        position = torch.arange(words.shape[1], device=words.device)
        distance = position[:, None] - position  # [query key]
        nearest = torch.ones_like(pieces) if self.where == "within" else pieces
        return (pieces > 1) & (distance >= nearest) & (distance <= nearest + pieces - 2)


def cut_words(words: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    """Number of pieces at the last piece of every word that is cut (several pieces, room before it); 0 elsewhere."""
    pieces = pieces_of_ended_words(words)
    room = torch.arange(words.shape[1], device=words.device) - (2 * pieces - 2)
    return torch.where((pieces > 1) & (room >= 1), pieces, 0)


def words_of(batch: Any) -> Int[Tensor, "batch pos"]:
    """The words of a batch of running text.

    Raises:
        InputError: the batch has none.
    """
    words = getattr(batch, "words", None)
    if words is None or bool((words < 0).all()):
        raise InputError("This patch needs words; use running text and a fast tokenizer, which has character offsets.")
    assert isinstance(words, Tensor)
    return words
