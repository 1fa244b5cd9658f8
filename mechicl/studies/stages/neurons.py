"""Prediction and suppression neurons (section 5.3, Fig. 8 and 17): where single neurons write tokens.

From weights alone: for every neuron the moments of cos(w_out, W_U) over the vocabulary. A heavy tail (kurtosis > 10)
to the right makes a prediction neuron, which promotes a few tokens, to the left a suppression neuron. The paper
counts them by layer: prediction neurons appear in the middle and are densest at about 85 % of depth, suppression
neurons take over at the end. Partition neurons (variance > 0.005) split the vocabulary in two large groups; the
threshold is made for wide models: cosines of random directions have variance 1 / d_model, above it where d_model is
below 200. Entropy neurons (Gurnee et al. 2024) write long vectors that favour no token, late in the model: heavier than
nine in ten of the last two layers' neurons (|w_in|^2 + |w_out|^2), variance at most 0.001, no heavy tail; rho, the
share of w_out where the unembedding hardly reads, is in the table.

The counts assume a folded final norm and centred W_U and W_out (`processing="fold"`); so did the authors. Both
protocols are the same: the authors' code is right, only slow. With gated MLPs or GELU a neuron may be active with
either sign.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch

from mechicl.declared import Switch
from mechicl.figures import BLUE, GREEN, PURPLE, VERMILION
from mechicl.mlp_neurons import null_space_score, vocabulary_moments
from mechicl.models import Blockwise, blockwise
from mechicl.results import Result
from mechicl.studies.drawing import Curve, Drawing, Panel, where
from mechicl.studies.study import Condition, Study
from mechicl.studies.summary import highest

_KINDS = ("prediction", "suppression", "partition", "entropy")
LAST_LAYERS = 2
MOST_VARIANCE = 1e-3
"""Of an entropy neuron's cosines with the vocabulary; those of random directions have 1 / d_model."""


@dataclass(frozen=True)
class NeuronsStudy(Study):
    """Vocabulary moments of neurons, and the density of each kind by layer: a row per neuron.

    Moments of its cosines with the vocabulary, the L2 norms of what it writes and reads, and rho.
    """

    kurtosis: Annotated[float, Switch("Above it a neuron promotes or suppresses (a Gaussian has 3).")] = 10.0
    variance: Annotated[float, Switch("Above it a neuron splits the vocabulary in two.")] = 0.005

    name = "neurons"
    title = "Prediction and suppression neurons"
    shows = "Prediction, suppression and partition neurons by layer, from weights alone."
    source = "Stages of Inference, section 5.3, Fig. 8 and 17"
    claim = (
        "Prediction neurons appear in the middle of a model and are densest at about 85 % of its depth; suppression "
        "neurons take over in the last layers."
    )
    reads = "weights"
    batch_size = None
    shared_options = {"processing": "fold"}

    def measure(self, model: Any, prompts: None, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        net = blockwise(model, self.name)
        return neuron_table(net, range(net.sizes.n_layers))

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Density of each kind per layer: model, metric (kind), layer, mean, low, high, count, n (neurons).

        Weights are not a sample: there is no interval.
        """
        heavy = table["kurtosis"] > self.kurtosis
        kinds = table[["model", "layer"]].assign(
            prediction=heavy & (table["skewness"] > 0),
            suppression=heavy & (table["skewness"] < 0),
            partition=table["variance"] > self.variance,
            entropy=is_entropy_neuron(table, self.kurtosis),
        )
        long = kinds.melt(id_vars=["model", "layer"], value_vars=list(_KINDS), var_name="metric")
        groups = long.groupby(["model", "metric", "layer"], sort=False)["value"]
        summary = groups.agg(mean="mean", count="sum", n="size").reset_index()
        return summary.assign(low=np.nan, high=np.nan)

    def drawing(self, result: Result) -> Drawing:
        prediction, suppression, partition, entropy = (
            Curve(kind, kind, colour) for kind, colour in zip(_KINDS, (BLUE, VERMILION, GREEN, PURPLE), strict=True)
        )
        return Drawing(
            result.summary(),
            [Panel("heavy tails", [prediction, suppression]), Panel("others", [partition, entropy])],
            y_title="share of the layer's neurons", y_axis={"rangemode": "tozero"},
            note=f"kurtosis > {self.kurtosis:g}; exact, from weights",
        )  # fmt: skip

    def finding(self, result: Result) -> str:
        summary = result.summary()
        parts = []
        for kind in _KINDS:
            rows = where(summary, metric=kind).set_index("layer")
            total = int(rows["count"].sum())
            densest = f" (share {highest(rows['mean'], '.1%')})" if total and kind != "partition" else ""
            parts.append(f"{total} {kind} neurons{densest}")
        return "; ".join(parts) + "."


@torch.no_grad()
def neuron_table(net: Blockwise, layers: range) -> pd.DataFrame:
    """A row per neuron of these layers: moments, norms of what it writes and reads, and rho."""
    table = vocabulary_moments(net.W_U, (net.W_out(layer) for layer in layers), top=1).frame()
    reads = torch.cat([net.W_in(layer).float().norm(dim=0) for layer in layers])
    rho = torch.cat([null_space_score(net.W_U, net.W_out(layer)) for layer in layers])
    return table.assign(
        layer=table["layer"] + layers.start, in_norm=reads.cpu().double().numpy(), rho=rho.cpu().numpy()
    )


def is_entropy_neuron(table: pd.DataFrame, kurtosis: float, variance: float = MOST_VARIANCE) -> pd.Series[bool]:
    """Which rows have heavy weights in the last layers that favour no token; the bound on size is each model's own."""
    last = table.groupby("model")["layer"].transform("max")
    late = table["layer"] > last - LAST_LAYERS
    size = table["in_norm"] ** 2 + table["norm"] ** 2
    bound = size.where(late).groupby(table["model"]).transform(lambda sizes: sizes.quantile(0.9))
    return late & (size >= bound) & (table["kurtosis"] <= kurtosis) & (table["variance"] <= variance)
