"""Where the two papers meet: which layers does in-context learning need, and what for?

Neither paper asks. *Label Words are Anchors* says that label words gather the demonstrations' information in shallow
layers (S_wp) and that the prediction reads it there in deep ones (S_pq); *Stages of Inference* says that tokens
become words and features in early layers, and that predictions are put together later. If both are right, leaving
out an early layer should hurt the gathering, leaving out a late one the reading.

Each layer is left out in turn while the model solves prompts: accuracy, agreement with the intact model's label (label
loyalty), and the sums over all layers of S_wp and S_pq relative to the intact model. Beside them stand the intact
model's shares of S_wp and S_pq by layer. There is no protocol "paper".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from mechicl.figures import BLUE, FLOW_COLOURS, GREY, panels
from mechicl.hooks import run
from mechicl.models import hooked
from mechicl.patches.lesions import Drop
from mechicl.probes.saliency import FLOWS, SaliencyFlow
from mechicl.prompts import PromptSet
from mechicl.results import Result
from mechicl.studies.stages.drawing import Curve, add_curves, titled, where
from mechicl.studies.study import Condition, Study
from mechicl.studies.summary import BAND, mean_with_interval

_PROMPT = ["model", "task", "seed", "shots", "prompt"]
_INTACT = -1


@dataclass(frozen=True)
class LesionedLearning(Study):
    """Predictions and information flow with each layer left out: a row per layer left out and prompt.

    The predicted label, and S_wp, S_pq and S_ww of every layer; layer -1 is the intact model.
    """

    name = "lesioned-icl"
    title = "In-context learning with a layer left out"
    shows = "In-context accuracy and information flow with each layer left out."
    source = "Stages of Inference, section 4.1; Label Words are Anchors, section 2.1"
    claim = (
        "Neither paper says. Together they suggest: early layers serve the gathering at label words, late layers the "
        "reading by the target."
    )
    no_paper_protocol = "neither paper did it"
    gradients = True
    shared_options = {"samples": 32, "demonstrations": "per_prompt"}

    def conditions(self, model: Any) -> list[Condition]:
        return [{"dropped": layer} for layer in (_INTACT, *range(hooked(model).sizes.n_layers))]

    def passes(self, n_layers: int) -> float:
        return 3 * (n_layers + 1)

    def measure(self, model: Any, prompts: PromptSet, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        patches = [] if condition["dropped"] == _INTACT else [Drop(condition["dropped"])]
        flow = run(model, prompts, [probe := SaliencyFlow()], patches, batch_size=batch_size)
        return pd.DataFrame(
            {
                "prompt": np.arange(len(prompts)),
                "gold": [-1 if prompt.gold is None else prompt.gold for prompt in prompts],
                "predicted": flow.predicted.numpy(),
                **{name: flow[probe][name].double().tolist() for name in FLOWS},
            }
        )

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Means: model, task, shots, metric, layer, mean, low, high, n (prompts), seeds.

        `accuracy` and `loyalty` with the layer left out (layer -1: intact); `S_wp kept`, `S_pq kept`: the sum over
        layers with the layer left out over the intact sum; `S_wp share`, `S_pq share`: the intact model's, by layer.
        """
        by = ["model", "task", "shots", "metric", "layer"]
        dropped = table.rename(columns={"dropped": "layer"})
        intact = where(dropped, layer=_INTACT)
        paired = dropped.merge(intact[[*_PROMPT, "predicted", *FLOWS]], on=_PROMPT, suffixes=("", "_intact"))
        right = (paired["predicted"] == paired["gold"]).astype(float)
        same = (paired["predicted"] == paired["predicted_intact"]).astype(float)
        parts = [
            mean_with_interval(paired.assign(metric="accuracy", value=right)[paired["gold"] >= 0], "value", by),
            mean_with_interval(paired.assign(metric="loyalty", value=same), "value", by),
        ]
        for name in FLOWS[:2]:
            whole = np.stack(paired[f"{name}_intact"].to_list()).sum(1)
            kept = paired.assign(metric=f"{name} kept", value=np.stack(paired[name].to_list()).sum(1) / whole, w=whole)
            parts.append(mean_with_interval(kept[kept["w"] > 0], "value", by, weight="w"))
            parts.append(mean_with_interval(_shares(intact, name), "value", by))
        return pd.concat(parts, ignore_index=True)

    def figure(self, result: Result) -> go.Figure:
        summary = result.summary()
        pooled = summary.groupby(["metric", "layer"], as_index=False, sort=False)[["mean", "low", "high"]].mean()
        figure = panels(["predictions, layer left out", "flow that is left", "intact flow, by layer"], common=False)
        curves = [
            Curve("accuracy", "accuracy", BLUE),
            Curve("loyalty", "same label as intact", GREY),
            Curve("S_wp kept", "S_wp: text → label words", FLOW_COLOURS["S_wp"], column=2),
            Curve("S_pq kept", "S_pq: label words → target", FLOW_COLOURS["S_pq"], column=2),
            Curve("S_wp share", "S_wp share", FLOW_COLOURS["S_wp"], column=3, legend=False),
            Curve("S_pq share", "S_pq share", FLOW_COLOURS["S_pq"], column=3, legend=False),
        ]
        add_curves(figure, pooled[pooled["layer"] >= 0], "layer", curves)
        accuracy = where(pooled, metric="accuracy", layer=_INTACT)
        if len(accuracy):
            figure.add_hline(accuracy["mean"].iloc[0], line={"dash": "dot", "color": BLUE}, row=1, col=1)
        figure.add_hline(1, line={"dash": "dot", "color": GREY}, row=1, col=2)
        figure.update_yaxes(rangemode="tozero")
        told = f"{', '.join(summary['task'].unique())}; dotted: the intact model; {BAND}"
        titled(figure, self, summary, told, y="share")
        # A model that is sure of its answers has hardly any gradient; made unsure, it has thousands of times as much.
        return figure.update_yaxes(type="log", rangemode="normal", title_text="times the intact flow", col=2)

    def finding(self, result: Result) -> str:
        means = result.summary().groupby(["metric", "layer"])["mean"].mean()
        loyalty = means["loyalty"].drop(_INTACT)
        kept = {name: means[f"{name} kept"].drop(_INTACT) for name in ("S_wp", "S_pq")}
        return (
            f"Predictions change most without layer {loyalty.idxmin()} ({loyalty.min():.0%} keep their label). S_wp "
            f"falls most without layer {kept['S_wp'].idxmin()} (to {kept['S_wp'].min():.0%}), S_pq without layer "
            f"{kept['S_pq'].idxmin()} (to {kept['S_pq'].min():.0%})."
        )


def _shares(intact: pd.DataFrame, name: str) -> pd.DataFrame:
    """The intact model's share of one flow in each layer: a row per prompt and layer."""
    flow = np.stack([np.stack(intact[metric].to_list()) for metric in FLOWS], -1)
    total = flow.sum(-1)
    n_prompts, n_layers = total.shape
    repeated = intact.loc[intact.index.repeat(n_layers)].drop(columns="layer")
    rows = repeated.assign(layer=np.tile(np.arange(n_layers), n_prompts), metric=f"{name} share", w=total.ravel())
    rows = rows.assign(value=flow[..., FLOWS.index(name)].ravel() / rows["w"].where(rows["w"] > 0))
    return rows[rows["w"] > 0]
