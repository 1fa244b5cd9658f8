"""Strings that record where a template has a special token. The name of a special token in the data is plain text."""

from __future__ import annotations

import copy
import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from mechicl.models.tokenizers import check_fast, encode_texts


@dataclass
class Written:
    """A string under construction."""

    tokenizer: Any
    string: str = ""
    special: list[tuple[int, int]] = field(default_factory=list)
    """Characters of each special token in the template."""

    def __post_init__(self) -> None:
        check_fast(self.tokenizer)

    def template(self, part: str) -> Written:
        """Add a part of a template; names of special tokens in it become these tokens."""
        start = len(self.string)
        self.special += [(start + name.start(), start + name.end()) for name in _names(self.tokenizer).finditer(part)]
        return self.text(part)

    def text(self, part: str) -> Written:
        """Add plain text, whatever names it contains."""
        self.string += part
        return self


class Encoded(NamedTuple):
    """Token ids of a string, and the characters that each covers."""

    tokens: list[int]
    offsets: list[tuple[int, int]]


def encode(tokenizer: Any, texts: Iterable[Written | str]) -> list[Encoded]:
    """Token ids and characters of whole strings, without added tokens.

    Raises:
        InputError: There is no tokenizer, it is a slow one, which does not give a token's characters, or it cannot
            encode a text.
    """
    check_fast(tokenizer)
    written = [text if isinstance(text, Written) else Written(tokenizer, text) for text in texts]
    if not written:
        return []
    with_aliases = any(text.special for text in written)
    reader = _reader(tokenizer) if with_aliases else _Reader(tokenizer, {}, {})
    aliased = [_aliased(text, reader.aliases) for text in written]
    encoded = encode_texts(
        reader.tokenizer, [string for string, _, _ in aliased], return_offsets_mapping=True,
        return_attention_mask=False, padding=False, truncation=False,
    )  # fmt: skip
    rows = zip(encoded["input_ids"], encoded["offset_mapping"], aliased, strict=True)
    return [
        Encoded(
            [reader.ids.get(token, token) for token in tokens],
            [(_moved(start, ends, shifts), _moved(stop, ends, shifts)) for start, stop in offsets],
        )
        for tokens, offsets, (_, ends, shifts) in rows
    ]


class _Reader(NamedTuple):
    """A tokenizer that also knows every special token by an alias, which no text can contain.

    Tokenizers split a text at an added token, special or not. So the surrounding text is split as around the special
    token itself, while names of special tokens in the text are read as text.
    """

    tokenizer: Any
    aliases: dict[str, str]
    """Aliases by the name of the special token."""
    ids: dict[int, int]
    """Id of the special token by id of the alias."""


_readers: WeakKeyDictionary[Any, tuple[int, _Reader]] = WeakKeyDictionary()


def _reader(tokenizer: Any) -> _Reader:
    """Cached per tokenizer until it gets more tokens, because it is a copy."""
    known = _readers.get(tokenizer)
    if known is None or known[0] != len(tokenizer):
        from tokenizers import AddedToken

        special, reader = _special(tokenizer), copy.deepcopy(tokenizer)
        aliases = {name: f"\ue000{token_hex(8)}\ue000" for name in special}
        reader.add_tokens(
            [AddedToken(aliases[name], lstrip=token.lstrip, rstrip=token.rstrip, normalized=False)
             for name, token in special.items()]
        )  # fmt: skip
        ids = {reader.convert_tokens_to_ids(alias): tokenizer.convert_tokens_to_ids(n) for n, alias in aliases.items()}
        known = _readers[tokenizer] = (len(tokenizer), _Reader(reader, aliases, ids))
    return known[1]


def _special(tokenizer: Any) -> dict[str, Any]:
    """The special tokens by their names."""
    return {str(token): token for token in tokenizer.added_tokens_decoder.values() if token.special}


_patterns: WeakKeyDictionary[Any, tuple[int, re.Pattern[str]]] = WeakKeyDictionary()


def _names(tokenizer: Any) -> re.Pattern[str]:
    """Matches the longest name of a special token at a place."""
    known = _patterns.get(tokenizer)
    if known is None or known[0] != len(tokenizer):
        names = sorted(map(re.escape, _special(tokenizer)), key=len, reverse=True)
        known = _patterns[tokenizer] = (len(tokenizer), re.compile("|".join(names) or "(?!)"))
    return known[1]


def _aliased(text: Written, aliases: dict[str, str]) -> tuple[str, list[int], list[int]]:
    """The string with aliases, the end of each, and the offset of the text after it."""
    string, done, ends, shifts = "", 0, list[int](), list[int]()
    for start, stop in text.special:
        string += text.string[done:start] + aliases[text.string[start:stop]]
        done = stop
        ends.append(len(string))
        shifts.append(len(string) - stop)
    return string + text.string[done:], ends, shifts


def _moved(place: int, ends: list[int], shifts: list[int]) -> int:
    """Convert a place in the string with aliases to a place in the string itself."""
    before = bisect_right(ends, place)
    return place - shifts[before - 1] if before else place
