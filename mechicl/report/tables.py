"""Tables for people and for screen readers, which a button or a plain selection copies."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from itertools import count, zip_longest
from numbers import Integral, Real
from typing import Any

import pandas as pd

from mechicl.models.tokenizers import visible

_FEW_ROWS = 12
_numbers = count(1)


def table_html(table: pd.DataFrame, caption: str) -> str:
    """A table with its caption, folded when it is long, and a button that copies it as tab-separated text.

    The caption of a long table has the columns that are the same in all rows; what is copied has them, too.
    """
    table = table.apply(_whole)
    opened, size, everywhere = " open", "1 row" if len(table) == 1 else f"{len(table)} rows", dict[str, str]()
    summary = f"{escape(caption)} ({size})"
    if len(table) > _FEW_ROWS:
        opened = ""
        same = [name for name in table if table[name].map(_plain).nunique() == 1]
        everywhere = {str(name): _plain(table[name].iloc[0]) for name in same}
        told = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in everywhere.items() if value)
        caption += f"; in all rows: {told}" if told else ""
        table = table.drop(columns=same)
    head = "".join(f'<th scope="col"{_side(table[column])}>{_text(str(column))}</th>' for column in table.columns)
    rows = "".join(_row(values) for values in table.itertuples(index=False, name=None))
    numbers = " ".join(f"c{place}" for place, column in enumerate(table, 1) if _side(table[column]))
    about = f' class="{numbers}" data-everywhere="{escape(json.dumps(everywhere))}"'
    return (
        f'<details class="numbers"{opened}><summary>{summary}</summary>{_copied(head, rows, caption, about)}</details>'
    )


def _whole(column: pd.Series[Any]) -> pd.Series[Any]:
    """Whole numbers as such: layers of which some are missing are floats."""
    if not pd.api.types.is_float_dtype(column) or not (column.dropna() % 1 == 0).all() or not column.max() > 1:
        return column
    return column.astype("Int64")


def column_rules(n: int = 40) -> str:
    """CSS that aligns numbers: a table of class c3 has them in its third column. One rule instead of many classes."""
    cells = ", ".join(f".c{place} td:nth-child({place})" for place in range(1, n + 1))
    return f"{cells}, th.number {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }}"


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


def _copied(head: str, rows: str, caption: str, about: str = "") -> str:
    """A table that scrolls, with its caption and a button that copies it."""
    name = f"table-{next(_numbers)}"
    return (
        f'<button type="button" class="copy" data-copies="{name}">Copy table</button>'
        f'<div class="scroll" role="region" aria-labelledby="{name}-caption" tabindex="0">'
        f'<table id="{name}"{about}><caption id="{name}-caption">{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _row(values: tuple[Any, ...]) -> str:
    """A row in as few bytes as HTML allows: a page has thousands."""
    return "<tr>" + "".join(f"<td>{escape(_plain(value))}" for value in values)


def _side(column: pd.Series[Any]) -> str:
    return " class=number" if pd.api.types.is_numeric_dtype(column) else ""


def _text(value: str) -> str:
    return f"<bdi>{escape(value)}</bdi>"


def _plain(value: Any) -> str:
    if value is pd.NA:
        return "–"
    if isinstance(value, Real) and not isinstance(value, Integral):
        number = float(value)
        return "–" if number != number else f"{number:.3g}" if 0 < abs(number) < 0.001 else f"{number:.4f}"
    if isinstance(value, list | tuple):
        return ", ".join(visible(one) if isinstance(one, str) else _plain(one) for one in value)
    return str(value)
