"""Every figure of every study on tables that figures break on: outliers, one row, 48 layers, 6 tasks, 4 models, NaN."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from mechicl.figures import BLUE, WIDE, arrange
from mechicl.figures.axes import coordinates
from mechicl.results import Result
from mechicl.studies import STUDIES
from mechicl.studies.drawing import Curve, Drawing, Level, Panel, draw
from tests.figures import adversarial

WITHOUT = {"inner-lexicon", "part-of-speech"}
"""Need words that no tiny model knows; their own tests draw them."""
NAMES = sorted(name for name, study in STUDIES.items() if study.__module__.startswith("mechicl.studies."))
DRAWN = [name for name in NAMES if name not in WITHOUT]
FIGURES = [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in DRAWN]
"""Tests of one figure run in one process, which draws it once."""
CHANGES = (
    adversarial.small, adversarial.one_outlier, adversarial.wide_intervals, adversarial.without_intervals,
    adversarial.one_row, adversarial.many_layers, adversarial.many_tasks, adversarial.many_models,
)  # fmt: skip


@cache
def figure_of(name: str, change: Callable[[Any], Result]) -> go.Figure:
    return changed(name, change).figure()


def changed(name: str, change: Callable[[Any], Result]) -> Result:
    return change(name if change is adversarial.small else adversarial.small(name))


def panels(figure: go.Figure) -> Iterator[tuple[Any, Any, list[Any]]]:
    """Both axes of every panel, and what is drawn there."""
    for x_axis in figure.select_xaxes():
        number = x_axis.plotly_name.removeprefix("xaxis")
        own = [trace for trace in figure.data if (getattr(trace, "xaxis", None) or "x") == f"x{number}"]
        yield x_axis, figure.layout[f"yaxis{number}"], own


def test_every_study_has_a_table() -> None:
    assert set(DRAWN) == {path.stem for path in adversarial.TABLES.glob("*.parquet")}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_says_what_it_is_and_cuts_nothing(name: str, change: Callable[[Any], Result]) -> None:
    result = changed(name, change)
    figure = figure_of(name, change)
    assert all(model in figure.layout.meta["title"] for model in result.table["model"].unique())
    drawn = 0
    for title, (x_axis, y_axis, traces) in zip(figure.layout.meta["panels"], panels(figure), strict=True):
        if not traces:
            assert not title or change is not adversarial.small
            continue
        drawn += 1
        assert title, "every panel says what it holds"
        for axis, letter in ((x_axis, "x"), (y_axis, "y")):
            values = coordinates(traces, letter)
            if axis.dtick == 1 and axis.type != "log" and len(values):
                assert max(axis.tickvals) <= values.max(), "no tick beyond the last layer"
                assert len(axis.tickvals) >= 2 or np.ptp(values) < 2
        marks = [trace for trace in traces if trace.type == "scatter" and len(coordinates([trace], "x"))]
        assert all(trace.cliponaxis is False for trace in marks), "no mark is cut"
    assert drawn


@pytest.mark.parametrize("change", [adversarial.one_outlier, adversarial.wide_intervals], ids=["outlier", "wide"])
@pytest.mark.parametrize("name", FIGURES)
def test_neither_an_outlier_nor_an_interval_flattens_a_curve(name: str, change: Callable[[Any], Result]) -> None:
    plain = {str(x.plotly_name): extents for x, _, extents in spans(figure_of(name, adversarial.small))}
    for x_axis, letter, (low, high) in spans(figure_of(name, change)):
        before = plain.get(str(x_axis.plotly_name), (0.0, 0.0))
        if high > low and before[1] > before[0]:
            assert high - low <= 5 * (before[1] - before[0]), f"{letter} of {x_axis.plotly_name}"


@pytest.mark.parametrize("large", [0, 1, 2])
def test_a_curve_far_from_all_others_is_marked_beyond_the_axis_unless_it_is_the_first(large: int) -> None:
    layers, names = np.arange(30), ("main", "control", "other")
    rows = pd.DataFrame([
        {"metric": name, "layer": layer, "mean": value, "low": value - 0.1, "high": value + 0.1}
        for i, name in enumerate(names) for layer in layers
        for value in [np.sin(layer / 5 + i) + (500 if i == large else 0)]
    ])  # fmt: skip
    panel = Panel("one", [Curve(name, name, BLUE) for name in names])
    figure = draw(Drawing(rows, [panel]), title="x", subtitle="")
    low, high = figure.layout.yaxis.range or (-1, 501)
    beyond = [trace for trace in figure.data if "triangle" in str(trace.marker.symbol)]
    if large == 0:
        assert (low < 0, high > 500, beyond) == (True, True, [])
    else:
        assert high - low < 10
        assert {trace.name for trace in beyond} == {names[large]}
        assert len(beyond) == len(layers)
        assert "beyond the axis" in str(figure.layout.meta)


@pytest.mark.parametrize("axis", [{"rangemode": "tozero"}, {}])
def test_two_curves_that_both_fit_stay(axis: dict[str, str]) -> None:
    """A small range of one is no reason, on an axis that shows more than that."""
    rows = pd.DataFrame([
        {"metric": name, "layer": layer, "mean": value, "low": np.nan, "high": np.nan}
        for name, start in (("trained", 0.6), ("random", 1.39)) for layer in range(11)
        for value in [start - 0.005 * layer]
    ])  # fmt: skip
    content: list[Any] = [Curve(name, name, BLUE) for name in ("trained", "random")]
    levels = [] if axis else [Level(0.1, BLUE)]
    figure = draw(Drawing(rows, [Panel("one", [*content, *levels], y_axis=axis)]), title="x", subtitle="")
    assert len(figure.data) == 2


@pytest.mark.parametrize("name", FIGURES)
def test_every_bar_has_its_label(name: str) -> None:
    """Panels side by side have the labels of the first, which may lack a bar of another."""
    page = arrange(go.Figure(figure_of(name, adversarial.small)), width=WIDE)
    for _, y_axis, traces in panels(page):
        bars = {label for trace in traces if trace.type == "bar" and trace.orientation == "h" for label in trace.y}
        axis = page.layout[y_axis.matches.replace("y", "yaxis") if y_axis.matches else y_axis.plotly_name]
        assert bars <= set(axis.tickvals or ()), y_axis.plotly_name


def test_levels_are_drawn() -> None:
    """Plotly leaves out a line that is added to a panel without traces."""
    shapes = adversarial.small("deep-layers").figure().layout.shapes
    assert sorted(line.y0 for line in shapes) == [0.5, 0.8]


@pytest.mark.parametrize("name", ["word-merging", "deep-layers", "layer-lesions"])
def test_all_that_is_drawn_of_several_models_lies_on_relative_depth(name: str) -> None:
    """Also points that are no curve of the table, such as those of single heads."""
    on_depth = [
        traces for x_axis, _, traces in panels(adversarial.many_models(adversarial.small(name)).figure())
        if "relative depth" in str(x_axis.title.text)
    ]  # fmt: skip
    assert on_depth
    assert all(x <= 1 for traces in on_depth for trace in traces for x in trace.x if x is not None)


def test_the_blocks_of_every_model_are_outlined_on_its_map_and_a_row_has_one_scale() -> None:
    """The note of the figure of several models promises them, too."""
    one = adversarial.small("cka")
    blocks = len(one.study.block_structure(one.table)["starts"].iloc[0])
    page = arrange(adversarial.many_models(one).figure(), width=WIDE)
    drawn = [traces for _, _, traces in panels(page)]
    outlined = [one for traces in drawn for one in traces if one.type == "scatter" and one.line.color == "white"]
    assert len(outlined) == adversarial.MODELS
    for outline in outlined:
        corners = np.array([np.nan if place is None else place for place in outline.x], float).reshape(blocks, 6)
        assert corners[0, 0] == -0.5
        assert (corners[1:, 0] == corners[:-1, 1]).all(), "each block begins where the one before it ends"
    scales = [one.showscale for traces in drawn for one in traces if one.type == "heatmap"]
    assert scales == [False, True] * adversarial.MODELS


def spans(figure: go.Figure) -> Iterator[tuple[Any, str, tuple[float, float]]]:
    """What a panel's axis of values goes from and to, where it is linear and has five points or more."""
    for x_axis, y_axis, traces in panels(figure):
        letter = "x" if any(trace.type == "bar" and trace.orientation == "h" for trace in traces) else "y"
        axis = x_axis if letter == "x" else y_axis
        values = coordinates([trace for trace in traces if trace.type in ("scatter", "bar")], letter)
        if axis.type == "log" or len(values) < 5:
            continue
        bars = any(trace.type == "bar" for trace in traces) or axis.rangemode == "tozero"
        levels = [line.y0 for line in figure.layout.shapes if line.yref == y_axis.plotly_name.replace("axis", "")]
        values = np.array([*values, *([0.0] if bars else []), *(levels if letter == "y" else [])])
        own = next((one for one in (axis, figure.layout.yaxis) if letter == "y" and one.range), axis)
        yield x_axis, letter, tuple(own.range) if own.range else (values.min(), values.max())
