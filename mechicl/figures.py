"""The one plotly style: the same colour for the same thing everywhere, a band for every mean, exact values on hover."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

# Okabe and Ito's palette: told apart by every kind of colour vision.
BLUE, VERMILION, GREEN, ORANGE, SKY, PURPLE, GREY = (
    "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7", "#6E6E6E",
)  # fmt: skip
TEXT_COLOUR, LABEL_COLOUR, TARGET_COLOUR = SKY, ORANGE, GREEN
"""Colours of the three roles of a token: demonstration text w, label word p, target position q."""


def styled(
    figure: go.Figure, *, title: str, x: str, y: str, subtitle: str = "", counts: int | None = None
) -> go.Figure:
    """Give a figure the house style; axis titles carry their units.

    `counts`, the largest value of an x axis of whole numbers (layers), keeps its ticks whole.
    """
    figure.update_layout(
        template="plotly_white",
        font={"family": "Inter, Helvetica, Arial, sans-serif", "size": 13},
        title={
            "text": title, "subtitle": {"text": subtitle},
            "x": 0, "xref": "paper", "xanchor": "left", "y": 0.96, "yanchor": "top",
        },
        legend={"orientation": "h", "y": -0.18, "x": 0, "yanchor": "top"},
        margin={"l": 70, "r": 20, "t": 112, "b": 60},
        hovermode="x unified",
        height=480,
    )  # fmt: skip
    if counts is not None:
        figure.update_xaxes(dtick=max(1, -(-counts // 12)), tick0=0)
    figure.update_xaxes(title_text=x, showline=True, linecolor="#444", ticks="outside", zeroline=False)
    figure.update_yaxes(showline=True, linecolor="#444", ticks="outside", zeroline=False)
    figure.update_yaxes(title_text=y, col=1)
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
    ends = pd.concat(
        [rows[["low", x]].rename(columns={"low": "y"}), rows[["high", x]].rename(columns={"high": "y"})[::-1]]
    )
    if rows["low"].notna().all():
        figure.add_trace(
            go.Scatter(
                x=ends[x], y=ends["y"], mode="lines", fill="toself", fillcolor=_faint(colour), line={"width": 0},
                hoverinfo="skip", showlegend=False, legendgroup=name,
            ),
            **grid,
        )  # fmt: skip
    figure.add_trace(
        go.Scatter(
            x=rows[x], y=rows["mean"], name=name, legendgroup=name, showlegend=legend,
            mode="lines+markers", line={"color": colour, "width": 2.5, "dash": dash}, marker={"size": 5},
            customdata=rows[["low", "high"]],
            hovertemplate="%{y:.4f}  [%{customdata[0]:.4f}, %{customdata[1]:.4f}]",
        ),
        **grid,
    )  # fmt: skip


def panels(names: Sequence[str], *, common: bool = True) -> go.Figure:
    """An empty figure with one panel per name, side by side on a common y axis, or on an axis each."""
    from plotly.subplots import make_subplots

    return make_subplots(
        rows=1, cols=len(names), subplot_titles=list(names), shared_yaxes=common,
        horizontal_spacing=0.03 if common else 0.07,
    )  # fmt: skip


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"
