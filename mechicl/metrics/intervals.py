"""Bootstrap intervals of a mean: over prompts, or over sequences weighted by their tokens."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped
from torch import Tensor

from mechicl.errors import InputError

_BLOCK = 1 << 23
"""Entries of the resampling matrix held at a time (float64: 64 MiB)."""


class Interval(NamedTuple):
    """A mean and its percentile bootstrap interval; arrays where the values have further axes."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n: int
    """Units resampled: prompts or sequences."""
    level: float


def bootstrap_mean(
    values: Shaped[Tensor, "sample *rest"] | Shaped[np.ndarray, "sample *rest"],
    *,
    generator: np.random.Generator,
    weights: Shaped[Tensor, "sample"] | Shaped[np.ndarray, "sample"] | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    name: str = "values",
) -> Interval:
    """Mean over the first axis with a percentile interval, resampling whole samples with replacement.

    `weights` makes it a ratio of sums, sum w x / sum w, as for sequences' means weighted by their tokens (tokens of one
    sequence are correlated: never resample tokens). All further axes (layers) share the draws. With a single unit the
    bounds are NaN, because the spread is unknown. With few units a percentile interval is too narrow: `mean_over_sets`
    gives one that is not, also for prompts of several sets.

    Raises InputError for no samples, NaN or infinite values (`name` is for the message), or nonpositive weights.
    """
    x = _float64(values)
    w = np.ones(len(x)) if weights is None else _float64(weights)
    _check(x, w, level, resamples, name)
    denominator = w
    numerator = x.reshape(len(x), -1) * w[:, None]
    n, rest = len(numerator), x.shape[1:]
    mean = (numerator.sum(0) / denominator.sum()).reshape(rest)
    if n == 1:
        return Interval(mean, np.full(rest, np.nan), np.full(rest, np.nan), n, level)
    means = []
    for start in range(0, resamples, step := max(1, _BLOCK // n)):
        counts = generator.multinomial(n, np.full(n, 1 / n), size=min(step, resamples - start)).astype(np.float64)
        means.append((counts @ numerator) / (counts @ denominator)[:, None])
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail], axis=0)
    return Interval(mean, low.reshape(rest), high.reshape(rest), n, level)


def _float64(values: Tensor | np.ndarray) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu().double().numpy()
    return np.asarray(values, dtype=np.float64)


def _check(x: np.ndarray, w: np.ndarray, level: float, resamples: int, name: str) -> None:
    if not len(x):
        raise InputError(f"There are no {name} to average; a mean needs at least one sample.")
    if w.shape != (len(x),) or not (np.isfinite(w).all() and (w > 0).all()):
        raise InputError(f"Weights of {name} must be one positive number per sample ({len(x)} samples).")
    bad = ~np.isfinite(x.reshape(len(x), -1)).all(1)
    if bad.any():
        raise InputError(
            f"The values of {name} hold NaN or infinite values in {bad.sum()} of {len(x)} samples "
            f"(first: sample {bad.argmax()}); leave those samples out and report how many."
        )
    if not 0 < level < 1 or resamples < 1:
        raise InputError(
            f"level is {level} and resamples {resamples}; use a level between 0 and 1 and at least one resample."
        )
