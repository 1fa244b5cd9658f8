"""Information flow (section 2.1, Fig. 3; with two shots Fig. 9).

The paper multiplies each attention weight by the loss's gradient with respect to it and sums over heads. The result,
per layer, is averaged over three sets of edges: from demonstration text to label words (S_wp), from label words to the
target position (S_pq), and all others (S_ww). In shallow layers S_wp dominates, in deep layers S_pq: label words gather
the demonstrations' information, and the prediction reads it there.

The authors average the raw values over prompts and then divide by the sum of the three in each layer, so uncertain
prompts, whose gradients are large, dominate (`protocol="paper"`). `"corrected"` takes each prompt's shares first, so
that every prompt counts the same. The table keeps the raw values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd

from mechicl.declared import Switch
from mechicl.figures import FLOW_COLOURS
from mechicl.hooks import run
from mechicl.metrics.objective import Objective
from mechicl.probes.saliency import FLOWS, HeadReduce, SaliencyFlow
from mechicl.prompts import PromptSet
from mechicl.results import Result
from mechicl.studies.drawing import Curve, Drawing, Panel
from mechicl.studies.study import Condition, Study
from mechicl.studies.summary import BAND, by_task, mean_with_interval

_NAMES = {"S_wp": "S_wp: text → label words", "S_pq": "S_pq: label words → target", "S_ww": "S_ww: all other edges"}


@dataclass(frozen=True)
class InformationFlow(Study):
    """A row per prompt and layer: raw S_wp, S_pq and S_ww, in units of the loss per edge."""

    head_reduce: Annotated[
        HeadReduce, Switch("How heads become one: abs_of_sum (the authors' code) or sum_of_abs (footnote 3).")
    ] = "abs_of_sum"
    loss: Annotated[
        Literal["cross_entropy", "logit_difference"],
        Switch("cross_entropy over the label words (the paper), in nats, or logit_difference."),
    ] = "cross_entropy"
    target: Annotated[
        Literal["gold", "predicted"], Switch("The class whose loss is taken: gold (the paper), or predicted.")
    ] = "gold"

    name = "information-flow"
    title = "Information flow through label words"
    shows = "Saliency flow into and out of label words, by layer."
    source = "Label Words are Anchors, section 2.1, Fig. 3"
    claim = (
        "In shallow layers information flows from the demonstrations' text into the label words (S_wp); "
        "in deep layers it flows from the label words to the target position (S_pq)."
    )
    gradients = True
    shared_options = {"demonstrations": "per_prompt"}

    def passes(self, n_layers: int) -> float:
        return 3

    def measure(self, model: Any, prompts: PromptSet, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        probe = SaliencyFlow(self.head_reduce, Objective(self.loss, self.target))
        return run(model, prompts, [probe], batch_size=batch_size).frame()

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Share of each metric per layer: model, task, shots, layer, metric, mean, low, high, n, seeds.

        Prompts whose saliency is exactly zero in a layer (a gradient that underflows) have no shares and are left out;
        `n` says how many remain.
        """
        total = table[list(FLOWS)].sum(axis=1)
        shares = table.assign(total=total, **{m: table[m] / total for m in FLOWS})[total > 0]
        long = shares.melt(["model", "task", "shots", "seed", "layer", "total"], list(FLOWS), var_name="metric")
        weight = "total" if self.protocol == "paper" else None
        return mean_with_interval(long, "value", ["model", "task", "shots", "metric", "layer"], weight=weight)

    def drawing(self, result: Result) -> Drawing:
        summary = result.summary()
        panels = [
            Panel(title, [Curve(flow, _NAMES[flow], FLOW_COLOURS[flow], where=task) for flow in FLOWS])
            for title, task in by_task(summary).items()
        ]
        return Drawing(
            summary, panels, y_title="share of mean saliency per edge", note=BAND, common=True, y_axis={"range": [0, 1]}
        )

    def finding(self, result: Result) -> str:
        share = result.summary().groupby(["layer", "metric"])["mean"].mean().unstack()
        into, out_of = share["S_wp"].to_numpy(), share["S_pq"].to_numpy()
        lower = np.flatnonzero(out_of <= into)
        first = lower[-1] + 1 if len(lower) else 0
        larger = f"from layer {first} on" if first < len(into) else "in no layer to the end"
        return (
            f"S_wp is largest in layer {into.argmax()} ({into.max():.0%} of the saliency). S_pq exceeds it {larger}; "
            f"it holds {out_of[-1]:.0%} in the last layer."
        )
