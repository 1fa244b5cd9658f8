"""How things show themselves in a notebook: a name, a sentence, a small table; every string from outside is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass
from html import escape
from typing import Any

from torch import Tensor

_LONGEST = 200
"""Characters of a value that are shown."""


def card(title: str, sentence: str, rows: Iterable[Sequence[str]], header: Sequence[str] = ()) -> str:
    """A small block of HTML; all arguments are plain text."""
    head = "".join(_cell("th", text) for text in header)
    body = "".join(f"<tr>{''.join(_cell('td', text) for text in row)}</tr>" for row in rows)
    table = f"<table>{f'<tr>{head}</tr>' if head else ''}{body}</table>" if head or body else ""
    return f"<div><b>{escape(title)}</b> {escape(sentence)}</div>{table}"


def described(thing: Any) -> str:
    """A dataclass as a card: its name, the first sentence of its docstring, and its fields."""
    rows = [(field.name, shown(getattr(thing, field.name))) for field in fields(thing)] if is_dataclass(thing) else []
    return card(type(thing).__name__, _first_sentence(type(thing)), rows)


def shown(value: Any) -> str:
    """A value in a few words: a tensor by shape and range, anything else by its repr, shortened."""
    if isinstance(value, Tensor):
        spread = f", {float(value.min()):.4g} to {float(value.max()):.4g}" if value.numel() else ""
        return f"{list(value.shape)}{spread}"
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _cell(tag: str, text: str) -> str:
    return f'<{tag} style="text-align:left"><bdi>{escape(text)}</bdi></{tag}>'


def _first_sentence(kind: type) -> str:
    """The first sentence of a class's docstring; the one that dataclasses make up says nothing."""
    text = " ".join((kind.__doc__ or "").split())
    return "" if text.startswith(f"{kind.__name__}(") else text.split(". ")[0].rstrip(".:")
