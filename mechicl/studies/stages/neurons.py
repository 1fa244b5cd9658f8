"""Prediction and suppression neurons (section 5.3, Fig. 8 and 17): the layers in which single neurons write tokens.

From weights alone, we compute for every neuron the moments of cos(w_out, W_U) over the vocabulary. A heavy right tail
(kurtosis > 10) makes a prediction neuron, which promotes a few tokens; a heavy left tail makes a suppression neuron.
The paper counts them by layer: prediction neurons appear in the middle and are densest at about 85 % of depth, and
suppression neurons take over at the end. Partition neurons (variance > 0.005) split the vocabulary into two large
groups; the threshold suits wide models: cosines of random directions have variance 1 / d_model, which exceeds it if
d_model is below 200. Entropy neurons (Gurnee et al. 2024) write vectors of large norm that favour no token, late in the
model: their weights (|w_in|^2 + |w_out|^2) are larger than those of nine in ten of the last two layers' neurons, with
variance at most 0.001 and no heavy tail; rho, the share of w_out where the unembedding hardly reads, is in the table.

The counts assume a folded final norm and centred W_U and W_out (`processing="fold"`), as the authors do. Both protocols
are the same: the authors' code is correct, only slow. With gated MLPs or GELU a neuron may be active with either sign.
If W_U is not centred (`processing="fold-uncentred"`), the tokens' common direction makes its own tails, so counts with
W_U centred are also given.

A heavy tail may come from W_U alone, whatever a neuron writes. So the claims are tested against W_U under a random
rotation, which preserves all angles between tokens but not those between neurons and tokens. After rotation neurons of
all layers are alike: a difference between layers is 0, and a density is that of 256 neurons of every layer, whose error
is part of the interval.

The threshold of 10 is the authors' choice for all models. Densities and verdicts are also given at others, from 5 (a
Gaussian has 3) to 40.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch

from mechicl.claims import Claim, Evidence, decide
from mechicl.declared import Switch
from mechicl.figures import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, SKY, VERMILION
from mechicl.metrics.resampling import mean_of_many
from mechicl.mlp_neurons import randomly_rotated, vocabulary_moments
from mechicl.mlp_neurons.kinds import null_space, share_in
from mechicl.models import Blockwise, blockwise
from mechicl.results import Result
from mechicl.studies.drawing import Curve, Drawing, Panel, where
from mechicl.studies.study import Condition, Study

_SOURCE, _NULL = "Stages of Inference, section 5.3, Fig. 8 and 17", "the same with W_U rotated at random"
LATE = Claim(
    "prediction-late", "Prediction neurons are denser in the second half of the layers than in the first.", _SOURCE,
    "difference of densities", "of neurons", _NULL, 0.001, "densest at about 85 % of depth",
)  # fmt: skip
OVERTAKES = Claim(
    "suppression-overtakes", "In the last layers suppression neurons outnumber prediction neurons.", _SOURCE,
    "density of suppression minus that of prediction neurons in the last tenth of the layers", "of neurons", _NULL,
    0.001,
)  # fmt: skip
_GIVEN, _CENTRED, _ROTATED = "as given", "centred", "rotated"
_ROTATED_NEURONS = 256
_THRESHOLDS = {5: SKY, 10: INK, 20: ORANGE, 40: GREY}
"""Thresholds of kurtosis, each with its colour."""
_CENTRED_TO = 1e-3
"""W_U counts as centred if its mean column's norm is less than this share of the mean column norm."""
_KINDS = ("prediction", "suppression", "partition", "entropy")
LAST_LAYERS = 2
MOST_VARIANCE = 1e-3
"""Largest variance of an entropy neuron's cosines with the vocabulary; random directions have 1 / d_model."""


