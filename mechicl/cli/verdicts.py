"""Verdicts on a terminal: the last lines of `run` and `reproduce`."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mechicl.claims import Verdicts

_WIDTHS = {"verdict": 15, "effect": 22, "n": 11}
_NARROWEST, _GAP = 24, 2  # the gap is the padding and the box's blank


def print_verdicts(verdicts: Verdicts, console: Console) -> None:
    """Print a row per claim, with the verdict for each model and task, and below it why some are undecided."""
    if not verdicts:
        return
    cells: dict[str, list[tuple[str, ...]]] = {}
    for verdict, row in zip(verdicts, verdicts.rows(), strict=True):
        place = [f"({row['on']})"] if row.get("on") else []
        unit = [] if verdict.size() == "–" else [verdict.claim.unit]
        lines = [verdict.outcome, *place], [verdict.size(), *unit], verdict.counts().split(", ")
        cells.setdefault(row["claim"], []).append(_aligned(*lines))
    taken = sum(  # a long model's name may need more than its column's usual width
        max(least, *(len(line) for rows in cells.values() for row in rows for line in row[column].split("\n")))
        for column, least in enumerate(_WIDTHS.values())
    )
    width = max(_NARROWEST, console.width - taken - _GAP * len(_WIDTHS))
    table = Table("claim", *_WIDTHS, box=SIMPLE_HEAD, padding=(0, _GAP - 1, 0, 0), pad_edge=False, show_edge=False)
    for claim, rows in cells.items():
        table.add_row("\n".join(wrap(claim, width, break_on_hyphens=False)), *map("\n".join, zip(*rows, strict=True)))
        table.add_section()
    console.print(table)
    for reason in dict.fromkeys(one.reason for one in verdicts if one.reason):
        console.print(f"Undecided: {reason}")


def _aligned(*columns: Sequence[str]) -> tuple[str, ...]:
    """Verdict, effect and n of one verdict, each padded to the same number of lines."""
    widths = _WIDTHS.values()
    wrapped = [
        [line for text in texts for line in wrap(text, width, break_on_hyphens=False, break_long_words=False)]
        for texts, width in zip(columns, widths, strict=True)
    ]
    longest = max(map(len, wrapped))
    return tuple("\n".join(lines + [""] * (longest - len(lines))) for lines in wrapped)
