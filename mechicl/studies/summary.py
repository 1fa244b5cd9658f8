"""From one row per observation to means with intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mechicl.metrics import bootstrap_mean

BAND = "band: 95 % bootstrap interval over prompts"
TEXT_BAND = "band: 95 % bootstrap interval over sequences"


def mean_with_interval(
    table: pd.DataFrame, value: str, by: Sequence[str], *, weight: str | None = None
) -> pd.DataFrame:
    """Mean of a column within each group of `by`, with its bootstrap interval over rows.

    Every seed counts the same, as in the papers: a row's weight is divided by its seed's total. Running text has no
    seed. Columns: `by`, mean, low, high, n (rows), seeds.
    """
    rows = []
    for key, group in table.groupby(list(by), sort=False, observed=True):
        weights = np.ones(len(group)) if weight is None else group[weight].to_numpy(float)
        # 0 for prompts without a seed
        seed = pd.factorize(group["seed"])[0] + 1 if "seed" in group else np.zeros(len(group), dtype=int)
        totals = np.bincount(seed, weights=weights)[seed]
        interval = bootstrap_mean(
            group[value].to_numpy(float),
            weights=weights / totals,
            generator=np.random.default_rng(0),
            name=value,
        )
        rows.append(
            dict(zip(by, key, strict=True))
            | {"mean": float(interval.mean), "low": float(interval.low), "high": float(interval.high)}
            | {"n": interval.n, "seeds": len(np.unique(seed))}
        )
    return pd.DataFrame(rows)
