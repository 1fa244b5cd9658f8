"""The house style: one template in light and dark colours, and every figure's title and subtitle."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from mechicl.figures.arrange import NOTEBOOK, arrange
from mechicl.figures.colours import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION
from mechicl.figures.text import plain


def _template(*, ink: str, line: str, grid: str, paper: str) -> go.layout.Template:
    axis = {
        "showline": True, "linecolor": line, "ticks": "outside", "tickcolor": line, "ticklen": 4, "zeroline": False,
        "gridcolor": grid, "title": {"standoff": 8},
    }  # fmt: skip
    return go.layout.Template(
        layout={
            "font": {"family": "Inter, Helvetica, Arial, sans-serif", "size": 13, "color": ink},
            "paper_bgcolor": paper, "plot_bgcolor": paper, "xaxis": axis, "yaxis": axis,
            "colorway": [BLUE, VERMILION, GREEN, ORANGE, SKY, PURPLE, GREY],
            "hoverlabel": {"bgcolor": paper, "bordercolor": line, "font": {"color": ink}},
            "legend": {"bgcolor": "rgba(0,0,0,0)"},
        }
    )  # fmt: skip


LIGHT = _template(ink="#1d1d1f", line="#6E6E73", grid="#e8e8ec", paper="#ffffff")
DARK = _template(ink="#e8e8ea", line="#9a9aa2", grid="#34363c", paper="#16171a")


def styled(figure: go.Figure, *, title: str, x: str, y: str, subtitle: str = "", height: int = 300) -> go.Figure:
    """Give a finished figure the house style; axis titles carry their units.

    An axis of whole numbers (layers) has a `dtick`. `height` is the height of a panel, in pixels. Titles are shown
    literally, as names in them may contain anything.
    """
    known = dict(figure.layout.meta or {})
    figure.update_layout(
        template=LIGHT,
        hovermode="x unified",
        meta={"common": True, **known, "title": title, "subtitle": subtitle, "height": height},
    )
    _name_axes(figure, x, y)
    _explain_bands(figure)
    return arrange(figure, width=NOTEBOOK)


def _name_axes(figure: go.Figure, x: str, y: str) -> None:
    """Titles of the axes that have no own title."""
    for axis in figure.select_xaxes():
        axis.title.text = axis.title.text or plain(x)
    for axis in figure.select_yaxes():
        axis.title.text = axis.title.text or plain(y)


def _explain_bands(figure: go.Figure) -> None:
    """A legend entry for the bands between low and high."""
    if any(getattr(trace, "fill", None) == "toself" for trace in figure.data):
        figure.add_scatter(
            x=[None], y=[None], mode="markers", name="95 % interval", legendgroup="95 % interval",
            marker={"symbol": "square", "size": 14, "color": GREY, "opacity": 0.35}, hoverinfo="skip",
        )  # fmt: skip


def for_page(figure: go.Figure, *, width: int) -> dict[str, Any]:
    """Data and layout for a page that has its own heading, background and colours."""
    shown = arrange(go.Figure(figure), width=width, heading=False)
    shown.update_layout(template=None, paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)", meta=None)
    return dict(shown.to_plotly_json())
