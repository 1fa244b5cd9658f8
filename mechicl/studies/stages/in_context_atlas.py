"""In-context learning on the atlas: do label words gather information in early stages, and are they read in late ones?

*Label Words are Anchors* finds by saliency that demonstrations' information flows into label words in shallow layers
(S_wp) and from there to the target in deep ones (S_pq), and by attention that the AUCROC of deep layers is high, so
that its share R accumulates late. *Stages of Inference* names what layers do. Here the first paper's curves share the
second's depth axis, for the same model, and are summed by stage.

Each flow's curve is its share within the layer (S_wp / (S_wp + S_pq + S_ww)), as the paper draws it. Saliency needs
unprocessed weights: flows are measured with `processing="none"`, the atlas with folded norms; layers compute the same
in both.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import pandas as pd

from mechicl.errors import InputError
from mechicl.figures import BLUE, FLOW_COLOURS, ORANGE
from mechicl.results import Result
from mechicl.studies.twins import GIVEN

IN_CONTEXT = {
    "S_wp": (FLOW_COLOURS["S_wp"], "solid"),
    "S_pq": (FLOW_COLOURS["S_pq"], "solid"),
    "AUCROC": (BLUE, "solid"),
    "R": (ORANGE, "dot"),
}
"""Information flow into label words and from them to the target, and how well attention to them predicts the output."""
_FROM_PROMPTS = -2


def in_context_atlas(atlas: Result, flow: Result, deep: Result) -> Result:
    """The atlas with S_wp, S_pq, AUCROC and R on prompts of the same model, averaged over tasks.

    Args:
        atlas: result of `stages_atlas`.
        flow: result of `information_flow`.
        deep: result of `deep_layers`, on the same prompts.

    Raises:
        InputError: the results are of other studies, or of different models.
    """
    names = [result.name for result in (atlas, flow, deep)]
    if names != ["stages-atlas", "information-flow", "deep-layers"]:
        raise InputError(f"Give the results of stages_atlas, information_flow and deep_layers; these are {names}.")
    models = [set(result.table["model"]) for result in (atlas, flow, deep)]
    if models[0] != models[1] or models[0] != models[2]:
        raise InputError(f"The results are of different models: {models}.")
    curves = pd.concat([flow.summary(), deep.summary()])
    curves = curves[curves["metric"].isin(IN_CONTEXT) & (curves["task"] != "average of tasks")]
    means = curves.groupby(["model", "metric", "layer"], as_index=False, sort=False)[["mean", "low", "high"]].mean()
    rows = means.rename(columns={"mean": "value", "metric": "signature"})
    table = pd.concat([atlas.table, rows.assign(sequence=_FROM_PROMPTS, weight=1.0, weights=GIVEN)], ignore_index=True)
    origin = {"flow": dict(flow.provenance), "deep_layers": dict(deep.provenance)}
    return Result(atlas.study, table, {**atlas.provenance, "in_context": origin})


def gathered_and_read(summary: pd.DataFrame, boundaries: Mapping[Hashable, int]) -> list[str]:
    """What one model's curves show, in sentences; empty without curves.

    Sums are split where prediction ensembling begins, or in the middle of the model if that boundary is not supported.
    """
    curves = summary[summary["metric"].isin(IN_CONTEXT)].set_index(["metric", "layer"])["mean"].sort_index()
    there = set(curves.index.get_level_values("metric"))
    if not {"S_wp", "S_pq"} <= there:
        return []
    wp, pq = curves["S_wp"], curves["S_pq"]
    n, stage = len(wp), "prediction ensembling"
    start = boundaries.get(stage, n // 2)
    early, late = wp[wp.index < start].sum() / wp.sum(), pq[pq.index >= start].sum() / pq.sum()
    place = f"Before {stage} ({start / n:.0%} of the layers)" if stage in boundaries else f"Before layer {start}"
    sentences = [
        f"{place} lie {early:.0%} of S_wp, the gathering in label words, and {1 - late:.0%} of S_pq, their reading "
        "(shares of each layer's saliency, summed over layers)"
    ]
    auc = curves["AUCROC"] if "AUCROC" in there else curves.iloc[:0]  # missing if every prompt got the same answer
    if 0 < start < n and len(auc):
        parts = auc[auc.index < start].mean(), auc[auc.index >= start].mean()
        sentences.append(
            f"Attention to label words predicts the output with an AUROC of {parts[0]:.2f} in those layers, of "
            f"{parts[1]:.2f} in later ones"
        )
    return sentences
