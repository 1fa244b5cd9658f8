"""Blocks in a matrix of similarities between layers: where they are, and whether there are any.

Neighbouring layers are alike because each adds little to the residual, so a matrix without any blocks, in which
similarity only falls with distance, also looks blocky. Blocks are therefore compared with those of the same matrix with
every entry replaced by the mean at its distance.
"""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mechicl.studies.stages.ensembles import FloatArray

IntArray = npt.NDArray[np.int64]


class Blocks(NamedTuple):
    """Consecutive layers in blocks: alike within a block, different between blocks."""

    starts: tuple[int, ...]
    """First layer of every block."""
    explained: float
    """Share of the variance off the diagonal explained by which block or pair of blocks an entry is in."""


def best_blocks(similarity: FloatArray, n_blocks: int) -> Blocks:
    """The division into `n_blocks` that explains most of a symmetric matrix [layer layer]."""
    starts = divisions(len(similarity), n_blocks)
    explained = explained_by_blocks(similarity[None], starts)[:, 0]
    best = int(explained.argmax())
    return Blocks(tuple(starts[best, :-1].tolist()), float(explained[best]))


def divisions(n_layers: int, n_blocks: int) -> IntArray:
    """Every way to divide layers into consecutive blocks: first layers and, last, the end [division block + 1]."""
    inner = list(combinations(range(1, n_layers), n_blocks - 1))
    return np.array([(0, *cuts, n_layers) for cuts in inner], dtype=np.int64)


def explained_by_blocks(similarity: FloatArray, starts: IntArray) -> FloatArray:
    """Explained share of the variance off the diagonal, [division matrix], of matrices [matrix layer layer]."""
    n = similarity.shape[-1]
    off = similarity * (1 - np.eye(n))
    sums = np.pad(off.cumsum(1).cumsum(2), ((0, 0), (1, 0), (1, 0)))  # sums[:, a, b]: of the first a rows, b columns
    pairs = n * (n - 1)
    total = off.sum((1, 2))
    variance = (off**2).sum((1, 2)) - total**2 / pairs
    first, stop = starts[:, :-1].T, starts[:, 1:].T  # [block division]
    inside = np.zeros((len(starts), len(similarity)))
    n_inside = np.zeros(len(starts))
    for a, b in zip(first, stop, strict=True):
        inside += (sums[:, b, b] - 2 * sums[:, a, b] + sums[:, a, a]).T
        n_inside += (b - a) * (b - a - 1)
    n_between = pairs - n_inside
    with np.errstate(invalid="ignore", divide="ignore"):
        gap = inside / n_inside[:, None] - (total - inside) / n_between[:, None]
        explained = gap**2 * (n_inside * n_between / pairs)[:, None] / variance
    return np.asarray(np.nan_to_num(explained), dtype=np.float64)


def by_distance(similarity: FloatArray) -> FloatArray:
    """Matrices [matrix layer layer] with each entry replaced by the mean at its distance from the diagonal."""
    n = similarity.shape[-1]
    distance = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    smooth = np.empty_like(similarity)
    for d in range(n):
        smooth[:, distance == d] = similarity[:, distance == d].mean(1, keepdims=True)
    return smooth
