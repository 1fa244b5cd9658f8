"""Pairs of classes: as rows, as matrices, and drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from torch import Tensor

from mechicl.figures import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, band, plain

PAIR = ["class_a", "class_b"]


def pair_rows(matrix: Float[Tensor, "class_ class_"], names: Sequence[str], **place: int) -> pd.DataFrame:
    """A row for each two classes."""
    a, b = np.triu_indices(len(names), 1)
    values, classes = matrix.cpu().double().numpy(), np.array(names)
    return pd.DataFrame({**place, "class_a": classes[a], "class_b": classes[b], "value": values[a, b]})


def pair_matrix(pairs: pd.Series[float]) -> pd.DataFrame:
    """A symmetric matrix with diagonal 1 of values by pair."""
    names = list(dict.fromkeys([*pairs.index.get_level_values(0), *pairs.index.get_level_values(1)]))
    matrix = pd.DataFrame(np.eye(len(names)), index=names, columns=names)
    index: list[tuple[str, str]] = pairs.index.to_list()
    for (a, b), value in zip(index, pairs, strict=True):
        matrix.loc[a, b] = matrix.loc[b, a] = value
    return matrix


def pair_name(pairs: pd.Series[float]) -> str:
    """The pair with the smallest value, in words."""
    index: list[tuple[str, str]] = pairs.index.to_list()
    a, b = index[int(pairs.argmin())]
    return f"{a} and {b}"


def rank_correlations(rows: pd.DataFrame, real: pd.DataFrame, by: str) -> Float[np.ndarray, "group"]:
    """Spearman's correlation with the real confusion, of each group of rows (each context)."""
    from scipy.stats import rankdata

    grouped = rows.pivot_table(index=by, columns=PAIR, values="value", sort=False)
    truth = np.array([real.loc[pair[0], pair[1]] for pair in grouped.columns])
    known = ~np.isnan(truth)
    ranks, target = rankdata(grouped.to_numpy()[:, known], axis=1), rankdata(truth[known])
    return np.array([np.corrcoef(row, target)[0, 1] for row in ranks])


def add_heat_map(figure: go.Figure, matrix: pd.DataFrame, row: int, column: int) -> None:
    """Draw real (column 1, from chance on) or predicted confusion, with its values."""
    values = matrix.to_numpy()
    figure.add_heatmap(
        z=values, x=list(map(plain, matrix.columns)), y=list(map(plain, matrix.index)),
        zmin=0 if column == 2 else 0.5, zmax=1, colorscale="Blues_r", showscale=False, text=np.round(values, 2),
        texttemplate="%{text:.2f}", hovertemplate="%{y} and %{x}: %{z:.4f}<extra></extra>", row=row, col=column,
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed", row=row, col=column)


def add_correlations(figure: go.Figure, rows: pd.DataFrame, row: int, components: int) -> None:
    """Draw the rank correlation in every layer, a curve for each number of components, the chosen one with its band."""
    colours = (SKY, BLUE, GREEN, ORANGE, PURPLE, VERMILION, GREY)
    shown = rows[rows["components"] == components]
    if shown["low"].notna().all():
        figure.add_trace(band(shown, "layer", GREY), row=row, col=3)
    for number, (m, of_m) in enumerate(rows.groupby("components")):
        figure.add_scatter(
            x=of_m["layer"], y=of_m["mean"], name=f"M = {m}", legendgroup=str(m), showlegend=row == 1,
            mode="lines+markers", row=row, col=3,
            line={"color": colours[number % len(colours)], "width": 3 if m == components else 1.5},
        )  # fmt: skip
    figure.update_xaxes(title_text="layer", dtick=max(1, int(rows["layer"].max()) // 8), row=row, col=3)
    figure.update_yaxes(title_text="Spearman", range=[-1.05, 1.05], row=row, col=3)
