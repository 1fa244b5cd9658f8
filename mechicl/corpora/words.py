"""Map tokens to words by character offsets, because detokenization concerns words of several tokens."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Int
from torch import Tensor

from mechicl.doors import door
from mechicl.models.tokenizers import check_fast, encode_texts

IntArray = npt.NDArray[np.int64]

_OTHER = r"\s\d!-/:-@\[-`{-~«»¡¿\u2010-\u206f\u3000-\u303f\uff01-\uff0f\uff1a-\uff20"
"""Spaces, digits and punctuation. Characters outside `\\w`, such as Devanagari vowel signs, belong to the word."""
_WORD = re.compile(rf"[^{_OTHER}]+(?:['’][^{_OTHER}]+)*")


class WordSpan(NamedTuple):
    """The tokens `start` to `stop` (exclusive) spell one word: letters, with apostrophes inside (don't)."""

    start: int
    stop: int
    word: str


@door
def word_spans(tokenizer: Any, text: str) -> list[WordSpan]:
    """Words of a text and the tokens of each, as positions in `tokenizer(text, add_special_tokens=False)`.

    A token belongs to a word if it covers one of its characters, so the space in front may be part of a
    word's first token or a token of no word. Words that share a token with another word are left out.

    Raises:
        InputError: The tokenizer gives no character offsets.
    """
    check_fast(tokenizer)
    offsets = encode_texts(tokenizer, [text], return_offsets_mapping=True)["offset_mapping"][0]
    words, numbers = _WORD.findall(text), word_numbers(text, offsets)
    return [WordSpan(start, stop, words[number]) for start, stop, number in runs(numbers)]


def word_numbers(text: str, offsets: list[tuple[int, int]]) -> IntArray:
    """Number of the word that each token belongs to, in order of the text; -1 for none, or for more than one."""
    edges = np.array([match.span() for match in _WORD.finditer(text)], dtype=np.int64).reshape(-1, 2)
    begin, end = np.array(offsets, dtype=np.int64).reshape(-1, 2).T
    first = np.searchsorted(edges[:, 1], begin, side="right")
    last = np.searchsorted(edges[:, 0], end, side="left") - 1
    inseparable = np.zeros(len(edges), dtype=bool)
    for one, other in zip(first[first < last], last[first < last], strict=True):
        inseparable[one : other + 1] = True
    of_one_word = (first == last) & (begin < end)
    of_one_word[of_one_word] = ~inseparable[first[of_one_word]]
    return np.where(of_one_word, first, -1)


def runs(numbers: IntArray) -> list[tuple[int, int, int]]:
    """(start, stop, number) of every run of equal nonnegative numbers."""
    edges = np.flatnonzero(np.diff(numbers)) + 1
    starts, stops = np.r_[0, edges], np.r_[edges, len(numbers)]
    return [
        (int(start), int(stop), int(numbers[start]))
        for start, stop in zip(starts, stops, strict=True)
        if start < stop and numbers[start] >= 0
    ]


def pieces_so_far(words: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    """Which piece of its word each token is: 1 for the first, 2 for the second; 0 without a word."""
    count = torch.zeros_like(words)
    for position in range(words.shape[1]):
        goes_on = words[:, position] == words[:, position - 1] if position else torch.zeros_like(words[:, 0]).bool()
        before = count[:, position - 1] if position else torch.zeros_like(words[:, 0])
        count[:, position] = torch.where(words[:, position] >= 0, torch.where(goes_on, before, 0) + 1, 0)
    return count


def pieces_of_ended_words(words: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    """Number of pieces of the word that ends at each token; 0 if none ends."""
    following = torch.cat([words[:, 1:], torch.full_like(words[:, :1], -2)], 1)
    return torch.where(following != words, pieces_so_far(words), 0)
