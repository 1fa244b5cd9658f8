"""The atlas's claims: whether stages begin where untrained models change less, and how stages are related.

A boundary is shown only if its signatures change there by more than those of untrained twins do at the twins' own best
place. If the inner lexicon is on the atlas, it is the evidence of merging, and the words' own control is its null.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from mechicl.claims import Claim, Evidence
from mechicl.metrics.resampling import SetInterval
from mechicl.studies.drawing import where
from mechicl.studies.stages.boundaries import DIRECT, FEW_NEURONS, STAGES, Fit, change, fitted, signatures_of
from mechicl.studies.stages.lesion_claims import middle
from mechicl.studies.twins import TWINS, against_twins, by_layer, given

_SOURCE, _QUANTITY = "Stages of Inference, Table 1; boundaries are ours", "change of its signatures where {} begins"
_UNIT, _LEAST = "times the spread over layers", 0.5
MERGED = Claim(
    "detokenization-ends", "Signatures of detokenization end in early layers.", _SOURCE,
    _QUANTITY.format(STAGES[1]), _UNIT, TWINS, _LEAST,
)  # fmt: skip
ENSEMBLES = Claim(
    "ensembling-begins", "Signatures of prediction ensembling begin after the early layers.", _SOURCE,
    _QUANTITY.format(STAGES[2]), _UNIT, TWINS, _LEAST,
)  # fmt: skip
CALIBRATES = Claim(
    "calibration-begins", "Signatures of calibration begin in the last layers.", _SOURCE,
    _QUANTITY.format(STAGES[3]), _UNIT, TWINS, _LEAST,
)  # fmt: skip
BOUNDARIES = (MERGED, ENSEMBLES, CALIBRATES)
_WHERE = {MERGED.id: (0, 1 / 2), ENSEMBLES.id: (1 / 3, 1), CALIBRATES.id: (2 / 3, 1)}
"""The part of the depth in which a claim places its boundary."""
DENSER = Claim(
    "denser-as-lens-falls", "Prediction neurons are densest where the lens's KL to the final prediction is low.",
    "Stages of Inference, section 5.3, Fig. 8", "Spearman correlation of density and −KL over layers", "correlation",
    "the densities shifted along the layers", 0.3,
)  # fmt: skip
DEEPER = Claim(
    "deeper-robust", "Deeper models are more robust to dropping a middle layer.",
    "Stages of Inference, section 4.1 and abstract",
    "Spearman correlation across models between the number of layers and −KL after dropping a middle layer",
    "correlation", "no correlation", 0.3,
)  # fmt: skip
_OF_TEXT = (
    "local attention", "block influence", "lens KL", "lens entropy", "MLP norm", "prediction neurons",
    "suppression neurons",
)  # fmt: skip
"""Signatures that are measured on untrained twins, too."""
_RESAMPLES = 500
_FEW_LAYERS = 20
"""With fewer layers, one shift in 20 is the original itself."""
_FEW_MODELS = 5


def begins(claim: Claim, table: pd.DataFrame) -> Evidence:
    """Evidence that signatures change at a boundary by more than those of untrained twins.

    A twin's change is that at the model's boundary or at its own best one, whichever is larger.
    """
    rows, boundary = given(table), BOUNDARIES.index(claim)
    found = signatures_of(rows)
    if not found:
        return Evidence.nothing("The table holds no signature of a stage.")
    fit = fitted(found)
    if not fit.by[boundary]:
        return Evidence.nothing("Its signatures have no change in common that outweighs its penalty.")
    if why := _elsewhere(claim, fit, next(iter(found.values())).values.shape[1]):
        return Evidence.nothing(why)
    if boundary == 0 and any(name in found for name in DIRECT):
        of_words = change(found, fit.starts, 0, DIRECT).to_numpy()
        note = "The end of detokenization is read from the inner lexicon; what its control shows is taken off."
        return Evidence(of_words, 0.0, np.arange(len(of_words)), "words", note=note)

    def contrast(rows: pd.DataFrame) -> pd.Series:
        if "weights" not in rows:  # `given` drops the column
            return change(found, fit.starts, boundary, _OF_TEXT)
        twin = signatures_of(rows, {name: one.spread for name, one in found.items()}, least=0)
        places = fit.starts, fitted(twin, penalised=False).starts
        return max((change(twin, starts, boundary, _OF_TEXT) for starts in places), key=pd.Series.mean)

    note = f"{STAGES[boundary + 1].capitalize()} rests on {', '.join(fit.by[boundary])}."
    return against_twins(contrast, table, note=note)


def _elsewhere(claim: Claim, fit: Fit, n_layers: int) -> str:
    """Why signatures do not change where the claim says; empty if they do."""
    boundary = BOUNDARIES.index(claim)
    start, (low, high) = fit.starts[boundary], _WHERE[claim.id]
    if low * n_layers <= start <= high * n_layers:
        return ""
    return (
        f"Signatures change in layer {start} of {n_layers}; the claim is about layers {math.ceil(low * n_layers)} to "
        f"{min(n_layers - 1, math.floor(high * n_layers))}."
    )


def denser(table: pd.DataFrame) -> Evidence:
    """Evidence that prediction neurons are dense where the lens's KL is small."""
    rows = given(table)
    neurons = where(rows, signature="prediction neurons").sort_values("layer")["value"].to_numpy(float)
    lens = where(rows, signature="lens KL")
    if lens.empty or neurons.sum() * where(rows, signature="prediction neurons")["weight"].max() < FEW_NEURONS:
        return Evidence.nothing(f"The model has fewer than {FEW_NEURONS} prediction neurons.")
    if len(neurons) < _FEW_LAYERS:
        return Evidence.nothing(
            f"The model has too few layers, {len(neurons)}, to tell a common trend from a coincidence."
        )
    kl = -by_layer(lens, "value").loc[:, 1:]  # point i + 1 is the residual after layer i
    return _correlated(neurons, kl)


