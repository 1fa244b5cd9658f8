"""A figure as data: panels of curves with their bands, levels, bars and marks, which `Study.figure` draws."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.basedatatypes import BaseTraceType

from mechicl.figures import INK, bounded, coordinates, curve_traces, error_bars, panels, styled


@dataclass(frozen=True)
class Curve:
    """Means with their band: the rows of a metric in which the columns of `where` hold these values."""

    metric: str
    name: str
    colour: str
    dash: str = "solid"
    where: Mapping[str, Any] = field(default_factory=dict)


class Level(NamedTuple):
    """A horizontal line across a panel."""

    value: float
    colour: str
    text: str = ""
    dash: str = "dot"


class Panel(NamedTuple):
    """One pair of axes, and its content from back to front."""

    title: str
    content: Sequence[Curve | Level | BaseTraceType]
    x_axis: Mapping[str, Any] = {}
    """Settings of this panel's x axis, as plotly names them."""
    y_axis: Mapping[str, Any] = {}
    main: str = ""
    """The name of the curve that many models share in place of all; by default the first."""


NO_PANEL = Panel("", (), {"visible": False}, {"visible": False})
"""Fills a row that has fewer panels than columns."""


@dataclass(frozen=True)
class Drawing:
    """A figure: the table of means that curves are read from, and the panels."""

    rows: pd.DataFrame
    panels: Sequence[Panel]
    x: str = "layer"
    """Column on the x axis."""
    x_title: str | None = None
    """Title of the x axis, by default the column."""
    y_title: str = ""
    note: str = ""
    """Text at the end of the subtitle."""
    about: str = ""
    """Text after the study's title."""
    common: bool = False
    """Whether all panels share a y axis."""
    y_axis: Mapping[str, Any] = field(default_factory=dict)
    """Settings of every y axis, as plotly names them."""
    widths: Sequence[float] = ()
    """Relative widths of columns; if empty, the page's width determines the number of panels per row."""
    height: int = 300
    """Height of a panel, in pixels."""
    hover: str = "x unified"


