"""The layout of a figure, computed for a width, so that nothing overlaps and nothing is cut off.

Plotly places legends and titles in fractions of a plot of variable size; here margins and domains follow from the texts
themselves, and panels wrap into as many rows as the width needs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import unescape
from itertools import accumulate
from typing import Any

import numpy as np
import plotly.graph_objects as go

from mechicl.figures.axes import coordinates, set_ticks
from mechicl.figures.text import plain, shortened, width_of, wrapped, wrapped_html

WIDE, NOTEBOOK, NARROW = PAGE_WIDTHS = (1040, 700, 320)
"""Widths in pixels: a desktop page, the least of a notebook cell (and plotly's own export), a small phone's page.

A report has a layout for each and shows the widest that fits, because a figure wider than its layout has room to spare,
and in a narrower one texts overlap.
"""

_LEAST_PANEL = 20.5
"""Width of a panel with its axis, in units of the text size."""
_WORDS = 0.32
"""Largest share of the width for words at a y axis."""
_LONGEST_HEADING = 400
_SYMBOL = 80
"""Pixels of a legend entry in addition to its name; an upper estimate."""


@dataclass
class _Panel:
    """A pair of axes, its title annotation, and its traces."""

    x: Any
    y: Any
    name: str
    heading: Any
    traces: list[Any]
    levels: list[Any]
    """The names of horizontal lines."""


def arrange(figure: go.Figure, *, width: float, heading: bool = True, size: float = 13) -> go.Figure:
    """Lay out a figure in place for a width in pixels, with or without its title; `size` is the text size."""
    meta = dict(figure.layout.meta or {})
    boxes = _panels(figure, meta)
    columns = _columns(len(boxes), meta, width / size)
    grid = [boxes[start : start + columns] for start in range(0, len(boxes), columns)]
    figure.update_layout(font_size=size)
    _show_scales(grid)
    starts, widths = _across(grid, columns, meta, width, size)
    left, right = starts[0], width - starts[-1] - widths[-1]
    top = _head(figure, meta, width, size) if heading else 8.0
    least = max(_words_height(box, width, size) for box in boxes)
    edges = _down(grid, widths, top, max(float(meta.get("height", 300)) * size / 13, least), size)
    end = edges[-1][1] + max(_foot(box, widths[i], size) for i, box in enumerate(grid[-1])) + 6
    legend = _legend_height(figure, width, size)
    across, down = width - left - right, edges[-1][1] - edges[0][0]
    for row, (upper, lower) in zip(grid, edges, strict=True):
        for place, box in enumerate(row):
            begin = (starts[place] - left) / across
            x = (begin, min(1.0, begin + widths[place] / across))
            y = (max(0.0, 1 - (lower - edges[0][0]) / down), 1 - (upper - edges[0][0]) / down)
            labelled = place == 0 or not meta.get("common", True)
            _place(box, x, y, (widths[place], lower - upper), _WORDS * width, size, labelled=labelled)
    if heading:
        figure.layout.title.y = 1 - 1.9 * size / (end + legend)
    else:
        figure.layout.title = None
    figure.update_layout(
        height=round(end + legend),
        margin={"l": left, "r": right, "t": edges[0][0], "b": end + legend - edges[-1][1], "autoexpand": False},
        legend={
            "orientation": "h", "xref": "container", "yref": "container", "x": 10 / width,
            "y": legend / (end + legend), "xanchor": "left", "yanchor": "top", "tracegroupgap": 0,
        },
    )  # fmt: skip
    return figure


def _panels(figure: go.Figure, meta: Mapping[str, Any]) -> list[_Panel]:
    names = list(meta.get("panels") or [""])
    found = []
    for i, name in enumerate(names):
        number = str(i + 1) if i else ""
        traces = [trace for trace in figure.data if (getattr(trace, "xaxis", None) or "x") == f"x{number}"]
        heading = figure.layout.annotations[i] if "panels" in meta else None
        at = f"x{number} domain", f"y{number}"
        levels = [one for one in figure.layout.annotations if (one.xref, one.yref) == at]
        axes = figure.layout[f"xaxis{number}"], figure.layout[f"yaxis{number}"]
        found.append(_Panel(*axes, name, heading, traces, levels))
    return found


def _columns(n: int, meta: Mapping[str, Any], width: float) -> int:
    """Rows of panels of about equal length, with as many per row as the width (in text sizes) allows."""
    room = max(1, int(width // _LEAST_PANEL))
    fixed = meta.get("columns")
    if fixed:
        return max(n for n in range(1, min(int(fixed), room) + 1) if fixed % n == 0)
    return math.ceil(n / math.ceil(n / room))


def _across(
    grid: Sequence[Sequence[_Panel]], columns: int, meta: Mapping[str, Any], width: float, size: float
) -> tuple[list[float], list[float]]:
    """Left edge and width of every column, in pixels."""
    common = meta.get("common", True)
    before, bar = [], 0.0
    for place in range(columns):
        own = [row[place] for row in grid if place < len(row)]
        room = max(_left(box, width, size) for box in own)
        before.append((room if place == 0 or not common else 1.4 * size) + bar)
        bar = 6.3 * size if any(getattr(trace, "showscale", None) for box in own for trace in box.traces) else 0.0
    last = max(_half_of_last(row[-1], size) for row in grid if len(row) == columns)
    free = width - sum(before) - bar - max(1.2 * size, last) - 0.6 * size * (columns - 1)
    shares = list(meta.get("widths") or []) if len(meta.get("widths") or []) == columns else [1.0] * columns
    widths = [free * share / sum(shares) for share in shares]
    ends = list(accumulate(room + own + 0.6 * size for room, own in zip(before, widths, strict=True)))
    starts = [before[0], *(end + room for end, room in zip(ends, before[1:], strict=False))]
    return starts, widths


def _show_scales(grid: Sequence[Sequence[_Panel]]) -> None:
    """Of neighbouring heat maps with the same named scale, only the last in a row shows it."""
    for row in grid:
        after: Any = None
        for trace in (trace for box in reversed(row) for trace in box.traces if trace.type == "heatmap"):
            scale = (trace.colorbar.title.text, trace.zmin, trace.zmax, trace.colorscale)
            if scale[0]:
                trace.showscale = None in scale[:3] or scale != after
            after = scale


def _down(
    grid: Sequence[Sequence[_Panel]], widths: Sequence[float], top: float, height: float, size: float
) -> list[tuple[float, float]]:
    """Upper and lower edge of every row of panels, in pixels from the top."""
    edges = []
    for row in grid:
        upper = top + max(_name_height(box, widths[i], size) for i, box in enumerate(row))
        edges.append((upper, upper + height))
        top = upper + height + max(_foot(box, widths[i], size) for i, box in enumerate(row)) + 10
    return edges


def _name_height(box: _Panel, width: float, size: float) -> float:
    lines = len(wrapped(shortened(box.name), width, 1.05 * size)) if box.name.strip() else 0
    return lines * 1.4 * size + 0.5 * size


def _left(box: _Panel, width: float, size: float) -> float:
    """Room for the labels and the title of a y axis."""
    font = box.y.tickfont.size or size
    words = [line for word in _words(box, "y") for line in _tick_lines(word, _WORDS * width, font)]
    numbers = (4 if box.y.type == "log" else 3.2) * size
    ticks = max(width_of(line, font) for line in words) + 10 if words else numbers
    return ticks + (1.7 * size if box.y.title.text else 0) + 0.4 * size


def _half_of_last(box: _Panel, size: float) -> float:
    """Room to the right of a panel for half of its last label, if its x axis has words that are not turned."""
    words, font = _words(box, "x"), box.x.tickfont.size or size
    return min(width_of(words[-1], font) / 2, 4 * size) if words and box.x.tickangle != -90 else 0.0


def _words_height(box: _Panel, width: float, size: float) -> float:
    """Height at which the words at a y axis do not overlap."""
    font = box.y.tickfont.size or size
    words = [] if box.y.ticktext is not None and not _ours(box.y) else _words(box, "y")
    return len(words) * max((len(_tick_lines(word, _WORDS * width, font)) for word in words), default=0) * 1.4 * font


def _foot(box: _Panel, width: float, size: float) -> float:
    """Room for the labels and the title of an x axis."""
    font = box.x.tickfont.size or size
    words = _words(box, "x")
    if words and (box.x.tickangle == -90 or _too_wide(words, width / len(words), font)):
        ticks = max(width_of(word, font) for word in words) + 8
    elif words:
        ticks = max(len(_tick_lines(word, width / len(words), font)) for word in words) * 1.35 * font + 8
    else:
        ticks = 1.7 * size
    return ticks + (1.7 * size if box.x.title.text else 0)


def _too_wide(words: Sequence[str], pixels: float, size: float) -> bool:
    """Whether a single word, which no line break may divide, is wider than its place."""
    return any(width_of(part, size) > pixels for word in words for part in word.split())


def _words(box: _Panel, letter: str) -> list[str]:
    """An axis's tick labels, if they are words: given texts, or categories."""
    axis = box.x if letter == "x" else box.y
    if axis.ticktext is not None and not _ours(axis):
        return list(axis.ticktext)
    given = axis.categoryarray if axis.categoryarray is not None else ()
    found = dict.fromkeys(one for one in given if isinstance(one, str))
    for trace in box.traces:
        values = getattr(trace, letter, None)
        if values is not None and len(values) and isinstance(values[0], str):
            found |= dict.fromkeys(values)
    return list(found)


def _ours(axis: Any) -> bool:
    """Whether the tick labels are wrapped categories, as `_place` writes them."""
    return axis.tickvals is not None and any(isinstance(value, str) for value in axis.tickvals)


def _tick_lines(word: str, pixels: float, size: float) -> list[str]:
    return wrapped(unescape(re.sub(r"<[^>]*>", "", word)), pixels, size)


def _place(
    box: _Panel,
    x: tuple[float, float],
    y: tuple[float, float],
    pixels: tuple[float, float],
    room: float,
    size: float,
    *,
    labelled: bool,
) -> None:
    """Place a panel, its title and its colour bar, and wrap the words at its ticks."""
    box.x.domain, box.y.domain = x, y
    box.x.showticklabels = True
    box.y.showticklabels = labelled
    box.y.title.font.color = None if labelled else "rgba(0,0,0,0)"
    for letter, axis, along in (("x", box.x, pixels[0]), ("y", box.y, pixels[1])):
        axis.title.font.size, font = size, axis.tickfont.size or size
        words = _words(box, letter)
        if words and (axis.ticktext is None or _ours(axis)):
            slot = room if letter == "y" else along / len(words)
            upright = letter == "x" and _too_wide(words, slot, font)  # such as training steps: no line break in them
            lines = [plain(unescape(word)) if upright else wrapped_html(unescape(word), slot, font) for word in words]
            axis.update(tickmode="array", tickvals=words, ticktext=lines, tickangle=-90 if upright else axis.tickangle)
        elif not words:
            set_ticks(axis, box.traces, letter, along, font)
    if box.heading is not None:
        box.heading.update(
            text=wrapped_html(box.name, pixels[0], 1.05 * size), x=x[0], y=y[1], xref="paper", yref="paper",
            xanchor="left", yanchor="bottom", align="left", showarrow=False, font={"size": 1.05 * size},
        )  # fmt: skip
    _part(box, pixels[1], size)
    for trace in box.traces:
        if getattr(trace, "showscale", None):
            trace.colorbar.update(
                x=x[1], xanchor="left", y=(y[0] + y[1]) / 2, len=y[1] - y[0], thickness=0.9 * size, xpad=6, ypad=0,
                title_font_size=size, tickfont_size=size,
            )  # fmt: skip


def _part(box: _Panel, height: float, size: float) -> None:
    """Move names of levels that would lie over one another: those below their lines down, those above them up."""
    levels = [one for one in box.levels if np.isfinite(one.y)]
    values = np.array([*coordinates(box.traces, "y"), *(one.y for one in levels)])
    low, high = box.y.range or (values.min(initial=np.inf), values.max(initial=-np.inf))
    scale = height / (high - low) if high > low else 0.0
    for side, upwards in (("top", -1), ("bottom", 1)):
        taken = -math.inf
        for one in sorted((one for one in levels if one.yanchor == side), key=lambda one: upwards * one.y):
            place = upwards * one.y * scale
            taken = max(place, taken + 1.4 * size)
            one.yshift = upwards * (taken - place)


def _head(figure: go.Figure, meta: Mapping[str, Any], width: float, size: float) -> float:
    """Write title and subtitle; return their height in pixels."""
    room = width - 3 * size
    title = wrapped(shortened(meta.get("title", ""), _LONGEST_HEADING), room, 1.3 * size)
    subtitle = wrapped(shortened(meta.get("subtitle", ""), _LONGEST_HEADING), room, 0.92 * size)
    lines = [
        *map(plain, title),
        *(f'<span style="font-size:{0.92 * size:g}px">{plain(line)}</span>' for line in subtitle),
    ]
    figure.layout.title = {
        "text": "<br>".join(lines), "font": {"size": 1.3 * size},
        "xref": "container", "x": size / width, "xanchor": "left",
        "yref": "container", "yanchor": "top",
    }  # fmt: skip
    return 1.3 * 1.3 * size * (len(title) + len(subtitle)) + 1.2 * size


def _legend_height(figure: go.Figure, width: float, size: float) -> float:
    """Wrap names that are longer than a line, and return the room for all entries, which plotly sets one by one."""
    shown = {}
    for trace in figure.data:
        if trace.showlegend is not False and trace.name:
            lines = wrapped(unescape(trace.name.replace("<br>", " ")), width - _SYMBOL, size)
            trace.name = "<br>".join(map(plain, lines))
            shown[trace.legendgroup or trace.name] = lines
    alone = len(figure.data) == 1 and figure.data[0].showlegend is None  # which plotly gives no legend
    if alone or not shown:
        return 0.0
    # On several lines plotly may give each entry the widest one's room, with more space between groups than within.
    entries = [max(width_of(line, size) for line in lines) + _SYMBOL for lines in shown.values()]
    a_row = max(1, int((width - 20) // max(entries)))
    rows = 1 if sum(entries) <= width - _SYMBOL else -(-len(entries) // a_row)
    heights = [len(lines) for lines in shown.values()]
    height = sum(heights) if a_row == 1 else rows * max(heights)
    return float(height * max(1.75 * size, 19.5) + 6)