@dataclass(frozen=True)
class NeuronsStudy(Study):
    """Vocabulary moments of neurons, and the density of each kind by layer: a row per neuron.

    Moments of its cosines with the vocabulary, the L2 norms of what it writes and reads, and rho.
    """

    kurtosis: Annotated[float, Switch("Minimum kurtosis of a prediction or suppression neuron (a Gaussian has 3).")] = (
        10.0
    )
    variance: Annotated[float, Switch("Minimum variance of a partition neuron.")] = 0.005

    name = "neurons"
    title = "Prediction and suppression neurons"
    shows = "Prediction, suppression and partition neurons by layer, from weights alone."
    source = "Stages of Inference, section 5.3, Fig. 8 and 17"
    claim = (
        "Prediction neurons appear in the middle of a model and are densest at about 85 % of its depth; suppression "
        "neurons take over in the last layers."
    )
    claims = (LATE, OVERTAKES)
    reads = "weights"
    batch_size = None
    shared_options = {"processing": "fold"}
    not_measured = ("kurtosis", "variance")
    may_lack = ("skewness", "kurtosis")  # undefined for neurons that write nothing

    def conditions(self, model: Any) -> list[Condition]:
        W_U = blockwise(model, self.name).W_U.detach().float()
        centred = float(W_U.mean(1).norm() / W_U.norm(dim=0).mean().clamp(min=1e-30)) < _CENTRED_TO
        return [{"unembedding": which} for which in (_GIVEN, *(() if centred else (_CENTRED,)), _ROTATED)]

    def measure(self, model: Any, prompts: None, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        net, which = blockwise(model, self.name), condition["unembedding"]
        if which == _GIVEN:
            return neuron_table(net, range(net.sizes.n_layers))
        W_U = net.W_U.float()
        W_out = (net.W_out(layer).float() for layer in range(net.sizes.n_layers))
        if which == _CENTRED:
            return vocabulary_moments(W_U - W_U.mean(1, keepdim=True), W_out, top=1).frame()
        return vocabulary_moments(W_U, randomly_rotated(W_out, len(W_U), most=_ROTATED_NEURONS, seed=0), top=1).frame()

    def evidence(self, claim: Claim, table: pd.DataFrame) -> Evidence:
        if int(table["layer"].max()) < 1 or "unembedding" not in table:
            return Evidence.nothing("This claim needs two layers, and W_U rotated.")
        found = _evidence(claim, table, self.kurtosis)
        effect = decide(claim, found).effect
        holds: dict[bool, list[int]] = {True: [], False: []}
        for threshold in _THRESHOLDS:
            holds[effect * decide(claim, _evidence(claim, table, threshold)).effect > 0].append(threshold)
        kept = f"The {claim.quantity} keeps its sign at {_named(holds[True], holds[False])}."
        notes = [kept] if np.isfinite(effect) and effect else []
        if len(centred := where(table, unembedding=_CENTRED)):
            of_centred, as_given = (
                _contrast(claim, rows, self.kurtosis).mean() for rows in (centred, where(table, unembedding=_GIVEN))
            )
            notes.append(f"With W_U centred it is {of_centred:+.3g}, without {as_given:+.3g}.")
        return replace(found, note=" ".join(notes))

    def tables(self, result: Result) -> dict[str, pd.DataFrame]:
        """Verdicts at other thresholds of kurtosis."""
        if "unembedding" not in result.table or int(result.table["layer"].max()) < 1:
            return {}
        rows = []
        for claim in self.claims:
            for threshold in sorted({*_THRESHOLDS, self.kurtosis}):
                one = decide(claim, _evidence(claim, result.table, threshold))
                rows.append((claim.sentence, threshold, one.outcome, one.effect, one.low, one.high))
        columns = ["claim", "kurtosis above", "verdict", "effect", "low", "high"]
        return {"Verdicts at other thresholds (shares of neurons, 95 % intervals)": pd.DataFrame(rows, columns=columns)}

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Density of each kind per layer: model, metric (kind), layer, mean, low, high, count, n (neurons).

        "prediction, centred" and the like: with W_U centred, if it was not; "rotated": with W_U rotated; "above 20":
        with this threshold of kurtosis. Weights are not a sample, so there is no interval.
        """
        parts = (
            [self._densities(rows, str(which)) for which, rows in table.groupby("unembedding", sort=False)]
            if "unembedding" in table
            else [self._densities(table, _GIVEN)]
        )
        return pd.concat(parts, ignore_index=True)

    def _densities(self, table: pd.DataFrame, which: str) -> pd.DataFrame:
        kinds = {kind: _heavy(table, self.kurtosis, sign) for kind, sign in (("prediction", 1), ("suppression", -1))}
        if which == _GIVEN:
            kinds["partition"] = table["variance"] > self.variance
            kinds["entropy"] = is_entropy_neuron(table, self.kurtosis)
            for threshold in _THRESHOLDS:
                for kind, sign in (("prediction", 1), ("suppression", -1)):
                    kinds[f"{kind}, above {threshold}"] = _heavy(table, threshold, sign)
        kinds = {name if which == _GIVEN else f"{name}, {which}": kind for name, kind in kinds.items()}
        long = table[["model", "layer"]].assign(**kinds).melt(["model", "layer"], list(kinds), var_name="metric")
        groups = long.groupby(["model", "metric", "layer"], sort=False)["value"]
        summary = groups.agg(mean="mean", count="sum", n="size").reset_index()
        return summary.assign(low=np.nan, high=np.nan)

    def drawing(self, result: Result) -> Drawing:
        prediction, suppression, partition, entropy = (
            Curve(kind, kind, colour) for kind, colour in zip(_KINDS, (BLUE, VERMILION, GREEN, PURPLE), strict=True)
        )
        beside = [
            Curve(f"{one.metric}, {which}", f"{one.metric}, W_U {which}", one.colour, dash)
            for which, dash in ((_CENTRED, "dash"), (_ROTATED, "dot"))
            for one in (prediction, suppression)
        ]
        swept = [
            Panel(f"{kind}, by threshold",
                  [Curve(f"{kind}, above {at}", f"kurtosis > {at}", colour) for at, colour in _THRESHOLDS.items()])
            for kind in _KINDS[:2]
        ]  # fmt: skip
        return Drawing(
            result.summary(),
            [Panel("heavy tails", [prediction, suppression, *beside]), *swept, Panel("others", [partition, entropy])],
            y_title="share of the layer's neurons", y_axis={"rangemode": "tozero"},
            note=f"kurtosis > {self.kurtosis:g}; exact, from weights",
        )  # fmt: skip

    def details(self, result: Result) -> list[str]:
        counts = result.summary().groupby("metric")["count"].sum()
        kinds = ", ".join(f"{counts[kind]} {kind}" for kind in _KINDS)
        return [*super().details(result), f"Neurons: {kinds}."]


def _heavy(table: pd.DataFrame, kurtosis: float, sign: int) -> pd.Series[bool]:
    """Which neurons have a heavy tail, to the right (1: prediction) or to the left (-1: suppression)."""
    return (table["kurtosis"] > kurtosis) & (sign * table["skewness"] > 0)


def _named(kept: Sequence[int], lost: Sequence[int]) -> str:
    """The kurtosis thresholds at which a sign is kept, and those at which it is lost."""
    if not kept:
        return f"none of the kurtosis thresholds {', '.join(map(str, lost))}"
    without = f", not at {', '.join(map(str, lost))}" if lost else ""
    return f"kurtosis thresholds {', '.join(map(str, kept))}{without}"


def _contrast(claim: Claim, rows: pd.DataFrame, kurtosis: float) -> np.ndarray:
    """Per neuron, the value whose mean is the claim's quantity."""
    n_layers = int(rows["layer"].max()) + 1
    late = rows["layer"] >= (n_layers // 2 if claim is LATE else n_layers - max(1, n_layers // 10))
    if claim is OVERTAKES:
        return _excess(rows[late], kurtosis)
    return (_heavy(rows, kurtosis, 1) * np.where(late, 1 / late.mean(), -1 / (~late).mean())).to_numpy()


def _excess(rows: pd.DataFrame, kurtosis: float) -> np.ndarray:
    """Per neuron, 1 for a suppression neuron and -1 for a prediction neuron."""
    return (_heavy(rows, kurtosis, -1).astype(float) - _heavy(rows, kurtosis, 1)).to_numpy()


def _evidence(claim: Claim, table: pd.DataFrame, kurtosis: float) -> Evidence:
    """Evidence from densities at a threshold of kurtosis, against those with W_U rotated."""
    values = _contrast(claim, where(table, unembedding=_GIVEN), kurtosis)
    found, by_chance = mean_of_many(values), 0.0
    if claim is OVERTAKES:
        null = mean_of_many(_excess(where(table, unembedding=_ROTATED), kurtosis))
        found, by_chance = found.less_measured(null), null.mean
    return Evidence(values, by_chance, np.arange(len(values)), "neurons", interval=found)


@torch.no_grad()
def neuron_table(net: Blockwise, layers: range) -> pd.DataFrame:
    """A row per neuron of these layers: moments, norms of output and input weights, and rho."""
    table = vocabulary_moments(net.W_U, (net.W_out(layer) for layer in layers), top=1).frame()
    reads = torch.cat([net.W_in(layer).float().norm(dim=0) for layer in layers])
    null = null_space(net.W_U)
    rho = torch.cat([share_in(null, net.W_out(layer)) for layer in layers])
    return table.assign(
        layer=table["layer"] + layers.start, in_norm=reads.cpu().double().numpy(), rho=rho.cpu().numpy()
    )


def is_entropy_neuron(table: pd.DataFrame, kurtosis: float, variance: float = MOST_VARIANCE) -> pd.Series[bool]:
    """Which rows have large weights in the last layers that favour no token; the bound on size is per model."""
    last = table.groupby("model")["layer"].transform("max")
    late = table["layer"] > last - LAST_LAYERS
    size = table["in_norm"] ** 2 + table["norm"] ** 2
    bound = size.where(late).groupby(table["model"]).transform(lambda sizes: sizes.quantile(0.9))
    return late & (size >= bound) & (table["kurtosis"] <= kurtosis) & (table["variance"] <= variance)
