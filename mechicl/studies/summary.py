"""Summaries: from one row per observation to means with intervals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from mechicl.metrics import bootstrap_mean
from mechicl.metrics.resampling import FEW_SETS, plateau, weighted_over_sets, wilson
from mechicl.studies.parts import DEMONSTRATION_SET, set_names

TEXT_BAND = "band: 95 % interval over sequences"
_SHARES = (
    "acc", "acc_norm", "accuracy", "label_loyalty", "loyalty", "majority_rate", "training_accuracy", "word_loyalty_5",
    "word_loyalty_10",
)  # fmt: skip
"""Metrics between 0 and 1, whose intervals keep some width even if all prompts agree."""
_OF_POSITIONS = ("agreement", "pattern", "top_10_overlap")
"""Such metrics whose rows are means over many positions."""


def intervals(summary: pd.DataFrame) -> str:
    """What a summary's intervals are taken over, for the note below a figure's title."""
    return f"95 % intervals over {'demonstration sets' if summary['sets'].max() > 1 else _ONE_SET}"


def bands(summary: pd.DataFrame) -> str:
    """Like `intervals`, for curves."""
    return f"band: {intervals(summary).replace('intervals', 'interval')}"


_ONE_SET = "the prompts of a single demonstration set"


def mean_with_interval(
    table: pd.DataFrame, value: str, by: Sequence[str], *, weight: str | None = None
) -> pd.DataFrame:
    """Mean of a column within each group of `by`, with an interval over demonstration sets, then prompts.

    Intervals are computed as for claims (`metrics.resampling`); for a single set, and for running text, they are
    intervals over rows: bootstrap intervals, or with few rows Student's t. Where a share (accuracy, loyalty) is 0 or 1
    in all rows, the interval is Wilson's.

    Every seed counts the same, as in the papers: a row's weight is divided by its seed's total. Columns: `by`, mean,
    low, high, n (rows), sets, seeds, and seed_sd, the standard deviation of the seeds' means (NaN for a single seed).
    Running text has no sets and no seeds, hence no seed_sd.
    """
    rows: list[dict[str, Any]] = []
    named = DEMONSTRATION_SET in table and "seed" in table
    table = table.assign(_set=set_names(table) if named else 0)
    alike: dict[bytes, list[tuple[int, np.ndarray, np.ndarray, np.ndarray]]] = defaultdict(list)
    for key, group in table.groupby(list(by), sort=False, observed=True):
        weights = np.ones(len(group)) if weight is None else group[weight].to_numpy(float)
        # 0: prompts without a seed
        seed = pd.factorize(group["seed"])[0] + 1 if "seed" in group else np.zeros(len(group), dtype=int)
        weights = weights / np.bincount(seed, weights=weights)[seed]
        sets = pd.factorize(group["_set"])[0]
        alike[weights.tobytes() + sets.tobytes()].append((len(rows), weights, sets, group[value].to_numpy(float)))
        of_seeds = np.bincount(seed, weights=weights * group[value].to_numpy(float))[seeds := np.unique(seed)]
        counts = {"n": len(group), "sets": sets.max() + 1, "seeds": len(seeds), "seed_sd": spread(of_seeds)}
        rows.append(dict(zip(by, key, strict=True)) | counts)
    summary = pd.DataFrame(rows)
    bounds = np.empty((len(rows), 3))
    for groups in alike.values():  # groups with the same weights and sets share one set of draws
        places, (weights, *_), (sets, *_), columns = zip(*groups, strict=True)
        values, generator = np.stack(columns, 1), np.random.default_rng(0)
        if not sets.max() and len(values) < FEW_SETS and np.isfinite(values).all():  # resampling so few undercovers
            sets = np.arange(len(values))
        found = (
            weighted_over_sets(values, weights, sets, generator=generator)
            if sets.max()
            else bootstrap_mean(values, weights=weights, generator=generator, name=value)[:3]
        )
        bounds[list(places)] = np.stack(found, 1)
    numbers = pd.DataFrame(bounds, columns=["mean", "low", "high"])
    last = ["n", "sets", "seeds", *(["seed_sd"] if "seed" in table else [])]
    return _shares_have_width(pd.concat([summary[list(by)], numbers, summary[last]], axis=1))


def _shares_have_width(summary: pd.DataFrame) -> pd.DataFrame:
    """Intervals of shares, kept within 0 and 1, with some width even if all rows agree."""
    metric = summary["metric"] if "metric" in summary else pd.Series("", summary.index)
    share = metric.isin(_SHARES) | metric.str.startswith("recall")
    bounds, within = ["low", "high"], share | metric.isin(_OF_POSITIONS)
    summary.loc[within, bounds] = summary.loc[within, bounds].clip(0, 1)
    for row in summary.index[share & summary["mean"].round(9).isin([0.0, 1.0])]:
        summary.loc[row, bounds] = wilson(summary.loc[row, "mean"], int(summary.loc[row, "n"]))
    return summary


def by_task(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Titles, one per task and number of shots, each with the values of these columns."""
    pairs = table[["task", "shots"]].drop_duplicates().itertuples(index=False)
    return {f"{task}, {shots} per class": {"task": task, "shots": shots} for task, shots in pairs}