def _correlated(density: np.ndarray, kl: pd.DataFrame) -> Evidence:
    """Rank correlation of one curve over layers with the mean of the sequences' curves.

    Neighbouring layers are alike, so permuted layers would be too easy a null; we use all cyclic shifts along the
    layers. The interval resamples documents.
    """
    from scipy.stats import rankdata

    def correlation(curves: np.ndarray, of: np.ndarray) -> np.ndarray:
        ranks = rankdata(curves, axis=-1), rankdata(of, axis=-1)
        first, second = (rank - rank.mean(-1, keepdims=True) for rank in ranks)
        norms = np.sqrt((first**2).sum(-1) * (second**2).sum(-1))
        return np.asarray((first * second).sum(-1) / np.maximum(norms, 1e-12))

    means = kl.groupby(level=0).mean().to_numpy()
    n, found = len(means), float(correlation(means.mean(0), density))
    low = high = np.nan
    if n > 1:
        drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=_RESAMPLES) / n
        low, high = np.quantile(correlation(drawn @ means, density), [0.025, 0.975])
    shifted = correlation(means.mean(0), np.stack([np.roll(density, shift) for shift in range(len(density))]))
    interval = SetInterval(found, float(low), float(high), n, len(kl))
    p = float((shifted >= found - 1e-12).mean())
    steps = float(correlation(np.diff(means.mean(0)), np.diff(density)))
    note = (
        "The interval is over documents, p over all shifts along the layers. Any two curves that rise with depth are "
        f"correlated; the correlation of their steps from layer to layer is {steps:+.2f}."
    )
    return Evidence(
        np.array([found]), 0.0, np.zeros(1), "documents", interval=interval, p=p,
        p_over="over all shifts along the layers", p_needs="use a deeper model, which has more of them", note=note,
    )  # fmt: skip


def deeper(table: pd.DataFrame) -> Evidence:
    """The sample is the models: their rank correlation with Fisher's interval, and p over all orders of the models."""
    from scipy.stats import permutation_test, rankdata

    drops = where(given(table), signature="drop KL")
    n_layers = drops.groupby("model")["layer"].max() + 1
    if len(n_layers) < _FEW_MODELS:
        return Evidence.nothing(f"This claim compares models; run {_FEW_MODELS} or more models of different depths.")
    if n_layers.nunique() < 2:
        return Evidence.nothing("All models have the same number of layers; give models of different depths.")
    of_middle = [rows[rows["layer"].isin(middle(int(n_layers[model])))] for model, rows in drops.groupby("model")]
    kl = np.array([np.average(rows["value"], weights=rows["weight"]) for rows in of_middle])
    found = float(pd.Series(n_layers.to_numpy()).corr(pd.Series(-kl), method="spearman"))
    half = 1.96 / np.sqrt(len(kl) - 3)
    low, high = np.tanh(np.arctanh(np.clip(found, -0.999, 0.999)) + np.array([-half, half]))
    interval = SetInterval(found, float(low), float(high), len(kl), len(kl))
    ranks, depth = rankdata(-kl), rankdata(n_layers.to_numpy())
    p = permutation_test(
        (ranks,),
        lambda one: float((one - one.mean()) @ depth),
        permutation_type="pairings",
        n_resamples=9999,
        random_state=0,
    ).pvalue  # Fisher's interval is too narrow for so few
    over = "over all orders of the models"
    return Evidence(np.array([found]), 0.0, np.zeros(1), "models", interval=interval, p=float(p), p_over=over)
