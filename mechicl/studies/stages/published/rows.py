"""Rows of the table of published against measured values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from mechicl.results import Result
from mechicl.studies.drawing import where
from mechicl.studies.stages.published.values import Curve

Row = tuple[str, str, str, str]
"""Quantity, place, published, measured."""
Comparisons = Iterator[Row]


def curve(
    quantity: str, result: Result, published: Mapping[str, Curve], metric: str, *, x: str = "layer",
    value: str = "mean", **more: Any,
) -> Comparisons:  # fmt: skip
    """A row for every layer or point at which a value of this same model is published."""
    measured = means(result, metric, x=x, value=value, **more)
    for place, old in published.get(model_of(result), {}).items():
        if place in measured.index:
            yield quantity, f"{x} {place}", f"{old:g}", f"{measured[place]:.3f}"


def means(result: Result, metric: str, *, x: str = "layer", value: str = "mean", **more: Any) -> pd.Series[float]:
    """Measured values by layer or point, from the rows of a summary in which other columns have these values."""
    return where(result.summary(), metric=metric, **more).set_index(x)[value]


def model_of(result: Result) -> str:
    """The name of the measured model."""
    return str(result.table["model"].iloc[0])


def peak(values: pd.Series[float]) -> str:
    """Relative depth at which a curve, first layer first, is largest."""
    return f"{int(values.to_numpy().argmax()) / max(1, len(values) - 1):.2f}"
