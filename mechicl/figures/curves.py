"""Parts of figures: panels, and curves with a band for every mean and exact values on hover."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from mechicl.figures.colours import faint
from mechicl.figures.text import plain


def panels(
    names: Sequence[str], *, common: bool = True, rows: int = 1, widths: Sequence[float] | None = None
) -> go.Figure:
    """An empty figure with one panel per name, on a common y axis or on separate ones.

    Panels are addressed by row and column; without `rows` they are in one row, which wraps on narrow pages.
    `widths` are those of the columns, relative to each other.
    """
    from plotly.subplots import make_subplots

    columns = len(names) // rows
    figure = make_subplots(
        rows=rows, cols=columns, subplot_titles=[plain(name) or " " for name in names],
        shared_yaxes=common and rows == 1,
    )  # fmt: skip
    figure.layout.meta = {
        "panels": list(names), "common": common, "columns": columns if rows > 1 or widths else None,
        "widths": None if widths is None else list(widths),
    }  # fmt: skip
    return figure


def add_curve(
    figure: go.Figure,
    rows: pd.DataFrame,
    *,
    x: str,
    name: str,
    colour: str,
    dash: str = "solid",
    legend: bool = True,
    column: int = 1,
) -> None:
    """Draw the mean of `rows` with the band between its columns `low` and `high`."""
    grid = {"row": 1, "col": column} if figure._grid_ref is not None else {}
    for trace in curve_traces(rows, x=x, name=name, colour=colour, dash=dash):
        figure.add_trace(trace.update(showlegend=legend and not trace.fill), **grid)


def curve_traces(rows: pd.DataFrame, *, x: str, name: str, colour: str, dash: str = "solid") -> list[go.Scatter]:
    """The mean of `rows` by the column `x`, on top of the band between `low` and `high` if all rows have both."""
    name = plain(name)
    banded = len(rows) > 0 and bool(rows["low"].notna().all())
    interval = "  [%{customdata[0]:.4f}, %{customdata[1]:.4f}]" if banded else ""
    mean = go.Scatter(
        x=rows[x], y=rows["mean"], name=name, legendgroup=name, mode="lines+markers",
        line={"color": colour, "width": 2.5, "dash": dash}, marker={"size": 5}, customdata=rows[["low", "high"]],
        hovertemplate="%{y:.4f}" + interval,
    )  # fmt: skip
    return [band(rows, x, colour, legendgroup=name), mean] if banded else [mean]


def band(rows: pd.DataFrame, x: str, colour: str, **more: Any) -> go.Scatter:
    """The area between the columns `low` and `high` of `rows`."""
    return go.Scatter(
        x=pd.concat([rows[x], rows[x][::-1]]), y=pd.concat([rows["low"], rows["high"][::-1]]), mode="lines",
        fill="toself", fillcolor=faint(colour), line={"width": 0}, hoverinfo="skip", showlegend=False, **more,
    )  # fmt: skip


def error_bars(rows: pd.DataFrame, **more: Any) -> dict[str, Any]:
    """From the column `low` to the column `high` around `mean`, as plotly's `error_x` and `error_y` take it."""
    up, down = rows["high"] - rows["mean"], rows["mean"] - rows["low"]
    return {"type": "data", "array": up, "arrayminus": down, "symmetric": False, **more}