def draw(drawing: Drawing, *, title: str, subtitle: str) -> go.Figure:
    """The figure in the house style, with one legend entry per name."""
    columns = len(drawing.widths) or len(drawing.panels)
    figure = panels(
        [panel.title for panel in drawing.panels], common=drawing.common, rows=len(drawing.panels) // columns,
        widths=drawing.widths or None,
    )  # fmt: skip
    named: set[str] = set()
    whole = drawing.x in drawing.rows and pd.api.types.is_integer_dtype(drawing.rows[drawing.x])
    beyond = False
    for place, panel in enumerate(drawing.panels):
        grid = {"row": place // columns + 1, "col": place % columns + 1}
        traces = _all_traces(drawing, panel)
        for trace in traces:
            if trace.showlegend is None:
                trace.update(showlegend=bool(trace.name) and trace.name not in named, legendgroup=trace.name)
                named.add(trace.name)
        counted = whole and any(isinstance(item, Curve | go.Heatmap) for item in panel.content)
        axes = {"x": {**({"dtick": 1} if counted else {}), **panel.x_axis}, "y": {**drawing.y_axis, **panel.y_axis}}
        marks = _bound(axes, traces, panel, common=drawing.common)
        beyond = beyond or bool(marks)
        for trace in (*traces, *marks):
            if trace.type == "scatter":
                trace.cliponaxis = False  # do not clip marks at the ends of an axis
            figure.add_trace(trace, **grid)
        for level in panel.content:
            if isinstance(level, Level):
                # After the traces, because plotly ignores lines in an empty panel.
                _add_level(figure, level, coordinates(traces, "y"), grid)
        figure.update_xaxes(axes["x"], **grid)
        figure.update_yaxes(axes["y"], **grid)
    if beyond:
        subtitle = f"{subtitle}; triangles: values beyond the axis"
    x_title = drawing.x if drawing.x_title is None else drawing.x_title
    styled(figure, title=title, subtitle=subtitle, x=x_title, y=drawing.y_title, height=drawing.height)
    return figure.update_layout(hovermode=drawing.hover)


def where(table: pd.DataFrame, **values: Any) -> pd.DataFrame:
    """The rows in which these columns hold these values."""
    for column, value in values.items():
        table = table[table[column] == value]
    return table


def bars(rows: pd.DataFrame, names: Iterable[str], colours: Sequence[str], **more: Any) -> go.Bar:
    """Horizontal bars: the mean of each row, with its interval where all have one; `more` is plotly's."""
    style = {"hovertemplate": "%{y}: %{x:.4f}<extra></extra>", "showlegend": False, **more}
    if rows["low"].notna().all():
        style["error_x"] = error_bars(rows)
    return go.Bar(y=list(names), x=rows["mean"], orientation="h", marker_color=colours, **style)


def head_grids(grids: Mapping[str, np.ndarray], unit: str, *, logarithm: bool = False, **more: Any) -> list[Panel]:
    """Panels with a value for each head [layer head], by title, on one scale. `more` is plotly's.

    The scale covers all but the 1 % of heads that are furthest from 0.
    """
    ticks = {"tickmode": "array", "tickvals": [-1, 0, 1, 2], "ticktext": ["≤ 0.1", "1", "10", "≥ 100"]}
    sizes = [np.abs(values[np.isfinite(values)]) for values in grids.values()]
    limit = float(np.quantile(np.concatenate([*sizes, [1e-9]]), 0.99))
    style = {"colorscale": "RdBu_r", "zmin": -limit, "zmax": limit}
    if logarithm:
        style = {"colorscale": "Viridis", "zmin": -1, "zmax": 2}
    panels = list[Panel]()
    for title, values in grids.items():
        n_layers, n_heads = values.shape
        grid = go.Heatmap(
            z=np.log10(np.maximum(values, 0.1)) if logarithm else values, customdata=values,
            x=list(range(n_heads)), y=list(range(n_layers)),
            colorbar={"title": {"text": unit, "side": "right"}, **(ticks if logarithm else {})},
            hovertemplate="layer %{y}, head %{x}: %{customdata:.3g}<extra></extra>", **style | more,
        )  # fmt: skip
        heads, layers = ({"title_text": name, "dtick": 1} for name in ("head", "layer"))
        panels.append(Panel(title, [grid], heads, layers))
    return panels


def marks(names: Iterable[str], values: Iterable[float], symbol: str, name: str, **more: Any) -> go.Scatter:
    """A mark at a value on each of the named bars; `more` is plotly's."""
    marker = {"symbol": symbol, "size": 12, "color": INK, "line": {"width": 2}}
    style = {"hovertemplate": "%{x:.4f}", "marker": marker, **more}
    return go.Scatter(y=list(names), x=list(values), mode="markers", name=name, **style)


def _all_traces(drawing: Drawing, panel: Panel) -> list[Any]:
    """The items of a panel other than its levels."""
    return [
        trace
        for item in panel.content
        if not isinstance(item, Level)
        for trace in (_traces(drawing, item) if isinstance(item, Curve) else (item,))
    ]


def _bound(axes: dict[str, dict[str, Any]], traces: Sequence[Any], panel: Panel, *, common: bool) -> list[go.Scatter]:
    """Keep outliers and wide intervals from setting the range of the value axis; return marks for points beyond it."""
    letter = "x" if any(trace.type == "bar" and trace.orientation == "h" for trace in traces) else "y"
    axis = axes[letter]
    if (common and letter == "y") or axis.get("range") or axis.get("type") == "log":
        return []
    levels = [item.value for item in panel.content if isinstance(item, Level)]
    zero = axis.get("rangemode") == "tozero"
    limits, marks = bounded(traces, letter, levels=levels, zero=zero, main=panel.main)
    if limits is not None:
        axis["range"] = limits
    return marks


def _traces(drawing: Drawing, item: Curve) -> list[go.Scatter]:
    """Nothing where the table has no such rows."""
    rows = where(drawing.rows, metric=item.metric, **item.where)
    if rows.empty:
        return []
    return curve_traces(rows, x=drawing.x, name=item.name, colour=item.colour, dash=item.dash)


def _add_level(figure: go.Figure, level: Level, values: np.ndarray, grid: Mapping[str, int]) -> None:
    line = {"color": level.colour, "dash": level.dash}
    lowest = level.value <= values.min(initial=np.inf)  # the x axis's ticks are below it
    position = "top right" if lowest else "bottom right"
    text = {"annotation_text": level.text, "annotation_position": position} if level.text else {}
    figure.add_hline(level.value, line=line, **text, **grid)
