"""Where one stage ends and the next begins: change points that several signatures share.

The paper draws no boundaries and says that stages blur; this is our own proposal. Every signature is expressed per
layer (the reduction of the lens's KL, the logarithm of the MLP's norm), and should change where a stage begins:
`SIGNATURES` says which, where, and in which direction. Three ordered boundaries are placed where signatures that are
piecewise constant explain most: the criterion is the profile likelihood of a piecewise constant mean, with one variance
per signature, penalised as in BIC (half log L for each additional level, 2 log L for each boundary, whose place and
signatures are chosen). So a signature that changes in another direction, or at another place, has no influence, and
there is no boundary where none changes. No term grows with a signature's scale, and none counts more than a change that
explains 98 % of it. In noise, each boundary is found in 1 to 3 % of models of 16 layers, 7 to 14 % of 8, 15 to 29 % of
6. Untrained models' curves are smooth, not noise, so the claims test whether they change, too.

The optimum is exact: all orders of three boundaries are compared. (Change-point libraries, such as ruptures, let all
signatures change at all boundaries, in either direction.)

Intervals resample documents (words, pairs), and signatures within the same stage, so signatures from weights alone, or
single signatures, have an interval, too. Intervals are over the resamples that have the boundary; `kept` is their
share. Two boundaries are not separable if 5 % of the resamples or more leave no layer between them.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from mechicl.studies.parts import DOCUMENT
from mechicl.studies.stages.ensembles import FloatArray

STAGES = ("detokenization", "feature engineering", "prediction ensembling", "calibration")
"""Boundary 0 is where the second stage begins, and so on."""
FEW_NEURONS = 10
"""With fewer neurons, a kind says nothing about a model's stages."""
SIGNATURES: Mapping[str, tuple[str, Mapping[int, int]]] = {
    "local attention": (STAGES[0], {0: -1}),
    "words retrieved": (STAGES[0], {0: -1}),
    "words lost by a cut": (STAGES[0], {0: -1}),
    "block influence": (STAGES[1], {0: -1, 1: 1}),
    "word sense": (STAGES[1], {0: 1, 1: -1}),
    "lens KL": (STAGES[2], {0: -1, 1: 1, 2: 0}),
    "prediction neurons": (STAGES[2], {1: 1, 2: 0}),
    "votes": (STAGES[2], {1: 1, 2: 0}),
    "suppression neurons": (STAGES[3], {2: 1}),
    "MLP norm": (STAGES[3], {2: 1}),
    "lens entropy": (STAGES[3], {2: 1}),
}
"""Each signature's stage, and the boundaries where it changes: up (1), down (-1) or either way, if at all (0)."""
DIRECT = ("words retrieved", "words lost by a cut")
"""Direct evidence of the first stage; if present, no other signature influences where that stage ends."""
OF_WEIGHTS = ("prediction neurons", "suppression neurons")
_MOST_EXPLAINED = 0.98
_RESAMPLES = 200
_INSEPARABLE = 0.05
IntArray = npt.NDArray[np.int64]


class Signature(NamedTuple):
    """One of a model's signatures, per layer and sequence (word, pair)."""

    values: FloatArray
    """[unit layer]"""
    weights: FloatArray
    rows_of: pd.MultiIndex
    """Document (word, pair) of each row, which is resampled, and its sequence."""
    middle: float
    spread: float
    """Spread over its layers, in the unit of `values`."""

    def compressed(self, values: FloatArray) -> FloatArray:
        """Values on a scale that is linear within the spread of its layers, and logarithmic outside."""
        return np.asarray(np.arcsinh((values - self.middle) / self.spread), dtype=np.float64)

    def curve(self, counts: FloatArray | None = None) -> FloatArray:
        """Its mean [layer] on that scale, with each row counted as often as it was drawn."""
        weights = self.weights if counts is None else self.weights * counts
        return self.compressed(weights @ self.values / weights.sum())

    def rows(self) -> FloatArray:
        """Each row [unit layer] on that scale, to first order around the mean, so that the rows' mean is the curve."""
        mean = self.weights @ self.values / self.weights.sum()
        slope = 1 / np.hypot(self.spread, mean - self.middle)
        return np.asarray(self.curve() + slope * (self.values - mean), dtype=np.float64)


