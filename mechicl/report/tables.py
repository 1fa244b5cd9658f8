"""Tables for people and for screen readers, to be copied by a button or by plain selection."""

from __future__ import annotations

from html import escape
from itertools import count
from numbers import Integral, Real
from typing import Any

import pandas as pd

_FEW_ROWS = 12
_numbers = count(1)


def table_html(table: pd.DataFrame, caption: str) -> str:
    """A table with its caption, folded when it is long, and a button that copies it as tab-separated text."""
    name = f"table-{next(_numbers)}"
    head = "".join(f'<th scope="col"{_side(table[column])}>{_text(column)}</th>' for column in table.columns)
    rows = "".join(_row(values) for values in table.itertuples(index=False, name=None))
    opened = " open" if len(table) <= _FEW_ROWS else ""
    return (
        f'<details class="numbers"{opened}><summary>{escape(caption)} ({len(table)} rows)</summary>'
        f'<button type="button" class="copy" data-copies="{name}">Copy table</button>'
        f'<div class="scroll" role="region" aria-labelledby="{name}-caption" tabindex="0">'
        f'<table id="{name}"><caption id="{name}-caption">{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div></details>"
    )


def _row(values: tuple[Any, ...]) -> str:
    cells = [f"<td{' class=number' if isinstance(value, Real) else ''}>{_text(value)}</td>" for value in values]
    return f"<tr>{''.join(cells)}</tr>"


def _side(column: pd.Series[Any]) -> str:
    return " class=number" if pd.api.types.is_numeric_dtype(column) else ""


def _text(value: Any) -> str:
    if isinstance(value, Real) and not isinstance(value, Integral):
        return "–" if value != value else f"{float(value):.4f}"
    return f"<bdi>{escape(str(value))}</bdi>"
