"""Where the two papers meet: which layers does in-context learning need, and for what?

Neither paper asks this. *Label Words are Anchors* says that label words gather the demonstrations' information in
shallow layers (S_wp) and that the prediction reads it from them in deep layers (S_pq); *Stages of Inference* says that
tokens become words and features in early layers, and that predictions form later. If both are right, dropping an early
layer should reduce the gathering, and dropping a late one the reading.

We drop each layer in turn while the model answers prompts, and measure accuracy, agreement with the clean model's label
(label loyalty), and the sums of S_wp and S_pq over all layers, relative to the clean model. The figure also shows the
clean model's shares of S_wp and S_pq by layer. There is no protocol "paper".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mechicl.errors import InputError
from mechicl.figures import BLUE, FLOW_COLOURS, GREY
from mechicl.hooks import run
from mechicl.models import hooked
from mechicl.patches.lesions import Drop
from mechicl.probes.saliency import FLOWS, SaliencyFlow
from mechicl.prompts import PromptSet
from mechicl.results import Result
from mechicl.studies.drawing import Curve, Drawing, Level, Panel, where
from mechicl.studies.study import Condition, Study
from mechicl.studies.summary import bands, extreme_in_words, mean_with_interval

_PROMPT = ["model", "task", "seed", "shots", "prompt"]
_INTACT = -1


@dataclass(frozen=True)
class LesionedLearning(Study):
    """Predictions and information flow with each layer dropped: a row per dropped layer and prompt.

    The predicted label, and S_wp, S_pq and S_ww of every layer; layer -1 is the clean model.
    """

    name = "lesioned-icl"
    title = "In-context learning with a layer left out"
    shows = "In-context accuracy and information flow with each layer dropped."
    source = "beyond Stages of Inference, section 4.1, and Label Words are Anchors, section 2.1"
    claim = (
        "Both papers together suggest that early layers serve gathering at label words, and late layers reading by the "
        "target."
    )
    no_paper_protocol = "neither paper did it"
    gradients = True
    shared_options = {"samples": 32, "demonstrations": "per_prompt"}

    def conditions(self, model: Any) -> list[Condition]:
        if (n_layers := hooked(model).sizes.n_layers) == 1:
            raise InputError("lesioned-icl drops a layer, and this model has a single one; use a deeper model.")
        return [{"dropped": layer} for layer in (_INTACT, *range(n_layers))]

    def is_clean(self, table: pd.DataFrame) -> pd.Series[bool]:
        return table["dropped"] == _INTACT

    def passes(self, n_layers: int) -> float:
        return 3 * (n_layers + 1)

    def measure(self, model: Any, prompts: PromptSet, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        patches = [] if condition["dropped"] == _INTACT else [Drop(condition["dropped"])]
        flow = run(model, prompts, [probe := SaliencyFlow()], patches, batch_size=batch_size)
        gold = [-1 if prompt.gold is None else prompt.gold for prompt in prompts]
        flows = {name: flow[probe][name].double().tolist() for name in FLOWS}
        return pd.DataFrame({"prompt": range(len(prompts)), "gold": gold, "predicted": flow.predicted, **flows})

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Means: model, task, shots, metric, layer, mean, low, high, n (prompts), seeds.

        `accuracy` and `loyalty` with the layer dropped (layer -1: the clean model); `S_wp kept`, `S_pq kept`: the sum
        over layers with the layer dropped over the clean sum; `S_wp share`, `S_pq share`: the clean model's, by layer.
        """
        by = ["model", "task", "shots", "metric", "layer"]
        dropped = table.rename(columns={"dropped": "layer"})
        clean = where(dropped, layer=_INTACT)
        paired = dropped.merge(clean[[*_PROMPT, "predicted", *FLOWS]], on=_PROMPT, suffixes=("", "_clean"))
        correct = (paired["predicted"] == paired["gold"]).astype(float)
        same = (paired["predicted"] == paired["predicted_clean"]).astype(float)
        parts = [
            mean_with_interval(paired.assign(metric="accuracy", value=correct)[paired["gold"] >= 0], "value", by),
            mean_with_interval(paired.assign(metric="loyalty", value=same), "value", by),
        ]
        for name in FLOWS[:2]:
            total = np.stack(paired[f"{name}_clean"].to_list()).sum(1)
            value = np.stack(paired[name].to_list()).sum(1) / total
            kept = paired.assign(metric=f"{name} kept", value=value, weight=total)
            parts.append(mean_with_interval(kept[total > 0], "value", by, weight="weight"))
            parts.append(mean_with_interval(_shares(clean, name), "value", by))
        return pd.concat(parts, ignore_index=True)

    def drawing(self, result: Result) -> Drawing:
        summary = result.summary()
        pooled = summary.groupby(["metric", "layer"], as_index=False, sort=False)[["mean", "low", "high"]].mean()
        gathering = ("S_wp: into label words", FLOW_COLOURS["S_wp"])
        reading = ("S_pq: label words → target", FLOW_COLOURS["S_pq"])
        clean = where(pooled, metric="accuracy", layer=_INTACT)["mean"]
        panels = [
            Panel("predictions, layer dropped",
                  [Curve("accuracy", "accuracy", BLUE), Curve("loyalty", "same label as the clean model", GREY),
                   *(Level(accuracy, BLUE) for accuracy in clean)]),
            # Log axis: a confident model has hardly any gradient, and thousands of times more once it is unsure.
            Panel("flow that is left",
                  [Curve("S_wp kept", *gathering), Curve("S_pq kept", *reading), Level(1, GREY)],
                  y_axis={"type": "log", "rangemode": "normal", "title_text": "times the clean flow"}),
            Panel("clean flow, by layer", [Curve("S_wp share", *gathering), Curve("S_pq share", *reading)]),
        ]  # fmt: skip
        return Drawing(
            pooled[pooled["layer"] >= 0], panels, y_title="share", y_axis={"rangemode": "tozero"},
            note=f"{', '.join(summary['task'].unique())}; dotted: the clean model; {bands(summary)}",
        )  # fmt: skip

    def finding(self, result: Result) -> str:
        paired = _beside_clean(result.table)
        loyal = (paired["predicted"] == paired["predicted_clean"]).astype(float)
        return f"Label loyalty is lowest {_lowest(paired, loyal)}."

    def details(self, result: Result) -> list[str]:
        paired, flows = _beside_clean(result.table), []
        for name in FLOWS[:2]:
            of_clean = np.stack(paired[f"{name}_clean"].to_list()).sum(1)
            kept = pd.Series(np.stack(paired[name].to_list()).sum(1) / max(of_clean.mean(), 1e-30))
            flows.append(f"{name} is lowest {_lowest(paired, kept)}")
        return [f"Relative to the clean model, {' and '.join(flows)}."]


