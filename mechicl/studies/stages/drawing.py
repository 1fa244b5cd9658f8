"""What the figures of these studies have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go

from mechicl.figures import add_curve, styled
from mechicl.studies.study import Study


class Curve(NamedTuple):
    """One metric of a summary, and how it is drawn."""

    metric: str
    name: str
    colour: str
    dash: str = "solid"
    column: int = 1
    legend: bool = True


def add_curves(figure: go.Figure, summary: pd.DataFrame, x: str, curves: Sequence[Curve]) -> None:
    """Draw the mean of each metric with its band."""
    for metric, name, colour, dash, column, legend in curves:
        rows = where(summary, metric=metric)
        add_curve(figure, rows, x=x, name=name, colour=colour, dash=dash, column=column, legend=legend)


def where(table: pd.DataFrame, **values: Any) -> pd.DataFrame:
    """The rows in which these columns hold these values."""
    for column, value in values.items():
        table = table[table[column] == value]
    return table


def titled(
    figure: go.Figure, study: Study, summary: pd.DataFrame, subtitle: str, *, x: str = "layer", y: str = "",
    counts: str | None = "layer", about: str = "",
) -> go.Figure:  # fmt: skip
    """The house style, with the study, what it is `about` here, and its models as the title.

    `counts` is the column of whole numbers on the x axis, None where there is none.
    """
    return styled(
        figure, title=study.heading(summary, about), subtitle=subtitle, x=x, y=y,
        counts=None if counts is None else int(summary[counts].max()),
    )  # fmt: skip
