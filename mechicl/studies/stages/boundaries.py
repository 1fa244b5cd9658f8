"""Where one stage ends and the next begins: a proposal of ours; the paper draws no boundaries and says that they blur.

- *Detokenization* ends after the last layer whose attention to the previous five tokens is above the half-way between
  the median and the largest over layers.
- *Prediction ensembling* begins where the density of prediction neurons rises to its largest: the first layer from
  which on it stays above a tenth of that. In a model with hardly any such neurons, where the lens's KL to the final
  prediction is first below half of what it was when detokenization ended.
- *Calibration* begins in the first layer from which on, to the last, there are more suppression than prediction
  neurons; in a model with hardly any, in the first layer from ensembling on whose MLP norm is above the half-way
  between median and largest.

The three are determined independently. Where a stage would begin before the previous one has, these measures cannot
separate the two, and `overlaps` says so; nothing is moved to make an order. Intervals come from resampling sequences;
what weights alone decide has none.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from mechicl.studies.stages.ensembles import BoolArray, FloatArray

STAGES = ("detokenization", "feature engineering", "prediction ensembling", "calibration")
FEW_NEURONS = 10
"""Fewer in a model say nothing about its stages."""
_RESAMPLES = 500


def stage_boundaries(table: pd.DataFrame) -> pd.DataFrame:
    """The first layer of each stage after the first, of one model's atlas: stage, layer, low, high, by, overlaps.

    A boundary of L (the number of layers) means that there is no such stage. `overlaps` names the previous stage that
    had not ended (or not begun) there, or is empty.
    """
    curves = {name: _by_sequence(table, name) for name in ("local attention", "lens KL", "MLP norm")}
    weights = table[table["signature"] == "lens KL"].groupby("sequence")["weight"].first().to_numpy(float)
    neurons = table[table["signature"].isin(["prediction neurons", "suppression neurons"])]
    counts = {
        str(name): rows.sort_values("layer")["value"].to_numpy(float) for name, rows in neurons.groupby("signature")
    }
    n_neurons = float(neurons["weight"].max()) if len(neurons) else 0.0
    generator = np.random.default_rng(0)
    boundaries = _boundaries({name: _mean(rows, weights) for name, rows in curves.items()}, counts, n_neurons)
    draws = []
    for _ in range(_RESAMPLES):
        drawn = generator.multinomial(len(weights), np.full(len(weights), 1 / len(weights)))
        resampled = weights * drawn.astype(np.float64)
        means = {name: _mean(rows, resampled) for name, rows in curves.items()}
        draws.append([layer for layer, _ in _boundaries(means, counts, n_neurons)])
    low, high = np.quantile(np.array(draws), [0.025, 0.975], axis=0)
    layers = [layer for layer, _ in boundaries]
    return pd.DataFrame(
        {"stage": STAGES[1:], "layer": layers, "low": low, "high": high, "by": [by for _, by in boundaries],
         "overlaps": _overlaps(layers, curves["MLP norm"].shape[1])}
    )  # fmt: skip


def _overlaps(layers: list[int], n_layers: int) -> list[str]:
    """For each stage after the first, the stage in front that reaches beyond its first layer."""
    engineering, ensembling, calibration = layers
    before_ensembling = STAGES[0] if ensembling < engineering else STAGES[1] if ensembling == engineering else ""
    if ensembling >= n_layers:
        return ["", "", STAGES[0] if calibration < engineering else ""]
    return ["", before_ensembling, STAGES[2] if calibration <= ensembling else ""]


def _by_sequence(table: pd.DataFrame, signature: str) -> FloatArray:
    rows = table[table["signature"] == signature]
    return rows.pivot(index="sequence", columns="layer", values="value").to_numpy(float)


def _mean(rows: FloatArray, weights: FloatArray) -> FloatArray:
    return np.asarray(weights @ rows / weights.sum(), dtype=np.float64)


def _boundaries(
    means: dict[str, FloatArray], neurons: dict[str, FloatArray], n_neurons: float
) -> list[tuple[int, str]]:
    local, lens, norm = means["local attention"], means["lens KL"], means["MLP norm"]
    engineering = int(np.flatnonzero(local > _half_way(local))[-1]) + 1
    prediction, suppression = (neurons.get(f"{kind} neurons", np.zeros(0)) for kind in ("prediction", "suppression"))
    if prediction.sum() * n_neurons >= FEW_NEURONS:
        peak = int(prediction.argmax())
        ensembling = _since(prediction[: peak + 1] > prediction.max() / 10), "prediction neurons"
    else:
        ensembling = _first(lens < lens[engineering] / 2), "lens KL"
    if (prediction + suppression).sum() * n_neurons >= FEW_NEURONS:
        calibration = _since(suppression > prediction), "suppression neurons"
    else:
        late = np.arange(len(norm)) >= min(ensembling[0], len(norm) - 1)
        calibration = _first(late & (norm > _half_way(norm))), "MLP norm"
    return [(engineering, "local attention"), ensembling, calibration]


def _half_way(curve: FloatArray) -> float:
    return float(np.median(curve) + curve.max()) / 2 - 1e-12


def _first(condition: BoolArray) -> int:
    """The first layer where it holds, or their number."""
    return int(condition.argmax()) if condition.any() else len(condition)


def _since(condition: BoolArray) -> int:
    """The layer from which on it holds until the end; their number if it does not hold at the end."""
    fails = np.flatnonzero(~condition)
    return int(fails[-1]) + 1 if len(fails) else 0
