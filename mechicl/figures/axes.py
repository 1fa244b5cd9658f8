"""Ranges and ticks of axes: whole numbers up to the last, and no outlier that flattens the rest."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from mechicl.figures.colours import INK
from mechicl.figures.text import width_of

_STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_FEW_DECADES = 2
_FENCE, _FEW = 10.0, 0.08
_SHORTEST = 3
"""Fewest points of a curve that may lie far from the others, and of these."""


def set_ticks(axis: Any, traces: Iterable[Any], letter: str, pixels: float, size: float) -> None:
    """Give a numeric axis as many ticks as fit.

    An axis of whole numbers, which has a `dtick` of 1, has no ticks beyond its last value; a log axis has powers of
    ten, with 2 and 5 in between if these are few.
    """
    values = coordinates(traces, letter)
    if axis.type == "log" and (values > 0).any():
        decades = np.ptp(np.log10(values[values > 0]))
        axis.update(dtick="D2" if decades < _FEW_DECADES else max(1, round(decades / 8)), tickformat="~g")
        return
    if not len(values):
        return
    if axis.dtick != 1:
        _thin_out(axis, values, letter, pixels, size)
        return
    first, last = math.ceil(values.min()), math.floor(values.max())
    room = width_of(str(last), size) + 0.9 * size if letter == "x" else 1.9 * size
    step = next((step for step in _STEPS if (last - first) / step * room <= pixels), _STEPS[-1])
    begin = -(-first // step) * step
    axis.update(tickmode="array", tickvals=list(range(begin, last + 1, step)), tickangle=0)


def _thin_out(axis: Any, values: np.ndarray, letter: str, pixels: float, size: float) -> None:
    """Have as many labels below a linear axis as fit side by side; plotly would turn them, into what is below."""
    if letter == "x" and axis.tickmode != "array":
        ends = axis.range or (values.min(), values.max())
        longest = max(width_of(f"{end:.3g}", size) for end in ends)
        axis.update(nticks=max(2, min(10, int(pixels // (longest + 2 * size)))), tickangle=0)


def bounded(
    traces: Sequence[Any], letter: str = "y", *, levels: Sequence[float] = (), zero: bool = False, main: str = ""
) -> tuple[tuple[float, float] | None, list[go.Scatter]]:
    """The range of a linear axis, robust to outliers and wide intervals, and a mark for each point beyond it.

    None if the axis may span everything on it. Intervals may extend on either side by at most the points' range.
    """
    curves = [trace for trace in traces if trace.type in ("scatter", "bar") and not getattr(trace, "fill", None)]
    points = coordinates(curves, letter)
    if not len(points):
        return None, []
    shown = [*levels, *([0.0] if zero or any(trace.type == "bar" for trace in curves) else [])]
    kept = without_outliers(coordinates(_near(curves, letter, shown, main), letter))
    low, high = (float(end) for end in (min(kept.min(), *shown, np.inf), max(kept.max(), *shown, -np.inf)))
    ends = _ends(traces, curves, letter)
    room = high - low
    if room <= 0 or (len(kept) == len(points) and low - room <= ends.min() and ends.max() <= high + room):
        return None, []
    low, high = max(low - room, min(low, ends.min())), min(high + room, max(high, ends.max()))
    edge = 0.05 * (high - low)
    low, high = low - edge * (low != 0 or not zero), high + edge
    return (low, high), _beyond(curves, letter, low, high)


def coordinates(traces: Iterable[Any], letter: str) -> np.ndarray:
    """All finite numbers that traces have on an axis."""
    found = [np.empty(0)]
    for trace in traces:
        values = getattr(trace, letter, None)
        if values is None and trace.type == "heatmap" and trace.z is not None:
            values = range(np.shape(trace.z)[0 if letter == "y" else 1])
        found.append(_numbers(values))
    joined = np.concatenate(found)
    return joined[np.isfinite(joined)]


def _numbers(values: Any) -> np.ndarray:
    """The finite numbers of a trace; none for categories."""
    return np.array(
        [np.nan if v is None or isinstance(v, str) else v for v in (() if values is None else values)], float
    )


def without_outliers(points: np.ndarray, *, fence: float = _FENCE, few: float = _FEW) -> np.ndarray:
    """Points within `fence` interquartile ranges of the quartiles, if at most a share of `few` is beyond; else all."""
    lower, upper = np.quantile(points, [0.25, 0.75])
    room = fence * (upper - lower)
    kept = points[(points >= lower - room) & (points <= upper + room)]
    beyond = len(points) - len(kept)
    return kept if room > 0 and beyond <= max(1, few * len(points)) else points


def _near(curves: Sequence[Any], letter: str, shown: Sequence[float], main: str) -> Sequence[Any]:
    """Without the curve, if there is one, whose every point lies far from all others; the main curve is never left out.

    `shown` are values that the axis has in any case.
    """
    first = main or next((one.name for one in curves), None)
    for far in curves:
        rest = [one for one in curves if one is not far]
        own, others = coordinates([far], letter), np.array([*coordinates(rest, letter), *shown])
        if far.type != "scatter" or far.name == first or len(own) < _SHORTEST or len(others) < _SHORTEST:
            continue
        distance = max(own.min() - others.max(), others.min() - own.max())
        if distance > _FENCE * np.ptp(others) > 0:
            return rest
    return curves


def _ends(traces: Sequence[Any], curves: Sequence[Any], letter: str) -> np.ndarray:
    """Ends of all bands and error bars."""
    found = [coordinates([trace for trace in traces if getattr(trace, "fill", None)], letter)]
    for trace in curves:
        error, values = trace[f"error_{letter}"], _numbers(trace[letter])
        if error.array is not None:
            found += [values + np.asarray(error.array, float), values - np.asarray(error.arrayminus, float)]
    joined = np.concatenate(found)
    return joined[np.isfinite(joined)] if np.isfinite(joined).any() else coordinates(curves, letter)


def _beyond(curves: Sequence[Any], letter: str, low: float, high: float) -> list[go.Scatter]:
    """A triangle at the end of the axis for each point beyond it, and the value of the furthest."""
    other = "x" if letter == "y" else "y"
    symbols = ("triangle-down", "triangle-up") if letter == "y" else ("triangle-left", "triangle-right")
    places = ("top center", "bottom center") if letter == "y" else ("middle right", "middle left")
    furthest = (np.nanmin(coordinates(curves, letter)), np.nanmax(coordinates(curves, letter)))
    marks = []
    for trace in curves:
        colour = trace.line.color if trace.type == "scatter" and trace.line.color else trace.marker.color
        for i, value in enumerate(_numbers(trace[letter])):
            if low <= value <= high or np.isnan(value):
                continue
            above, own = bool(value > high), colour[i] if isinstance(colour, (list, tuple, np.ndarray)) else colour
            own = INK if trace.type == "bar" else own  # it lies on the bar
            text = f"{value:.3g}"
            marks.append(go.Scatter(
                {letter: [high if above else low], other: [trace[other][i]]}, mode="markers+text", name=trace.name,
                text=[text if value == furthest[above] else ""], textposition=places[above], textfont={"color": own},
                marker={"symbol": symbols[above], "size": 9, "color": own}, showlegend=False, hovertemplate=text,
            ))  # fmt: skip
    return marks
