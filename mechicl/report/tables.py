"""Tables for people and for screen readers, which a button or a plain selection copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import count, zip_longest
from numbers import Integral, Real
from typing import Any

import pandas as pd

_FEW_ROWS = 12
_numbers = count(1)


def table_html(table: pd.DataFrame, caption: str) -> str:
    """A table with its caption, folded when it is long, and a button that copies it as tab-separated text."""
    head = "".join(f'<th scope="col"{_side(table[column])}>{_text(str(column))}</th>' for column in table.columns)
    rows = "".join(_row(values) for values in table.itertuples(index=False, name=None))
    opened = " open" if len(table) <= _FEW_ROWS else ""
    size = "1 row" if len(table) == 1 else f"{len(table)} rows"
    return (
        f'<details class="numbers"{opened}><summary>{escape(caption)} ({size})</summary>'
        f"{_copied(head, rows, caption)}</details>"
    )


def verdicts_html(rows: Sequence[Mapping[str, str]], caption: str, links: Sequence[str] = ()) -> str:
    """A table of `Verdicts.rows`; a row's study links to its section. On a narrow page each row is a block."""
    head = "".join(f'<th scope="col">{_text(name)}</th>' for name in rows[0])
    body = "".join(_verdict(row, link) for row, link in zip_longest(rows, links))
    return _copied(head, body, caption, ' class="verdicts"')


def _verdict(row: Mapping[str, str], link: str | None) -> str:
    cells = {name: _text(text) for name, text in row.items()}
    if link is not None:
        cells["study"] = f'<a href="{link}">{cells["study"]}</a>'
    cells["verdict"] = f'<b class="{row["verdict"]}">{cells["verdict"]}</b>'
    return "<tr>" + "".join(f'<td data-name="{name}">{cell}</td>' for name, cell in cells.items()) + "</tr>"


def _copied(head: str, rows: str, caption: str, kind: str = "") -> str:
    """A table that scrolls, with its caption and a button that copies it."""
    name = f"table-{next(_numbers)}"
    return (
        f'<button type="button" class="copy" data-copies="{name}">Copy table</button>'
        f'<div class="scroll" role="region" aria-labelledby="{name}-caption" tabindex="0">'
        f'<table id="{name}"{kind}><caption id="{name}-caption">{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _row(values: tuple[Any, ...]) -> str:
    """A row in as few bytes as HTML allows: a page has thousands."""
    cells = [f"<td{' class=number' if isinstance(value, Real) else ''}>{_plain(value)}" for value in values]
    return f"<tr>{''.join(cells)}"


def _side(column: pd.Series[Any]) -> str:
    return " class=number" if pd.api.types.is_numeric_dtype(column) else ""


def _text(value: str) -> str:
    return f"<bdi>{escape(value)}</bdi>"


def _plain(value: Any) -> str:
    if isinstance(value, Real) and not isinstance(value, Integral):
        return "–" if value != value else f"{float(value):.4f}"
    return escape(str(value))