class Fit(NamedTuple):
    """The first layers of the three later stages, in order, and which signatures change there."""

    starts: tuple[int, int, int]
    by: tuple[tuple[str, ...], ...]


def signatures_of(
    rows: pd.DataFrame, spreads: Mapping[str, float] | None = None, least: int = FEW_NEURONS
) -> dict[str, Signature]:
    """The signatures of one model in an atlas's table, per layer.

    They are scaled (by `spreads` if given) so that no layer outweighs all others: layer 0 rotates most of the
    embedding's residual, and removes 90 nats from a lens that is sure of the current token. Kinds with fewer than
    `least` neurons are left out.
    """
    found = {}
    known = SIGNATURES if spreads is None else spreads
    for name, of_name in rows[rows["signature"].isin(known)].groupby("signature", sort=False):
        table = of_name.pivot(index="sequence", columns="layer", values="value")
        values, first = table.to_numpy(float), of_name.drop_duplicates("sequence").set_index("sequence")
        weights = first["weight"].reindex(table.index).to_numpy(float)
        if name in OF_WEIGHTS and (values * weights[:, None]).sum() < least:
            continue
        documents = first[DOCUMENT].fillna(first.index.to_series()) if DOCUMENT in first else first.index.to_series()
        index = pd.MultiIndex.from_arrays([documents.reindex(table.index), table.index], names=[DOCUMENT, "sequence"])
        values = _by_layer(str(name), values)
        middle, spread = spread_of(weights @ values / weights.sum())
        found[str(name)] = Signature(values, weights, index, middle, spread if spreads is None else spreads[str(name)])
    return found


def spread_of(curve: FloatArray) -> tuple[float, float]:
    """The median of a curve, and the spread of its layers: their median distance from it, scaled to a Gaussian's
    standard deviation; if most layers are equal, the standard deviation.
    """
    middle = float(np.median(curve))
    return middle, 1.4826 * float(np.median(np.abs(curve - middle))) or float(curve.std()) or 1.0


def _by_layer(name: str, values: FloatArray) -> FloatArray:
    """Convert values at layers, or at points of the lens, to each layer's contribution: [unit layer]."""
    if name == "lens KL":
        return -np.diff(values)
    if name == "lens entropy":  # absolute change: it falls in some models and rises in others
        change = np.diff(values)
        return np.asarray(change * np.sign(change.mean(0)), dtype=np.float64)
    if name == "words retrieved":  # losses after the best layer do not concern words
        return np.where(np.arange(values.shape[1]) <= values.mean(0).cumsum().argmax(), values, 0.0)
    if name == "MLP norm":
        return np.asarray(np.log2(np.maximum(values, 1e-12)), dtype=np.float64)
    return np.asarray(np.sqrt(values) if name in OF_WEIGHTS else values, dtype=np.float64)


def common_changes(
    curves: Mapping[str, FloatArray], counts: Mapping[str, int] | None = None, *, penalised: bool = True
) -> Fit:
    """The best three boundaries of curves [layer], each counted once, or with the given weights.

    Without a penalty, every boundary is at its best place, however little that explains.
    """
    n = len(next(iter(curves.values())))
    orders = _orders(n)
    inside = (orders > 0) & (orders < n)
    distinct = inside[:, 0].astype(int) + sum(inside[:, k] & (orders[:, k] > orders[:, k - 1]) for k in (1, 2))
    price = 2 * np.log(n) if penalised else 1e-9
    found: dict[str, tuple[list[set[int]], FloatArray]] = {}
    score = -price * distinct
    for name in curves if counts is None else [name for name in curves if counts[name]]:
        signs = _signs(name, curves)
        sets, gains = _gains(curves[name], signs, orders, penalised)
        gains *= 1 if counts is None else counts[name]
        found[name] = [{boundary for boundary in one if signs[boundary]} for one in sets], gains
        score = score + gains.max(0)
    best = int(score.argmax())
    starts = (int(orders[best, 0]), int(orders[best, 1]), int(orders[best, 2]))
    there = {name: (sets, gains[:, best]) for name, (sets, gains) in found.items()}
    return Fit(starts, tuple(_paid_for(boundary, there, price) for boundary in range(3)))


