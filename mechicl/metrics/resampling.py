"""Intervals and tests that follow the design: demonstration sets first, then prompts; documents; maxima over layers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped
from scipy import stats

from mechicl.errors import InputError

FEW_SETS = 20
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
    level: float = 0.95,
) -> SetInterval:
    """The mean of the sets' means, every set counting the same, with an interval for other sets and other prompts.

    With fewer than 20 sets it is Student's t over the sets' means, whose spread counts at least as much as that of the
    prompts within sets makes it: four sets of six prompts may agree by accident. With more, sets are resampled, and in
    each set that is drawn its rows (2,000 draws, percentiles). Where values are only -1, 0 and 1, as differences of
    what is right or wrong, the interval has some width also where all are alike.

    Raises:
        InputError: no values, or values that are not finite.
    """
    values = np.asarray(values, dtype=float)
    if not len(values) or len(sets) != len(values) or not np.isfinite(values).all():
        raise InputError("A mean over sets needs one finite value and one set for each row, and at least one row.")
    names, index = np.unique(sets, return_inverse=True)
    sizes = np.bincount(index)
    means = np.bincount(index, weights=values) / sizes
    mean = float(means.mean())
    if len(names) == 1:
        return SetInterval(mean, np.nan, np.nan, 1, len(values))
    if len(names) < FEW_SETS:
        squares = np.bincount(index, weights=(values - means[index]) ** 2)
        within = squares / np.maximum(sizes * (sizes - 1), 1)
        error = max(np.std(means, ddof=1), np.sqrt(within.mean())) / np.sqrt(len(names))
        half = float(stats.t.ppf((1 + level) / 2, len(names) - 1) * error)
        low, high = mean - half, mean + half
    else:
        draws = _draws(values, [np.flatnonzero(index == i) for i in range(len(names))], generator)
        low, high = map(float, np.quantile(draws, [(1 - level) / 2, (1 + level) / 2]))
    if set(np.unique(values)) <= {-1.0, 0.0, 1.0}:
        least = _least_half_width(values, level)
        low, high = max(-1.0, min(low, mean - least)), min(1.0, max(high, mean + least))
    return SetInterval(mean, low, high, len(names), len(values))


def _least_half_width(values: Float[np.ndarray, " row"], level: float) -> float:
    """Half an interval's width with a case of 1 and one of -1 added, as Agresti and Coull do for shares."""
    more = np.append(values, [1.0, -1.0])
    return float(stats.norm.ppf((1 + level) / 2) * np.std(more, ddof=1) / np.sqrt(len(more)))


def against_few(effect: SetInterval, nulls: Float[np.ndarray, " draw"], level: float = 0.95) -> SetInterval:
    """An effect over the mean of a few draws of its null, such as untrained twins, with an interval for both.

    The interval holds what another draw might have given instead of the model: Student's t of the draws' spread is
    added, in squares, to the interval's own halves. Wants two draws or more.
    """
    quantile = stats.t.ppf((1 + level) / 2, len(nulls) - 1)
    spread = quantile * np.std(nulls, ddof=1) * np.sqrt(1 + 1 / len(nulls))
    below, above = (float(np.hypot(half, spread)) for half in (effect.mean - effect.low, effect.high - effect.mean))
    return effect._replace(low=effect.mean - below, high=effect.mean + above)


def _draws(values: np.ndarray, rows: list[np.ndarray], generator: np.random.Generator) -> Float[np.ndarray, " draw"]:
    """Means of resampled sets of resampled rows."""
    chosen = generator.integers(len(rows), size=(_RESAMPLES, len(rows)))
    sums = np.zeros(_RESAMPLES)
    for number, of_set in enumerate(rows):
        draw, _ = np.nonzero(chosen == number)
        picked = of_set[generator.integers(len(of_set), size=(len(draw), len(of_set)))]
        np.add.at(sums, draw, values[picked].mean(1))
    return sums / len(rows)


def max_statistic_p(
    observed: Float[np.ndarray, " place"], null: Float[np.ndarray, "draw place"]
) -> Float[np.ndarray, " place"]:
    """p of each place (a layer, a head), corrected for having looked at all of them.

    It is the share of draws of the null whose largest value reaches the place's. The observed curve counts as a draw,
    so that no p is zero.
    """
    largest = np.max(null, axis=1)
    return np.asarray((1 + (largest[:, None] >= observed).sum(0)) / (1 + len(largest)))
