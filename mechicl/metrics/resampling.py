"""Intervals and tests that respect the design: demonstration sets, then prompts; documents; maxima over layers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy import stats

from mechicl.errors import InputError

FEW_SETS = 20
"""With fewer sets, resampling them undercovers, so Student's t over the sets' means is used."""
_RESAMPLES = 2000
_BLOCK = 1 << 23
"""Number of weights of draws held at a time (float64: 64 MiB)."""


class SetInterval(NamedTuple):
    """A mean with its 95 % interval; the bounds are NaN for a single set, whose spread is unknown."""

    mean: float
    low: float
    high: float
    sets: int
    """Number of demonstration sets, or documents: the units sampled first."""
    n: int
    """Number of prompts, or of rows of the documents."""

    def less(self, known: float) -> SetInterval:
        """The mean less a number that has no error of its own, with the same width."""
        return self._replace(mean=self.mean - known, low=self.low - known, high=self.high - known)

    def less_measured(self, null: SetInterval) -> SetInterval:
        """The mean less another one, measured apart; both errors add in quadrature."""
        mean = self.mean - null.mean
        below = float(np.hypot(self.mean - self.low, null.high - null.mean))
        above = float(np.hypot(self.high - self.mean, null.mean - null.low))
        return self._replace(mean=mean, low=mean - below, high=mean + above)


def mean_over_sets(
    values: Float[np.ndarray, " row"],
    sets: Shaped[np.ndarray, " row"],
    *,
    generator: np.random.Generator,
    level: float = 0.95,
) -> SetInterval:
    """The mean of the sets' means, with equal weights, and an interval that generalises to other sets and prompts.

    With fewer than 20 sets it is Student's t over the sets' means, with at least the spread that prompts within sets
    imply, because four sets of six prompts may agree by accident. With more, sets are resampled, and rows within each
    drawn set (2,000 draws, percentiles). If values are only -1, 0 and 1, such as differences of correctness, the
    interval keeps some width even if all are equal.

    Raises:
        InputError: there are no values, or some are not finite.
    """
    values = np.asarray(values, dtype=float)
    if not len(values) or len(sets) != len(values) or not np.isfinite(values).all():
        raise InputError("A mean over sets needs one finite value and one set for each row, and at least one row.")
    _, index, sizes = np.unique(sets, return_inverse=True, return_counts=True)
    found = weighted_over_sets(values[:, None], 1 / sizes[index], index, generator=generator, level=level)
    mean, low, high = (float(numbers[0]) for numbers in found)
    if len(sizes) > 1 and set(np.unique(values)) <= {-1.0, 0.0, 1.0}:
        least = _least_half_width(values, level)
        low, high = max(-1.0, min(low, mean - least)), min(1.0, max(high, mean + least))
    return SetInterval(mean, low, high, len(sizes), len(values))


def weighted_over_sets(
    values: Float[np.ndarray, "row column"], weights: Float[np.ndarray, " row"], sets: Int[np.ndarray, " row"], *,
    generator: np.random.Generator, level: float = 0.95,
) -> tuple[Float[np.ndarray, " column"], Float[np.ndarray, " column"], Float[np.ndarray, " column"]]:  # fmt: skip
    """Weighted mean, low and high of each column, like `mean_over_sets`; a set weighs as much as its rows.

    `sets` are numbered from 0. The bounds of a single set are NaN.
    """
    n, shares = int(sets.max()) + 1, weights / weights.sum()
    mean = shares @ values
    if n == 1:
        return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    of_set = np.bincount(sets, weights=shares)
    if n >= FEW_SETS:
        step = max(1, _BLOCK // len(values))
        blocks = [min(step, _RESAMPLES - start) for start in range(0, _RESAMPLES, step)]
        draws = [_drawn_weights(shares, sets, of_set, generator, size) @ values for size in blocks]
        low, high = np.quantile(np.concatenate(draws), [(1 - level) / 2, (1 + level) / 2], axis=0)
        return mean, low, high
    sizes, members = np.bincount(sets), (sets == np.arange(n)[:, None]) * shares
    means = members @ values / of_set[:, None]
    squares = members @ (values - means[sets]) ** 2 / of_set[:, None]  # 0 for a set of one row
    errors = np.sqrt(squares / np.maximum(sizes - 1, 1)[:, None])
    return mean, *over_few_sets(means, errors, of_set, level=level)


def over_few_sets(
    estimates: Float[np.ndarray, "set column"], errors: Float[np.ndarray, "set column"],
    weights: Float[np.ndarray, " set"] | None = None, *, level: float = 0.95,
) -> tuple[Float[np.ndarray, " column"], Float[np.ndarray, " column"]]:  # fmt: skip
    """Low and high of the mean of a few sets' estimates by Student's t; `errors` are their standard errors within sets.

    The spread over sets is at least the one that the errors imply.
    """
    n = len(estimates)
    shares = np.full((n, 1), 1 / n) if weights is None else (weights / weights.sum())[:, None]
    mean = (shares * estimates).sum(0)
    of_mean = (shares**2).sum()  # the share of a set's variance that the mean has; 1 / n for equal weights
    between = (shares * (estimates - mean) ** 2).sum(0) * of_mean / (1 - of_mean)
    half = stats.t.ppf((1 + level) / 2, n - 1) * np.sqrt(np.maximum(between, (shares**2 * errors**2).sum(0)))
    return mean - half, mean + half


def jackknife(
    whole: Float[np.ndarray, "*any"], without: Float[np.ndarray, "set *any"], level: float = 0.95
) -> tuple[Float[np.ndarray, "*any"], Float[np.ndarray, "*any"]]:
    """Low and high of a statistic of a few sets (not a mean) by Student's t over Tukey's pseudo-values.

    `without` is the statistic with each set left out; at least two.
    """
    n = len(without)
    pseudo = n * whole - (n - 1) * without
    half = stats.t.ppf((1 + level) / 2, n - 1) * pseudo.std(0, ddof=1) / np.sqrt(n)
    return whole - half, whole + half


def wilson(share: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share of n cases, which has some width even if the share is 0 or 1."""
    interval = stats.binomtest(round(share * n), n).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