def _paid_for(boundary: int, found: Mapping[str, tuple[list[set[int]], FloatArray]], price: float) -> tuple[str, ...]:
    """The signatures that change at a boundary; none if they do not outweigh its penalty, even at a shared place."""
    by, worth = [], 0.0
    for name, (sets, gains) in found.items():
        without = max(gain for one, gain in zip(sets, gains, strict=True) if boundary not in one)
        if gains.max() > without:
            by.append(name)
            worth += gains.max() - without
    return tuple(by) if worth > price else ()


def _signs(name: str, beside: Container[str]) -> Mapping[int, int]:
    """The boundaries where a signature changes; with direct evidence, no other decides where the first stage ends."""
    signs = SIGNATURES[name][1]
    if name in DIRECT or not any(one in beside for one in DIRECT):
        return signs
    return {boundary: sign for boundary, sign in signs.items() if boundary}


@lru_cache(maxsize=8)
def _orders(n_layers: int) -> IntArray:
    """All choices of first layers of the three later stages, [order 3]; 0 and L mean that there is no boundary."""
    places = np.arange(n_layers + 1)
    grid = np.stack(np.meshgrid(places, places, places, indexing="ij"), -1).reshape(-1, 3)
    return np.asarray(grid[(np.diff(grid) >= 0).all(1)])


def _gains(
    curve: FloatArray, signs: Mapping[int, int], orders: IntArray, penalised: bool
) -> tuple[list[tuple[int, ...]], FloatArray]:
    """Sets of boundaries at which a curve may change, and the gain in explaining it for each order.

    [set order]: the gain in log likelihood over no change, minus the penalty for its levels; -inf if it would change in
    the wrong direction.
    """
    n, curve = len(curve), curve - curve.mean()
    total = max(float(curve @ curve), 1e-300)
    sums = np.concatenate([[0.0], curve.cumsum()])
    sets: list[tuple[int, ...]] = [()]
    gains = [np.zeros(len(orders))]
    for size in range(1, len(signs) + 1):
        places = _places(n, size)
        sizes = np.diff(places, axis=0)
        levels = np.diff(sums[places], axis=0) / np.maximum(sizes, 1)
        explained = np.minimum((sizes * levels**2).sum(0) / total, _MOST_EXPLAINED)
        gain = -n / 2 * np.log(1 - explained) - (size * np.log(n) / 2 if penalised else 0)
        rises, right = np.diff(levels, axis=0), (sizes > 0).all(0)
        for chosen in combinations(signs, size):
            if any(signs[boundary] for boundary in chosen):
                wanted = np.array([signs[boundary] for boundary in chosen])[:, None]
                allowed = np.where(right & (wanted * rises >= 0).all(0), gain, -np.inf)
                gains.append(allowed[orders[:, chosen] @ (n + 1) ** np.arange(size)[::-1]])
                sets.append(chosen)
    return sets, np.stack(gains)


@lru_cache(maxsize=24)
def _places(n_layers: int, size: int) -> IntArray:
    """All places of `size` boundaries between 0 and L, with both ends: [size + 2, (L + 1) ** size]."""
    grid = np.indices((n_layers + 1,) * size).reshape(size, -1)
    ends = np.zeros((1, grid.shape[1]), int)
    return np.maximum.accumulate(np.concatenate([ends, grid, ends + n_layers]))


