"""Accuracy and macro-F1 of predictions, with intervals."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float

from mechicl.studies.summary import mean_with_interval, spread


def macro_f1_rows(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Mean over seeds of macro-F1, with an interval over resampled prompts; rows of one seed may be of several sets."""
    rows = []
    for key, group in table.groupby(by, sort=False):
        seeds = [part for _, part in group.groupby("seed", sort=False, dropna=False)]
        values = np.stack([_of_sets(part, index) for index, part in enumerate(seeds)])
        low, high = np.quantile(values[:, 1:].mean(0), [0.025, 0.975])
        numbers = {"mean": values[:, 0].mean(), "low": low, "high": high, "n": len(group), "seeds": len(seeds),
                   "seed_sd": spread(values[:, 0])}  # fmt: skip
        rows.append(dict(zip(by, key, strict=True)) | numbers | {"metric": "macro_f1"})
    return pd.DataFrame(rows)


def is_right(table: pd.DataFrame) -> pd.Series[float]:
    """1 where the predicted class is the gold one, else 0; NaN where that is not known."""
    return (table["predicted"] == table["gold"]).astype(float).where(table["gold"] >= 0)


def accuracy_context(table: pd.DataFrame, by: list[str], clean: pd.Series[bool]) -> pd.DataFrame:
    """What puts accuracy in context: macro-F1, and majority_rate, what always answering the commonest class reaches.

    Of prompts whose gold class is known. The rate is that of the `clean` rows; it is the same in all others.
    """
    known = table["gold"] >= 0
    commonest = table.groupby(["task", "seed"], dropna=False)["gold"].transform(lambda gold: gold.mode().iloc[0])
    majority = table.assign(value=(table["gold"] == commonest).astype(float))[known & clean]
    if not known.any():
        return pd.DataFrame()
    rates = mean_with_interval(majority, "value", by).assign(metric="majority_rate")
    return pd.concat([macro_f1_rows(table[known], by), rates], ignore_index=True)


def _of_sets(rows: pd.DataFrame, seed: int) -> Float[np.ndarray, "draw"]:
    """Macro-F1 of one seed, the mean of its sets where there are several, which share the resampled prompts."""
    sets = [part for _, part in rows.groupby("set")] if "set" in rows else [rows]
    scores = [_macro_f1(part["gold"].to_numpy(), part["predicted"].to_numpy(), np.random.default_rng(seed))
              for part in sets]  # fmt: skip
    mean: np.ndarray = np.mean(scores, axis=0)
    return mean


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
