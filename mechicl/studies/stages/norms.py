"""Norms of what layers add (section 5.4, Fig. 10, 12b and 20), and block influence.

The paper reports that the norm of the MLPs' outputs grows with depth and peaks in the last layers, where predictions
are sharpened or calibrated. It gives no code; the mean over all tokens is what it describes (`protocol="paper"`).
`"corrected"` leaves out position 0, where many models keep a residual of a norm far above all others, and shows each
sequence's median and the outputs' norms relative to the residual that they are added to. Norms at position 0 are shown
separately, and the details name the layer that makes it as large as attention sinks are. Block influence,
1 - cos(residual before, after), is a cheap predictor of the cost of dropping the layer.

Norms depend on weight processing: folding the final norm does not matter here, but centring W_out does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mechicl.claims import Claim, Evidence
from mechicl.corpora import TokenCorpus
from mechicl.figures import BLUE, GREY, INK, VERMILION
from mechicl.hooks import run
from mechicl.probes.norms import PARTS, Norms
from mechicl.results import Result
from mechicl.studies.drawing import Curve, Drawing, Panel
from mechicl.studies.stages.sequences import weighted_summary
from mechicl.studies.study import Condition, Study
from mechicl.studies.summary import TEXT_BAND
from mechicl.studies.twins import by_layer, of_documents, slope

GROW = Claim(
    "mlp-norms-grow", "The norm of the MLPs' outputs grows with depth.",
    "Stages of Inference, section 5.4, Fig. 10, 12b and 20",
    "rise of the median norm from the first layer to the last, by a line through all layers", "doublings",
    "the same norm in all layers", 0.5,
)  # fmt: skip
SINK = 10.0
"""Position 0 is a sink if its residual's norm exceeds the median of the others by this factor."""


@dataclass(frozen=True)
class NormsStudy(Study):
    """Norms of attention, MLP and residual: a row per sequence and layer.

    L2 norms over d_model, their ratios to the residual's, and cosines.
    """

    name = "norms"
    title = "What each layer adds"
    shows = "Norms of what attention and MLPs write, and how far each layer rotates the residual stream."
    source = "Stages of Inference, section 5.4, Fig. 10, 12b and 20"
    claim = "The norm of the MLPs' outputs grows with depth and peaks in the last layers."
    claims = (GROW,)
    reads = "text"
    batch_size = 8
    shared_options = {"processing": "fold"}

    def measure(self, model: Any, corpus: TokenCorpus, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        return run(model, corpus, [Norms()], batch_size=batch_size).frame()

    def evidence(self, claim: Claim, table: pd.DataFrame) -> Evidence:
        if table["layer"].nunique() < 2:
            return Evidence.nothing("This claim needs a model of two layers or more.")
        norms = by_layer(table, "mlp_median").clip(lower=1e-12)
        ends = norms.mean().iloc[[0, -1]]
        notes = [
            f"The median norm is {ends.iloc[0]:.3g} in layer 0 and {ends.iloc[1]:.3g} in the last",
            sink_maker(table),
        ]
        return of_documents(slope(norms.apply(np.log2)), note=". ".join(filter(None, notes)) + ".")

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
            at_0 = [
                Curve("mlp_at_0", "MLP", BLUE),
                Curve("attn_at_0", "attention", VERMILION),
                Curve("resid_post_at_0", "residual after the layer", INK),
                Curve("resid_post_median", "residual, median elsewhere", INK, "dot"),
            ]
            panels = [
                Panel("norm of the output, position 0 left out", norms, y_axis=_LOG),
                Panel("norms at position 0", at_0, y_axis=_LOG),
                Panel("over the residual's norm", ratios, y_axis=_LOG),
                Panel("1 − cos(before, after)", [Curve("block_influence", "block influence", GREY)], y_axis=_LOG),
            ]
        return Drawing(result.summary(), panels, note=TEXT_BAND, y_axis={"rangemode": "tozero"})


_LOG = {"type": "log", "rangemode": "normal"}


def sink_layer(before: pd.Series, after: pd.Series) -> int | None:
    """The layer that makes position 0 as large as an attention sink; None if there is none.

    Of the layers after which position 0's norm is at least `SINK` times the median of the others, it is the one in
    which that ratio grows most. The ratios, before and after each layer, are indexed by layer.
    """
    growth = (after / before)[after >= SINK]
    return int(np.asarray(growth.index)[growth.to_numpy().argmax()]) if len(growth) else None


def sink_maker(norms: pd.DataFrame) -> str | None:
    """The layer that makes position 0 as large as an attention sink, in words; None if position 0 is like the others.

    `norms` is the study's table for one model.
    """
    means = norms.groupby("layer").mean(numeric_only=True)
    layer = sink_layer(*(means[f"{site}_at_0"] / means[f"{site}_median"] for site in ("resid_pre", "resid_post")))
    if layer is None:
        return None
    at_0, elsewhere, mlp = means.loc[layer, ["resid_post_at_0", "resid_post_median", "mlp_at_0"]].to_numpy(float)
    return (
        f"Layer {layer} makes position 0 as large as an attention sink: the residual's norm there is {at_0:.3g} after "
        f"it, the median elsewhere {elsewhere:.3g}; its MLP writes a norm of {mlp:.3g}"
    )
