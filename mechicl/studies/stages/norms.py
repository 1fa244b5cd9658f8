"""Norms of what layers add (section 5.4, Fig. 10, 12b and 20), and block influence.

The paper reports that the norm of the MLPs' outputs grows with depth and peaks in the last layers, where predictions
are sharpened or calibrated. It gives no code; the mean over all tokens is what it describes (`protocol="paper"`).
`"corrected"` leaves out position 0, where many models keep a residual of a norm far above all others, and shows the
median of each sequence and the outputs' norms relative to the residual that they are added to. Block influence,
1 - cos(residual before, after), predicts cheaply what dropping the layer costs.

Norms depend on how weights were processed: folding the final norm does not matter here, centring W_out does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from mechicl.corpora import TokenCorpus
from mechicl.figures import BLUE, GREY, VERMILION
from mechicl.hooks import run
from mechicl.probes.norms import PARTS, Norms
from mechicl.results import Result
from mechicl.studies.drawing import Curve, Drawing, Panel
from mechicl.studies.stages.sequences import weighted_summary
from mechicl.studies.study import Condition, Study
from mechicl.studies.summary import TEXT_BAND, highest


@dataclass(frozen=True)
class NormsStudy(Study):
    """Norms of attention, MLP and residual: a row per sequence and layer.

    L2 norms over d_model, their ratios to the residual's, and cosines.
    """

    name = "norms"
    title = "What each layer adds"
    shows = "Norms of what attention and MLPs add, and how far each layer turns the residual."
    source = "Stages of Inference, section 5.4, Fig. 10, 12b and 20"
    claim = "The norm of the MLPs' outputs grows with depth and peaks in the last layers."
    reads = "text"
    batch_size = 8
    shared_options = {"processing": "fold"}

    def measure(self, model: Any, corpus: TokenCorpus, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        return run(model, corpus, [Norms()], batch_size=batch_size).frame()

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Means over tokens per layer: model, metric, layer, mean, low, high, n (sequences), seeds."""
        if self.protocol == "paper":
            n = table["positions"]
            everywhere = {p: (table[f"{p}_norm"] * n + table[f"{p}_at_0"]) / (n + 1) for p in PARTS}
            return weighted_summary(table.assign(**everywhere, positions=n + 1), dict.fromkeys(PARTS, "positions"))
        metrics = ["mlp_norm", "attn_norm", "resid_pre_norm", "mlp_ratio", "attn_ratio", "block_influence"]
        metrics += [f"{part}_{what}" for what in ("median", "at_0") for part in PARTS]
        return weighted_summary(table.assign(block_influence=1 - table["cosine"]), dict.fromkeys(metrics, "positions"))

    def drawing(self, result: Result) -> Drawing:
        if self.protocol == "paper":
            panels = [Panel("norm of the output", [Curve("mlp", "MLP", BLUE), Curve("attn", "attention", VERMILION)])]
        else:
            norms = [
                Curve("mlp_norm", "MLP", BLUE),
                Curve("attn_norm", "attention", VERMILION),
                Curve("mlp_median", "MLP, median", BLUE, "dot"),
                Curve("attn_median", "attention, median", VERMILION, "dot"),
            ]
            ratios = [Curve("mlp_ratio", "MLP", BLUE), Curve("attn_ratio", "attention", VERMILION)]
            panels = [
                Panel("norm of the output", norms),
                Panel("over the residual's norm", ratios),
                Panel("1 − cos(before, after)", [Curve("block_influence", "block influence", GREY)]),
            ]
        return Drawing(result.summary(), panels, note=TEXT_BAND, y_axis={"rangemode": "tozero"})

    def finding(self, result: Result) -> str:
        means = result.summary().groupby(["metric", "layer"])["mean"].mean()
        curve = means["mlp" if self.protocol == "paper" else "mlp_norm"]
        return (
            f"Norm of the MLPs' outputs: {highest(curve)}; {curve.iloc[0]:.2f} in layer 0 and {curve.iloc[-1]:.2f} in "
            "the last."
        )