def by_metric(table: pd.DataFrame, metrics: Sequence[str], place: Sequence[str] = ()) -> pd.DataFrame:
    """Long form of several columns: prompt columns, `place`, metric and value; missing values are dropped."""
    about = [name for name in ("model", "task", "shots", "seed", DEMONSTRATION_SET) if name in table]
    rows = table.melt([*about, *place], list(metrics), var_name="metric")
    return rows[rows["value"].notna()]


def spread(of_seeds: Sequence[float] | np.ndarray) -> float:
    """Standard deviation over seeds; NaN for a single seed."""
    return float(np.std(of_seeds, ddof=1)) if len(of_seeds) > 1 else float("nan")


def mean_over_tasks(table: pd.DataFrame, value: str, by: Sequence[str]) -> pd.DataFrame:
    """Like `mean_with_interval`, with equal weight for every seed of every task, as the papers average their tasks."""
    task, shots, seed = (table[name].map(str) for name in ("task", "shots", "seed"))
    return mean_with_interval(table.assign(seed=task + " " + shots + " " + seed), value, by).drop(columns="seed_sd")


def plateau_in_words(values: np.ndarray, names: Sequence[int]) -> str:
    """Where the mean of rows [row place] may be highest, corrected for all: "on a plateau, before layers 3-7"."""
    best = np.asarray(names)[plateau(values, generator=np.random.default_rng(0))]
    return f"highest before layer {best[0]}" if len(best) == 1 else f"on a plateau, before layers {_runs(best)}"


def _runs(layers: np.ndarray) -> str:
    """Layers in increasing order, runs of them shortened: "0, 3-5"."""
    runs = np.split(layers, np.flatnonzero(np.diff(layers) > 1) + 1)
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def extreme_in_words(
    values: np.ndarray, names: Sequence[int], *, lowest: bool = False, spec: str = ".2f", place: str = "in"
) -> str:
    """Where the mean of rows [row place] may be highest or lowest, corrected for all: "in layers 0, 3-5 (0.45)".

    The number is the mean over these layers. If all layers qualify, only the extreme one is named, as one that
    does not stand out.
    """
    means, signed = values.mean(0), -values if lowest else values
    if len(values) < 2:
        one = int(signed[0].argmax())
        return f"{place} layer {names[one]} ({means[one]:{spec}}, in a single one)"
    best = plateau(signed, generator=np.random.default_rng(0))
    if best.all() and len(best) > 1:
        one = int(signed.mean(0).argmax())
        return f"{place} layer {names[one]} ({means[one]:{spec}}; no layer stands out)"
    layers = np.sort(np.asarray(names)[best])
    return f"{place} layer{'s' if len(layers) > 1 else ''} {_runs(layers)} ({means[best].mean():{spec}})"