def _beside_clean(table: pd.DataFrame) -> pd.DataFrame:
    """Each prompt with each layer dropped, and what the clean model gives on it (`..._clean`)."""
    clean = where(table, dropped=_INTACT)[[*_PROMPT, "predicted", *FLOWS]]
    return table[table["dropped"] != _INTACT].merge(clean, on=_PROMPT, suffixes=("", "_clean"))


def _lowest(paired: pd.DataFrame, values: pd.Series[float]) -> str:
    """In words, the layer without which a value of each row is lowest."""
    prompt = paired.groupby(_PROMPT, dropna=False).ngroup()
    curves = paired.assign(value=values, row=prompt).pivot(index="row", columns="dropped", values="value")
    return extreme_in_words(
        curves.to_numpy(), [int(layer) for layer in curves.columns], lowest=True, spec=".0%", place="without"
    )


def _shares(clean: pd.DataFrame, name: str) -> pd.DataFrame:
    """The clean model's share of one flow per layer: a row per prompt and layer."""
    rows = clean.explode([*FLOWS])
    total = rows[[*FLOWS]].astype(float).sum(axis=1)
    value = rows[name].astype(float) / total
    layer = rows.groupby(level=0).cumcount()
    return rows.assign(layer=layer, metric=f"{name} share", value=value)[total > 0]
