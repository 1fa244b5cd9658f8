"""Pairs of classes: as rows, as matrices, and in figures."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from mechicl.figures import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, band, plain
from mechicl.metrics import Correlation, combined_p_value, confusion_correlation
from mechicl.metrics.resampling import max_statistic_p
from mechicl.studies.drawing import where
from mechicl.studies.summary import spread

PAIR = ["class_a", "class_b"]
REAL = -1
"""Layer of the rows that hold the real confusion."""


def pair_rows(matrix: Float[Tensor, "class_ class_"], names: Sequence[str], **place: int) -> pd.DataFrame:
    """A row per pair of classes."""
    a, b = np.triu_indices(len(names), 1)
    values, classes = matrix.cpu().double().numpy(), np.array(names)
    return pd.DataFrame({**place, "class_a": classes[a], "class_b": classes[b], "value": values[a, b]})


def pair_matrix(pairs: pd.Series[float]) -> pd.DataFrame:
    """A symmetric matrix of values by pair, with diagonal 1."""
    names = list(dict.fromkeys([*pairs.index.get_level_values(0), *pairs.index.get_level_values(1)]))
    empty = np.where(np.eye(len(names)), 1, np.nan)  # NaN for pairs that were not measured
    matrix = pd.DataFrame(empty, index=names, columns=names)
    for pair, value in pairs.items():
        matrix.loc[pair] = matrix.loc[pair[::-1]] = value  # type: ignore[index]
    return matrix


def smallest(matrix: pd.DataFrame) -> tuple[str, str]:
    """The pair of classes with the smallest value."""
    a, b = np.triu_indices(len(matrix), 1)
    place = int(np.nanargmin(matrix.to_numpy()[a, b]))
    return matrix.index[a[place]], matrix.index[b[place]]


def seeds_by_classes(table: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of a task's seeds: together if they have the same classes, separate if each draws its own."""
    alike: dict[tuple[str, ...], list[pd.DataFrame]] = {}
    for _, of_seed in table.groupby("seed", sort=False, dropna=False):
        alike.setdefault(tuple(dict.fromkeys([*of_seed["class_a"], *of_seed["class_b"]])), []).append(of_seed)
    return [pd.concat(parts) for parts in alike.values()]


def real_matrix(table: pd.DataFrame) -> pd.DataFrame:
    """Real confusion, averaged over seeds."""
    return pair_matrix(where(table, layer=REAL).groupby(PAIR, sort=False)["value"].mean())


def with_differences(table: pd.DataFrame) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """The rows of seeds with the same classes, and their real confusion, if that differs between pairs."""
    alike = [(rows, real_matrix(rows)) for rows in seeds_by_classes(table)]
    return [(rows, real) for rows, real in alike if _differs(real)]


def _differs(real: pd.DataFrame) -> bool:
    values = real.to_numpy()[np.triu_indices(len(real), 1)]
    known = values[np.isfinite(values)]
    return len(known) > 2 and np.ptp(known) > 0


def rank_correlations(rows: pd.DataFrame, real: pd.DataFrame, by: str) -> Float[np.ndarray, "group"]:
    """Spearman's correlation with the real confusion, for each group of rows (each context)."""
    from scipy.stats import rankdata

    grouped = rows.pivot_table(index=by, columns=PAIR, values="value", sort=False)
    truth = np.array([real.loc[pair[0], pair[1]] for pair in grouped.columns])
    known = ~np.isnan(truth)
    ranks, target = rankdata(grouped.to_numpy()[:, known], axis=1), rankdata(truth[known])
    if not _differs(real):
        return np.full(len(ranks), np.nan)
    return np.array([np.corrcoef(row, target)[0, 1] for row in ranks])


def predicted_matrix(table: pd.DataFrame, layer: int, components: int) -> pd.DataFrame:
    """Predicted confusion of every pair: distances averaged over contexts, divided by each seed's largest."""
    rows = where(table, layer=layer, components=components)
    of_seed = rows.groupby(["seed", *PAIR], sort=False, dropna=False)["value"].mean().reset_index()
    largest = of_seed.groupby("seed", dropna=False)["value"].transform("max")
    mean = (of_seed["value"] / largest).groupby([of_seed[name] for name in PAIR], sort=False).mean()
    return pair_matrix(mean / mean.max())


