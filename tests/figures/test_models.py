"""Figures of several models: what they share is drawn once, and what differs between them can be told apart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from mechicl.figures import shades
from mechicl.results import Result
from mechicl.studies import compare_models
from tests.figures import adversarial

LEVEL = "larger class alone"


def named(result: Result, name: str) -> Result:
    """The same measurements of a model of another name."""
    facts = {**result.provenance, "model": {**result.provenance["model"], "name": name}}
    return replace(result, table=result.table.assign(model=name), provenance=facts)


def curves(figure: go.Figure, place: int) -> list[Any]:
    """The means in a panel, without bands and entries of the legend."""
    axis = f"x{place + 1 if place else ''}"
    return [trace for trace in figure.data if trace.mode == "lines+markers" and trace.xaxis == axis]


def of_classes(*shares: float) -> go.Figure:
    """Word senses on models whose pairs have these shares of one class."""
    alone = adversarial.small("wic")
    prompts = sorted(set(alone.table["prompt"]))
    parts = []
    for place, share in enumerate(shares):
        same = alone.table["prompt"].isin(prompts[: round(share * len(prompts))])
        parts.append(named(replace(alone, table=alone.table.assign(same=same)), f"model {place}"))
    return compare_models(parts).figure()


def test_a_level_that_models_have_in_common_is_drawn_once() -> None:
    figure = of_classes(0.75, 0.75)
    assert [line.y0 for line in figure.layout.shapes] == [0.75]
    assert [one.text for one in figure.layout.annotations[1:]] == [LEVEL], "the first is the panel's heading"


@pytest.mark.parametrize("n", [2, 6])
def test_levels_that_differ_are_named_once_in_the_legend_and_marked_like_their_models(n: int) -> None:
    figure = of_classes(0.75, *[0.5] * (n - 1))
    assert len(figure.layout.annotations) == len(figure.layout.meta["panels"]), "no names in the panels"
    assert [trace.name for trace in figure.data if trace.showlegend].count(LEVEL) == 1
    marks = {
        trace.y[0]: (trace.line.dash, trace.line.color) for trace in figure.data if LEVEL in (trace.hovertemplate or "")
    }
    assert set(marks) == {0.75, 0.5}
    assert marks[0.75] != marks[0.5]


def test_more_models_than_dashes_have_colours_in_the_order_of_their_depth() -> None:
    depths = [12, 3, *range(4, 12), *range(13, 21)]
    n = len(depths)
    parts = [adversarial.many_layers(adversarial.small("local-attention"), depth) for depth in depths]
    names = [f"model {place}" for place in range(n)]
    figure = compare_models([named(part, name) for part, name in zip(parts, names, strict=True)]).figure()
    shared = curves(figure, figure.layout.meta["panels"].index("attention to the previous k tokens: k = 5"))
    assert [len(trace.x) for trace in shared] == sorted(depths)
    assert [trace.line.color for trace in shared] == shades(n)
    assert len(set(shades(n))) == n == 18
    assert {trace.line.dash for trace in shared} == {"solid"}
    legend = [trace for trace in figure.data if trace.showlegend and trace.legendgroup in names]
    of_depth = sorted(zip(depths, names, strict=True))
    assert [trace.name for trace in legend] == [f"{name}, {depth} layers" for depth, name in of_depth]
    assert [trace.line.color for trace in legend] == shades(n)


def test_a_step_of_huge_values_does_not_flatten_the_others() -> None:
    def entropy(times: float) -> Any:
        small = adversarial.many_layers(adversarial.small("logit-lens"), 8)
        huge = replace(small, table=small.table.assign(entropy=small.table["entropy"] * times))
        parts = [named(huge if step == 3 else small, f"x@step{step}") for step in range(8)]
        return compare_models(parts).figure().data[0]

    plain, huge = entropy(1), entropy(1000)
    assert plain.zmax == np.nanmax(plain.z)
    assert plain.colorbar.ticktext is None, "nothing is beyond the scale"
    assert huge.zmax == plain.zmax
    assert np.nanmax(huge.z) > 100 * huge.zmax
    assert huge.colorbar.ticktext[-1].startswith("≥ ")
    assert not huge.colorbar.ticktext[0].startswith("≤ ")
    assert len(set(huge.colorbar.ticktext)) == len(huge.colorbar.ticktext)
