"""Intervals and tests that follow the design: demonstration sets first, then prompts; documents; maxima over layers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped
from scipy import stats

from mechicl.errors import InputError

FEW_SETS = 6
"""With fewer sets than this, resampling sets undercovers, and Student's t over the sets' means is used."""
_RESAMPLES = 2000


class SetInterval(NamedTuple):
    """A mean with its 95 % interval; NaN bounds where there is one set, of whose spread nothing is known."""

    mean: float
    low: float
    high: float
    sets: int
    """Demonstration sets, or documents: what was sampled first."""
    n: int
    """Prompts, or rows of the documents."""


def mean_over_sets(
    values: Float[np.ndarray, " row"],
    sets: Shaped[np.ndarray, " row"],
    *,
    generator: np.random.Generator,
    weights: Float[np.ndarray, " row"] | None = None,
    level: float = 0.95,
) -> SetInterval:
    """The mean of the sets' means, every set counting the same, with an interval for other sets and other prompts.

    With fewer than 6 sets it is Student's t over the sets' means, whose spread counts at least as much as that of the
    prompts within sets makes it: four sets of six prompts may agree by accident. With more, sets are resampled, and in
    each set that is drawn its rows (2,000 draws, percentiles). `weights` weigh the rows of a set (positions of a
    document, say), and the sets by their sums.

    Raises:
        InputError: no values, or values or weights that are not finite.
    """
    weights = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=float)
    values = np.asarray(values, dtype=float)
    if not len(values) or len(sets) != len(values) or not (np.isfinite(values) & np.isfinite(weights)).all():
        raise InputError("A mean over sets needs one finite value and one set for each row, and at least one row.")
    names, index = np.unique(sets, return_inverse=True)
    weighted = len(np.unique(weights)) > 1
    totals = np.bincount(index, weights=weights)
    means = np.bincount(index, weights=values * weights) / totals
    of_set = totals if weighted else np.ones(len(names))
    mean = float(np.average(means, weights=of_set))
    if len(names) == 1:
        return SetInterval(mean, np.nan, np.nan, 1, len(values))
    if len(names) < FEW_SETS and not weighted:
        within = np.bincount(index, weights=(values - means[index]) ** 2) / totals**2
        error = max(np.std(means, ddof=1), np.sqrt(within.mean())) / np.sqrt(len(names))
        half = float(stats.t.ppf((1 + level) / 2, len(names) - 1) * error)
        return SetInterval(mean, mean - half, mean + half, len(names), len(values))
    draws = _draws(values, weights, [np.flatnonzero(index == i) for i in range(len(names))], weighted, generator)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return SetInterval(mean, float(low), float(high), len(names), len(values))


def against_few(effect: SetInterval, nulls: Float[np.ndarray, " draw"], level: float = 0.95) -> SetInterval:
    """An effect over the mean of a few draws of its null, such as untrained twins, with an interval for both.

    The interval holds what another draw might have given instead of the model: Student's t of the draws' spread is
    added, in squares, to the interval's own halves. Wants two draws or more.
    """
    quantile = stats.t.ppf((1 + level) / 2, len(nulls) - 1)
    spread = quantile * np.std(nulls, ddof=1) * np.sqrt(1 + 1 / len(nulls))
    below, above = (float(np.hypot(half, spread)) for half in (effect.mean - effect.low, effect.high - effect.mean))
    return effect._replace(low=effect.mean - below, high=effect.mean + above)


def _draws(
    values: np.ndarray, weights: np.ndarray, rows: list[np.ndarray], weighted: bool, generator: np.random.Generator
) -> Float[np.ndarray, " draw"]:
    """Means of resampled sets of resampled rows."""
    chosen = generator.integers(len(rows), size=(_RESAMPLES, len(rows)))
    sums, totals = np.zeros(_RESAMPLES), np.zeros(_RESAMPLES)
    for number, of_set in enumerate(rows):
        draw, _ = np.nonzero(chosen == number)
        picked = of_set[generator.integers(len(of_set), size=(len(draw), len(of_set)))]
        weight = weights[picked].sum(1)
        mean = (values[picked] * weights[picked]).sum(1) / weight
        size = weight if weighted else np.ones(len(draw))
        np.add.at(sums, draw, mean * size)
        np.add.at(totals, draw, size)
    return sums / totals


def proportion(successes: int, n: int, level: float = 0.95) -> tuple[float, float, float]:
    """A share of independent cases and its Wilson interval, which has some width at 0 and at 1 too."""
    if not 0 <= successes <= n or not n:
        raise InputError(f"A share of {n} cases with {successes} counted has no interval; give at least one case.")
    interval = stats.binomtest(successes, n).proportion_ci(level, method="wilson")
    return successes / n, float(interval.low), float(interval.high)


def max_statistic_p(
    observed: Float[np.ndarray, " place"], null: Float[np.ndarray, "draw place"]
) -> Float[np.ndarray, " place"]:
    """p of each place (a layer, a head), corrected for having looked at all of them.

    It is the share of draws of the null whose largest value reaches the place's. The observed curve counts as a draw,
    so that no p is zero.
    """
    largest = np.max(null, axis=1)
    return np.asarray((1 + (largest[:, None] >= observed).sum(0)) / (1 + len(largest)))


def permuted_p(observed: float, null: Float[np.ndarray, " draw"]) -> float:
    """One-sided p of a number against draws of its null."""
    return float((1 + (null >= observed).sum()) / (1 + len(null)))