def correlations(
    alike: Sequence[tuple[pd.DataFrame, pd.DataFrame]], layer: int, components: int
) -> list[tuple[str, float, float, float, float]]:
    """For each metric the value, its bounds over contexts, and the seeds' standard deviation."""
    nan = float("nan")
    if not alike:
        return [(metric, nan, nan, nan, nan) for metric in ("spearman", "pearson", "p_value")]
    tests = [_test(table, real, layer, components) for table, real in alike]
    each, seeds = by_context(alike, layer, components), by_context(alike, layer, components, mean=True)
    low, high = np.quantile(each, [0.025, 0.975]) if len(each) > len(seeds) else (nan, nan)
    spearman, pearson = (float(np.mean([getattr(c, name) for c in tests])) for name in ("spearman", "pearson"))
    return [
        ("spearman", spearman, low, high, spread(seeds)),
        ("pearson", pearson, nan, nan, nan),
        ("p_value", combined_p_value(tests, generator=np.random.default_rng(0)), nan, nan, nan),
    ]


def _test(table: pd.DataFrame, real: pd.DataFrame, layer: int, components: int) -> Correlation:
    """Correlation of mean matrices; for the same classes, every layer uses the same permutations."""
    predicted = predicted_matrix(table, layer, components)
    matrices = (torch.tensor(m.to_numpy()) for m in (predicted, real.loc[predicted.index, predicted.index]))
    return confusion_correlation(*matrices, generator=np.random.default_rng(0))


def by_context(
    alike: Sequence[tuple[pd.DataFrame, pd.DataFrame]], layer: int, components: int, *, mean: bool = False
) -> Float[np.ndarray, "context"]:
    """Spearman's correlation for each seed's contexts, or for their mean; seeds without any confusion have none."""
    parts = []
    for table, _ in alike:
        for _, of_seed in table.groupby("seed", dropna=False):
            rows = where(of_seed, layer=layer, components=components)
            rows = rows.assign(context=0) if mean else rows
            parts.append(rank_correlations(rows, real_matrix(of_seed), "context"))
    values: np.ndarray = np.concatenate(parts)
    known: np.ndarray = values[np.isfinite(values)]
    return known


def corrected_p(
    alike: Sequence[tuple[pd.DataFrame, pd.DataFrame]], layers: Sequence[int], components: int
) -> dict[int, float]:
    """One-sided p of each layer's correlation, corrected for all layers: null of the largest with permuted classes."""
    curves, draws, generator = [], [], np.random.default_rng(0)
    for table, real in alike:
        tests = [_test(table, real, layer, components) for layer in layers]
        null = np.stack([test.relabelled for test in tests], 1)
        null = null[1:] if tests[0].exact else null  # among all permutations, the first is the identity
        curves.append([test.spearman for test in tests])
        draws.append(null if len(alike) == 1 else generator.choice(null, 10_000))
    p = max_statistic_p(np.mean(curves, axis=0) - 1e-12, np.mean(draws, axis=0))
    return dict(zip(layers, p.tolist(), strict=True))


def heat_map(matrix: pd.DataFrame, lowest: float) -> go.Heatmap:
    """A confusion matrix with its values, in colours from `lowest` to 1; unknown ones are empty."""
    values = matrix.to_numpy()
    shown = [["" if np.isnan(value) else f"{value:.2f}" for value in row] for row in values]
    return go.Heatmap(
        z=values, x=list(map(plain, matrix.columns)), y=list(map(plain, matrix.index)), zmin=lowest, zmax=1,
        colorscale="Blues_r", showscale=False, text=shown, texttemplate="%{text}", hoverongaps=False,
        hovertemplate="%{y} and %{x}: %{z:.4f}<extra></extra>",
    )  # fmt: skip


def correlation_traces(rows: pd.DataFrame, components: int) -> list[go.Scatter]:
    """Rank correlation by layer, a curve per number of components, the chosen one with its band."""
    colours = cycle((SKY, BLUE, GREEN, ORANGE, PURPLE, VERMILION, GREY))
    curves = [
        go.Scatter(
            x=of_m["layer"], y=of_m["mean"], name=f"M = {m}", mode="lines+markers",
            line={"color": colour, "width": 3 if m == components else 1.5},
        )
        for (m, of_m), colour in zip(rows.groupby("components"), colours, strict=False)
    ]  # fmt: skip
    chosen = rows[rows["components"] == components]
    return [band(chosen, "layer", GREY), *curves] if chosen["low"].notna().all() else curves
