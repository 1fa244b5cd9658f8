"""Prediction and suppression neurons (section 5.3, Fig. 8 and 17): where single neurons write tokens.

From weights alone: for every neuron the moments of cos(w_out, W_U) over the vocabulary. A heavy tail (kurtosis > 10)
to the right makes a prediction neuron, which promotes a few tokens, to the left a suppression neuron. The paper
counts them by layer: prediction neurons appear in the middle and are densest at about 85 % of depth, suppression
neurons take over at the end. Partition neurons (variance > 0.005) split the vocabulary in two large groups; the
threshold is made for wide models: cosines of random directions have variance 1 / d_model, above it where d_model is
below 200.

The counts assume a folded final norm and centred W_U and W_out (`processing="fold"`); so did the authors. Both
protocols are the same: the authors' code is right, only slow. With gated MLPs or GELU a neuron may be active with
either sign.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from mechicl.figures import BLUE, VERMILION, add_curve, panels, styled
from mechicl.models import hooked
from mechicl.neurons import vocabulary_moments
from mechicl.results import Result
from mechicl.studies.study import Condition, Study

_KINDS = ("prediction", "suppression", "partition")


@dataclass(frozen=True)
class NeuronsStudy(Study):
    """Vocabulary moments of every neuron, and the density of each kind by layer."""

    kurtosis: float = 10.0
    variance: float = 0.005

    name: ClassVar[str] = "neurons"
    title: ClassVar[str] = "Prediction and suppression neurons"
    source: ClassVar[str] = "Stages of Inference, section 5.3, Fig. 8 and 17"
    claim: ClassVar[str] = (
        "Prediction neurons appear in the middle of a model and are densest at about 85 % of its depth; suppression "
        "neurons take over in the last layers."
    )
    reads: ClassVar = "weights"

    def measure(self, model: Any, prompts: None, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        net = hooked(model)
        return vocabulary_moments(net.W_U, (net.W_out(layer) for layer in range(net.sizes.n_layers)), top=1).frame()

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Density of each kind per layer: model, metric (kind), layer, mean, low, high, count, n (neurons).

        Weights are not a sample: there is no interval.
        """
        heavy = table["kurtosis"] > self.kurtosis
        kinds = table[["model", "layer"]].assign(
            prediction=heavy & (table["skewness"] > 0),
            suppression=heavy & (table["skewness"] < 0),
            partition=table["variance"] > self.variance,
        )
        long = kinds.melt(id_vars=["model", "layer"], value_vars=list(_KINDS), var_name="metric")
        groups = long.groupby(["model", "metric", "layer"], sort=False)["value"]
        summary = groups.agg(mean="mean", count="sum", n="size").reset_index()
        return summary.assign(low=np.nan, high=np.nan)

    def figure(self, result: Result) -> go.Figure:
        summary, figure = result.summary(), panels([""])
        for kind, colour in (("prediction", BLUE), ("suppression", VERMILION)):
            add_curve(figure, summary[summary["metric"] == kind], x="layer", name=kind, colour=colour)
        figure.update_yaxes(rangemode="tozero")
        return styled(
            figure, title=f"{self.title}: {', '.join(summary['model'].unique())}",
            subtitle=f"{self.source}; kurtosis > {self.kurtosis:g}; exact, from weights",
            x="layer", y="share of the layer's neurons", counts=int(summary["layer"].max()),
        )  # fmt: skip

    def finding(self, result: Result) -> str:
        summary = result.summary()
        last = max(int(summary["layer"].max()), 1)
        parts = []
        for kind in ("prediction", "suppression"):
            rows = summary[summary["metric"] == kind]
            total = int(rows["count"].sum())
            peak = int(rows.nlargest(1, "mean")["layer"].iloc[0])
            where = f", densest in layer {peak} ({peak / last:.0%} of depth)" if total else ""
            parts.append(f"{total} {kind} neurons{where}")
        return "; ".join(parts) + "."


def neurons(model: Any, *, kurtosis: float = 10.0, variance: float = 0.005) -> Result:
    """Count prediction, suppression and partition neurons by layer (section 5.3).

    Args:
        model: a HookedTransformer, loaded with `processing="fold"` for the papers' numbers.
        kurtosis: above it a neuron is of the first two kinds (not the excess: a Gaussian has 3).
        variance: above it a neuron is a partition neuron.

    Returns:
        A result with a row per neuron: the moments of its cosines with the vocabulary, and its norm.
    """
    return NeuronsStudy(kurtosis=kurtosis, variance=variance).run(model)