def stage_boundaries(rows: pd.DataFrame) -> pd.DataFrame:
    """The first layer of each stage after the first, of one model's atlas: stage, layer, low, high, kept, by, overlaps.

    `layer`, `low` and `high` are NaN if there is no boundary; `kept` is the share of the resamples that have it, and
    `overlaps` names the previous stage if the two cannot be separated. The atlas's claims say whether untrained twins
    have such boundaries, too.
    """
    found = signatures_of(rows)
    best = fitted(found)
    draws = _resampled(found)
    table = []
    for k, stage in enumerate(STAGES[1:]):
        there = draws[~np.isnan(draws[:, k]), k]
        both = draws[~np.isnan(draws[:, [k - 1, k]]).any(1)] if k else draws[:0]
        joined = k > 0 and best.by[k - 1] and len(both) > 0
        apart = not joined or (both[:, k] == both[:, k - 1]).mean() < _INSEPARABLE
        low, high = np.quantile(there, [0.025, 0.975]) if best.by[k] and len(there) else (np.nan, np.nan)
        table.append({
            "stage": stage, "layer": float(best.starts[k]) if best.by[k] else np.nan, "low": low, "high": high,
            "kept": len(there) / len(draws), "by": ", ".join(best.by[k]),
            "overlaps": "" if apart or not best.by[k] else STAGES[k],
        })  # fmt: skip
    return pd.DataFrame(table)


def _resampled(found: Mapping[str, Signature]) -> FloatArray:
    """Boundaries of resampled documents and signatures, [draw 3]; NaN if there is none."""
    generator = np.random.default_rng(0)
    stages = [[name for name in found if SIGNATURES[name][0] == stage and _signs(name, found)] for stage in STAGES]
    samples: list[tuple[pd.MultiIndex, IntArray]] = []
    sample_of = {}
    for name, one in found.items():  # signatures of the same documents share their draws
        known = [i for i, (index, _) in enumerate(samples) if index.equals(one.rows_of)]
        sample_of[name] = known[0] if known else len(samples)
        if not known:
            samples.append((one.rows_of, pd.factorize(one.rows_of.get_level_values(DOCUMENT))[0]))
    draws = np.full((_RESAMPLES, 3), np.nan)
    for draw in draws:
        counts = dict.fromkeys(found, 0)
        for names in filter(None, stages):
            counts |= dict(zip(names, _drawn(len(names), generator).tolist(), strict=True))
        times = [_drawn(int(units.max()) + 1, generator)[units].astype(float) for _, units in samples]
        curves = {name: one.curve(times[sample_of[name]]) for name, one in found.items()}
        fit = common_changes(curves, counts)
        draw[:] = [start if by else np.nan for start, by in zip(fit.starts, fit.by, strict=True)]
    return draws


def _drawn(n: int, generator: np.random.Generator) -> IntArray:
    """How often each of n is drawn in n draws."""
    return generator.multinomial(n, np.full(n, 1 / n))


def fitted(found: Mapping[str, Signature], *, penalised: bool = True) -> Fit:
    """The boundaries of a model's signatures."""
    return common_changes({name: one.curve() for name, one in found.items()}, penalised=penalised)


def change(found: Mapping[str, Signature], starts: tuple[int, ...], boundary: int, names: Container[str]) -> pd.Series:
    """Change of some signatures at a boundary, in the expected direction.

    Mean over signatures, per document and sequence, in spreads over layers: layers from the boundary to the next one,
    less layers back to the previous one.
    """
    n_layers, start = next(iter(found.values())).values.shape[1], starts[boundary]
    before = max((one for one in (0, *starts[:boundary]) if one < start), default=0)
    after = min((one for one in (*starts[boundary + 1 :], n_layers) if one > start), default=n_layers)
    steps = []
    for name, one in found.items():
        sign = SIGNATURES[name][1].get(boundary, 0)
        if sign and name in names:
            values = one.rows()
            inside = before < start < after
            step = values[:, start:after].mean(1) - values[:, before:start].mean(1) if inside else 0.0
            steps.append(pd.Series(sign * step, one.rows_of))
    rows = max((step.index for step in steps), key=len, default=pd.MultiIndex.from_arrays([[], []]))
    total = pd.Series(0.0, rows)
    for step in steps:
        total += step if step.index.equals(rows) else step.mean()  # weights have a single row
    return total / max(len(steps), 1)
