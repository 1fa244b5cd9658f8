"""What several figures have: a panel per task, horizontal bars of means, marks on them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from mechicl.figures import INK, error_bars, panels

PAPER_MODELS = {"paper: GPT2-XL": "diamond-open", "paper: GPT-J": "circle-open"}
"""The marks of the paper's numbers, in the order of its tables."""


def task_panels(summary: pd.DataFrame) -> tuple[go.Figure, list[pd.DataFrame]]:
    """A figure with an empty panel for each task and number of shots, and the rows of each."""
    tasks = {f"{task}, {n} per class": rows for (task, n), rows in summary.groupby(["task", "shots"], sort=False)}
    return panels(list(tasks)), list(tasks.values())


def add_bars(
    figure: go.Figure, rows: pd.DataFrame, names: Iterable[str], colours: Sequence[str], column: int, **more: Any
) -> None:
    """Draw the mean of each row as a bar, with its interval where all have one; `more` is plotly's."""
    style = {"hovertemplate": "%{y}: %{x:.4f}<extra></extra>", **more}
    if rows["low"].notna().all():
        style["error_x"] = error_bars(rows)
    figure.add_bar(
        y=names, x=rows["mean"], orientation="h", showlegend=False, marker_color=colours, row=1, col=column, **style
    )


def add_marks(
    figure: go.Figure, names: Iterable[str], values: Iterable[float], symbol: str, name: str, column: int, **more: Any
) -> None:
    """Draw a mark at a value on each of the named bars; `more` is plotly's."""
    marker = {"symbol": symbol, "size": 12, "color": INK, "line": {"width": 2}}
    style = {"hovertemplate": "%{x:.4f}", "legendgroup": name, "marker": marker, **more}
    figure.add_scatter(y=names, x=values, mode="markers", name=name, row=1, col=column, **style)
