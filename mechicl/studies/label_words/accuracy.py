"""Accuracy and macro-F1 by method, with intervals, and drawn."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float

from mechicl.figures import INK, SKY


def macro_f1_rows(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Mean over seeds of macro-F1, with an interval over resampled prompts."""
    rows = []
    for key, group in table.groupby(by, sort=False):
        generator = np.random.default_rng(0)
        seeds = [part for _, part in group.groupby("seed", sort=False, dropna=False)]
        values = np.stack(
            [_macro_f1(part["gold"].to_numpy(), part["predicted"].to_numpy(), generator) for part in seeds]
        )
        low, high = np.quantile(values[:, 1:].mean(0), [0.025, 0.975])
        numbers = {"mean": values[:, 0].mean(), "low": low, "high": high, "n": len(group), "seeds": len(seeds)}
        rows.append(dict(zip(by, key, strict=True)) | numbers | {"metric": "macro_f1"})
    return pd.DataFrame(rows)


def _macro_f1(gold: np.ndarray, predicted: np.ndarray, generator: np.random.Generator) -> Float[np.ndarray, "draw"]:
    """Mean F1 of the classes that are in the gold labels or predicted; first of all prompts, then of 500 resamples."""
    n, classes = len(gold), int(max(gold.max(), predicted.max())) + 1
    weights = np.vstack([np.ones(n), generator.multinomial(n, np.full(n, 1 / n), size=500)])
    cells = np.eye(classes * classes)[gold * classes + predicted]
    confusion = (weights @ cells).reshape(-1, classes, classes)  # [draw gold predicted]
    both = confusion.sum(1) + confusion.sum(2)
    f1 = 2 * np.diagonal(confusion, axis1=1, axis2=2) / np.where(both > 0, both, 1)
    scores: np.ndarray = f1.sum(1) / (both > 0).sum(1)
    return scores


def draw_accuracies(
    figure: go.Figure,
    rows: pd.DataFrame,
    task: str,
    column: int,
    *,
    colours: Mapping[str, str],
    published: Mapping[str, Mapping[str, float]],
) -> None:
    """Bars of accuracy by method, with macro-F1 and the published accuracies in percent as marks."""
    again = rows.duplicated(["metric", "method"], keep=False)  # with several numbers of shots: a bar each
    rows = rows.assign(method=rows["method"].where(~again, rows["method"] + ", " + rows["per_class"]))
    bars = rows[rows["metric"] == "accuracy"][::-1]
    more = bars["per_class"] != bars["shots"].astype(str)
    figure.add_trace(
        go.Bar(
            y=bars["method"], x=bars["mean"], orientation="h", showlegend=False,
            marker_color=[colours.get(method, SKY) for method in bars["method"]],
            error_x={"type": "data", "array": bars["high"] - bars["mean"], "symmetric": False,
                     "arrayminus": bars["mean"] - bars["low"]},
            text=("with " + bars["per_class"] + " per class").where(more, ""), textposition="inside",
            insidetextanchor="start", hovertemplate="%{y}: %{x:.4f}<extra></extra>",
        ),
        row=1, col=column,
    )  # fmt: skip
    f1 = rows[rows["metric"] == "macro_f1"]
    measured = set(bars["method"])
    paper = [
        (method, values[task] / 100) for method, values in published.items() if task in values and method in measured
    ]
    marks = {
        "macro-F1": (f1["method"], f1["mean"], "line-ns-open"),
        "paper: accuracy of GPT2-XL": ([method for method, _ in paper], [value for _, value in paper], "diamond-open"),
    }
    for name, (y, x, symbol) in marks.items():
        figure.add_trace(
            go.Scatter(
                y=y, x=x, mode="markers", name=name, legendgroup=name, showlegend=column == 1,
                marker={"symbol": symbol, "size": 12, "color": INK, "line": {"width": 2}}, hovertemplate="%{x:.4f}",
            ),
            row=1, col=column,
        )  # fmt: skip