def plateau(values: Float[np.ndarray, "row place"], *, generator: np.random.Generator) -> np.ndarray:
    """Places (layers, depths) whose mean may be the highest, as a mask.

    Rows are independent, such as documents. Each place's mean is compared with the largest, over resampled rows; the
    95 % bound is that of the largest standardised deviation over all places, which corrects for all of them (2,000
    draws). With fewer than 20 rows it is widened as Student's t is, and a single row excludes no place.
    """
    n, mean = len(values), values.mean(0)
    if n < 2:
        return np.ones(len(mean), dtype=bool)
    gap = mean.max() - mean
    weights = generator.multinomial(n, np.full(n, 1 / n), size=_RESAMPLES) / n
    draws = weights @ values
    gaps = draws[:, mean.argmax()][:, None] - draws
    spread = np.maximum(gaps.std(0), 1e-12)
    bound = np.quantile(((gaps - gap) / spread).max(1), 0.95)
    if n < FEW_SETS:
        bound *= stats.t.ppf(0.975, n - 1) / stats.norm.ppf(0.975) * np.sqrt(n / (n - 1))
    return np.asarray(gap <= bound * spread)


def mean_of_many(values: Float[np.ndarray, " row"]) -> SetInterval:
    """The mean of many independent rows (neurons, pairs) of a few values each, with a normal 95 % interval.

    One case of the largest size (1 if all are 0) is added on either side, so that the interval has some width even if
    all are equal.
    """
    scale = float(np.abs(values).max()) or 1.0
    half, mean = scale * _least_half_width(values / scale, 0.95), float(values.mean())
    return SetInterval(mean, mean - half, mean + half, len(values), len(values))


def _least_half_width(values: Float[np.ndarray, " row"], level: float) -> float:
    """Half the width of an interval, with one case of 1 and one of -1 added, as Agresti and Coull do for shares."""
    more = np.append(values, [1.0, -1.0])
    return float(stats.norm.ppf((1 + level) / 2) * np.std(more, ddof=1) / np.sqrt(len(more)))


def against_few(effect: SetInterval, nulls: Float[np.ndarray, " draw"], level: float = 0.95) -> SetInterval:
    """An effect over the mean of a few draws of its null, such as untrained twins, with an interval for both.

    The interval includes the spread of the draws: its Student's t half-width is added in quadrature to the interval's
    own halves. Needs at least two draws.
    """
    quantile = stats.t.ppf((1 + level) / 2, len(nulls) - 1)
    spread = quantile * np.std(nulls, ddof=1) * np.sqrt(1 + 1 / len(nulls))
    below, above = (float(np.hypot(half, spread)) for half in (effect.mean - effect.low, effect.high - effect.mean))
    return effect._replace(low=effect.mean - below, high=effect.mean + above)


def _drawn_weights(
    shares: Float[np.ndarray, " row"], sets: Int[np.ndarray, " row"], of_set: Float[np.ndarray, " set"],
    generator: np.random.Generator, size: int,
) -> Float[np.ndarray, "draw row"]:  # fmt: skip
    """Each row's weight when sets are resampled, and rows within each drawn set."""
    n = len(of_set)
    chosen = generator.multinomial(n, np.full(n, 1 / n), size=size)
    weights = np.empty((size, len(shares)))
    for number in range(n):
        rows = np.flatnonzero(sets == number)
        counts = generator.multinomial(chosen[:, number] * len(rows), np.full(len(rows), 1 / len(rows)))
        weights[:, rows] = counts * shares[rows]
    return np.asarray(weights / weights.sum(1, keepdims=True))


def max_statistic_p(
    observed: Float[np.ndarray, " place"], null: Float[np.ndarray, "draw place"]
) -> Float[np.ndarray, " place"]:
    """p of each place (a layer, a head), corrected for testing all of them.

    It is the share of null draws whose largest value reaches the place's. The observed curve counts as a draw, so p is
    never zero.
    """
    largest = np.max(null, axis=1)
    return np.asarray((1 + (largest[:, None] >= observed).sum(0)) / (1 + len(largest)))
