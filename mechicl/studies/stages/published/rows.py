"""Rows of the table of published against measured values."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from mechicl.results import Result
from mechicl.studies.stages.published.values import Curve

Rows = list[dict[str, object]]


def row(quantity: str, place: str, published: str, measured: str) -> Rows:
    """One row."""
    return [{"quantity": quantity, "place": place, "published": published, "measured": measured}]


def curve(
    quantity: str,
    summary: pd.DataFrame,
    model: str,
    published: Mapping[str, Curve],
    metric: str,
    *,
    x: str = "layer",
    value: str = "mean",
) -> Rows:
    """A row for every layer or point at which this very model's value is published."""
    measured = summary[summary["metric"] == metric].set_index(x)[value]
    return [
        line
        for place, old in published.get(model, {}).items()
        if place in measured.index
        for line in row(quantity, f"{x} {place}", f"{old:g}", f"{measured[place]:.3f}")
    ]


def model_of(result: Result) -> str:
    """The name of the model that was measured."""
    return str(result.table["model"].iloc[0])


def peak(means: pd.Series[float]) -> str:
    """Relative depth at which a curve, first layer first, is largest."""
    return f"{int(means.to_numpy().argmax()) / max(1, len(means) - 1):.2f}"
