"""From one row per observation to means with intervals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from mechicl.metrics import bootstrap_mean

INTERVALS = "95 % bootstrap intervals over prompts"
BAND = "band: 95 % bootstrap interval over prompts"
TEXT_BAND = "band: 95 % bootstrap interval over sequences"


def mean_with_interval(
    table: pd.DataFrame, value: str, by: Sequence[str], *, weight: str | None = None
) -> pd.DataFrame:
    """Mean of a column within each group of `by`, with its bootstrap interval over rows.

    Every seed counts the same, as in the papers: a row's weight is divided by its seed's total. Columns: `by`, mean,
    low, high, n (rows), seeds, and seed_sd, the standard deviation of the seeds' own means (NaN of a single seed).
    Running text has no seed, and so no seed_sd.
    """
    rows: list[dict[str, Any]] = []
    alike: dict[bytes, list[tuple[int, np.ndarray, np.ndarray]]] = defaultdict(list)
    for key, group in table.groupby(list(by), sort=False, observed=True):
        weights = np.ones(len(group)) if weight is None else group[weight].to_numpy(float)
        # 0 for prompts without a seed
        seed = pd.factorize(group["seed"])[0] + 1 if "seed" in group else np.zeros(len(group), dtype=int)
        weights = weights / np.bincount(seed, weights=weights)[seed]
        alike[weights.tobytes()].append((len(rows), weights, group[value].to_numpy(float)))
        of_seeds = np.bincount(seed, weights=weights * group[value].to_numpy(float))[seeds := np.unique(seed)]
        counts = {"n": len(group), "seeds": len(seeds), "seed_sd": spread(of_seeds)}
        rows.append(dict(zip(by, key, strict=True)) | counts)
    summary = pd.DataFrame(rows)
    bounds = np.empty((len(rows), 3))
    for groups in alike.values():  # groups with the same weights share their draws, and so are drawn once
        places, (weights, *_), columns = zip(*groups, strict=True)
        values = np.stack(columns, 1)
        interval = bootstrap_mean(values, weights=weights, generator=np.random.default_rng(0), name=value)
        bounds[list(places)] = np.stack([interval.mean, interval.low, interval.high], 1)
    intervals = pd.DataFrame(bounds, columns=["mean", "low", "high"])
    last = ["n", "seeds", *(["seed_sd"] if "seed" in table else [])]
    return pd.concat([summary[list(by)], intervals, summary[last]], axis=1)


def by_task(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """A title for each task and number of shots, and the values of these columns in its rows."""
    pairs = table[["task", "shots"]].drop_duplicates().itertuples(index=False)
    return {f"{task}, {shots} per class": {"task": task, "shots": shots} for task, shots in pairs}


def by_metric(table: pd.DataFrame, metrics: Sequence[str], place: Sequence[str] = ()) -> pd.DataFrame:
    """A row for each of several columns: model, task, shots, seed, `place`, metric and value, where there is one."""
    rows = table.melt(["model", "task", "shots", "seed", *place], list(metrics), var_name="metric")
    return rows[rows["value"].notna()]


def spread(of_seeds: Sequence[float] | np.ndarray) -> float:
    """Standard deviation over seeds; NaN of a single one."""
    return float(np.std(of_seeds, ddof=1)) if len(of_seeds) > 1 else float("nan")


def mean_over_tasks(table: pd.DataFrame, value: str, by: Sequence[str]) -> pd.DataFrame:
    """As `mean_with_interval`, with every seed of every task counting the same, as the papers average their tasks."""
    cells = table[["task", "shots", "seed"]].map(str).agg(" ".join, axis=1)
    return mean_with_interval(table.assign(seed=cells), value, by).drop(columns="seed_sd")


def highest(curve: pd.Series[float], spec: str = ".2f", place: str = "in layer") -> str:
    """Where a curve is highest, in words: "highest in layer 3 (0.45)"."""
    return f"highest {place} {curve.idxmax()} ({curve.max():{spec}})"


def lowest(curve: pd.Series[float], spec: str = ".2f", place: str = "in layer") -> str:
    """Where a curve is lowest, in words."""
    return f"lowest {place} {curve.idxmin()} ({curve.min():{spec}})"
