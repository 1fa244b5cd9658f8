"""Token classes, defined by a suffix, by words, or by a test of the text; and other forms of suffixed words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from mechicl.errors import InputError

TokenClass = str | Sequence[str | int] | Sequence[str] | Sequence[int] | Callable[[str], bool]
"""A suffix ("-ing"), a word or several, token ids, or a test of a token's text (stripped, in lower case)."""

_ENDINGS = ("", "e", "s", "es", "ed", "ing", "er", "en")
_VOWELS = set("aeiouy")


def class_members(tokenizer: Any, token_class: TokenClass, d_vocab: int) -> Bool[Tensor, "d_vocab"]:
    """Which tokens are of a class. As in the authors' code, texts are compared stripped and in lower case.

    Raises:
        InputError: no token is of the class, or every one is.
    """
    texts = [text.strip().lower() for text in token_texts(tokenizer, d_vocab)]
    if isinstance(token_class, str) and token_class.startswith("-"):
        suffix = token_class[1:].lower()
        found = [text.endswith(suffix) for text in texts]
    elif callable(token_class):
        found = [bool(text) and bool(token_class(text)) for text in texts]
    else:
        named = [token_class] if isinstance(token_class, str) else list(token_class)
        words = {word.strip().lower() for word in named if isinstance(word, str)}
        ids = {token for token in named if isinstance(token, int)}
        found = [text in words or token in ids for token, text in enumerate(texts)]
    members = torch.tensor(found)
    if not 0 < int(members.sum()) < d_vocab:
        raise InputError(
            f"{int(members.sum())} of {d_vocab} tokens are of the class {describe(token_class)}; name a class that "
            "divides this vocabulary."
        )
    return members


def token_texts(tokenizer: Any, d_vocab: int) -> list[str]:
    """The text of every token, including its leading space if the tokenizer keeps it; InputError for None."""
    if tokenizer is None:
        raise InputError(
            "The model has no tokenizer, and classes of tokens are named by their text; copy tokenizer.json to its "
            "folder."
        )
    known = min(d_vocab, len(tokenizer))
    return [str(tokenizer.decode([token])) for token in range(known)] + [""] * (d_vocab - known)


def describe(token_class: TokenClass) -> str:
    """A class in a few words."""
    if isinstance(token_class, str):
        return token_class
    if callable(token_class):
        return "given by a test"
    named = [str(one) for one in token_class]
    return ", ".join(named[:4]) + (f" and {len(named) - 4} more" if len(named) > 4 else "")


def other_forms(tokenizer: Any, suffix: str, d_vocab: int) -> dict[int, int]:
    """Whole-word tokens in several forms of one stem, such as " going", " go" and " goes": token to number of its stem.

    Parts of speech are unknown: a stem is a token without the suffix, with a vowel in it, and its other forms are the
    stem with another ending, or undoubled (" running", " run").
    """
    pieces = tokenizer.convert_ids_to_tokens(list(range(min(d_vocab, len(tokenizer)))))
    whole = {piece[1:]: token for token, piece in enumerate(pieces) if piece and piece[0] in "Ġ▁ "}
    ending = suffix.removeprefix("-")
    stem_of: dict[int, int] = {}
    for number, (text, token) in enumerate(sorted(whole.items())):
        stem = text[: -len(ending)] if ending and text.endswith(ending) else ""
        if len(stem) < 2 or not _VOWELS & set(stem.lower()):
            continue
        bases = [stem, stem[:-1]] if stem[-1] == stem[-2] else [stem]
        spelled = [base + end for base in bases for end in _ENDINGS if end != ending]
        spelled += [stem[:-1] + end for end in ("ies", "ied") if stem.endswith("y")]
        forms = [whole[form] for form in spelled if form in whole and not form.endswith(ending)]
        if forms and token not in stem_of:
            for form in (token, *forms):
                stem_of.setdefault(form, number)
    return stem_of
