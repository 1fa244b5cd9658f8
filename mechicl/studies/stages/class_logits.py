"""What single neurons add to the logits of a class of tokens and of all others (appendix I).

The paper shows its 36 neurons of largest effect on "-ing" as histograms: what one unit of a neuron's activation adds to
the logit of every token, W_U' w_out, for tokens of the class and for all others. The two differ for each neuron,
because neurons were selected for that; the histograms show by how much, and whether the whole class or only a few of
its tokens move. The overlap is the area that the two share. All is computed from weights; we keep bin counts, not one
value per token. Effects assume a folded final norm (`processing="fold"`).

`protocol="paper"` names kinds as the authors' code does (see `find_neurons`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch

from mechicl.declared import Switch
from mechicl.figures import BLUE, GREY, VERMILION
from mechicl.mlp_neurons.token_classes import class_members, describe
from mechicl.models import blockwise
from mechicl.results import Result
from mechicl.studies.drawing import NO_PANEL, Drawing, Panel
from mechicl.studies.stages.voters import OfTokenClass, find_neurons
from mechicl.studies.study import Condition

_BINS = 60
_COLUMNS = 4
_COLOURS = {"prediction": BLUE, "suppression": VERMILION}


@dataclass(frozen=True)
class ClassLogits(OfTokenClass):
    """Histograms of what neurons add to the logits of a class and of all other tokens: a row per neuron and bin.

    Bins (left to right, in logits per unit of activation) have equal width between a neuron's smallest and largest
    value; `members` and `others` count the tokens of the class and the other tokens in each.
    """

    neurons: Annotated[int, Switch("Number of neurons of largest effect.", min=1)] = 36

    name = "class-logits"
    title = "What neurons add to the logits of a class"
    shows = "Histograms of what single neurons add to the logits of a class of tokens and of all others."
    source = "Stages of Inference, section 5.3 and appendix I"
    claim = "Single neurons promote, or suppress, the tokens that end in -ing against all others."
    reads = "weights"
    batch_size = None
    shared_options = {"processing": "fold"}

    @torch.no_grad()
    def measure(self, model: Any, prompts: None, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        net = blockwise(model, self.name)
        ranking = find_neurons(
            model, self.token_class, kurtosis=self.kurtosis, variance=self.variance, protocol=self.protocol
        )
        members = class_members(net.tokenizer, self.token_class, net.sizes.d_vocab).numpy()
        W_U, tables = net.W_U.float(), []
        for rank, one in enumerate(ranking.head(self.neurons).to_dict("records")):
            logits = (net.W_out(one["layer"])[one["neuron"]].float() @ W_U).cpu().numpy()
            edges = np.linspace(logits.min(), logits.max(), _BINS + 1, dtype=float)
            edges[[0, -1]] += [-1e-6, 1e-6]  # so that rounding leaves no token outside
            facts = {name: one[name] for name in ("layer", "neuron", "kind", "effect")}
            counts = {"members": np.histogram(logits[members], edges)[0]}
            counts["others"] = np.histogram(logits[~members], edges)[0]
            tables.append(pd.DataFrame({"rank": rank, **facts, "left": edges[:-1], "right": edges[1:], **counts}))
        return pd.concat(tables, ignore_index=True)

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Per neuron: model, metric, rank, layer, neuron, kind, mean, low, high, n (tokens of the class).

        Metrics: "effect", the mean over the class less that over all others, and "overlap", the area that both
        histograms share (1: identical). Weights are not a sample, so there is no interval.
        """
        rows = []
        by = ["model", "rank", "layer", "neuron", "kind", "effect"]
        for (*facts, effect), bins in table.groupby(by, sort=False):
            overlap = bins[["members", "others"]].pipe(lambda counts: counts / counts.sum()).min(axis=1).sum()
            n = int(bins["members"].sum())
            rows += [(*facts, "effect", effect, n), (*facts, "overlap", overlap, n)]
        return pd.DataFrame(rows, columns=[*by[:-1], "metric", "mean", "n"]).assign(low=np.nan, high=np.nan)

    def drawing(self, result: Result) -> Drawing:
        panels = [
            Panel(
                f"{layer}.{neuron}, {kind}",
                [_steps(bins, "others", GREY), _steps(bins, "members", _COLOURS[str(kind)])],
            )
            for (layer, neuron, kind), bins in result.table.groupby(["layer", "neuron", "kind"], sort=False)
        ]
        columns = min(_COLUMNS, len(panels))
        panels += [NO_PANEL] * (-len(panels) % columns)
        return Drawing(
            result.table, panels, x="left", x_title="", widths=(1.0,) * columns, height=130, hover="closest",
            common=True, about=f" ({describe(self.token_class)})", y_axis={"range": [0, 1.05], "dtick": 0.5},
            note="logits per unit of activation (W_U' w_out), each histogram on its own scale; largest effects first",
        )  # fmt: skip

    def finding(self, result: Result) -> str:
        summary = result.summary()
        overlap = summary[summary["metric"] == "overlap"]
        return (
            f"Of the {len(overlap)} neurons that move the class {describe(self.token_class)} most, the histogram of "
            f"the class overlaps that of all other tokens by {overlap['mean'].median():.0%} (median). Neurons were "
            "chosen for this, so it is no evidence by itself."
        )

    def details(self, result: Result) -> list[str]:
        summary = result.summary()
        overlap = summary[summary["metric"] == "overlap"]
        kinds = ", ".join(f"{n} {kind}" for kind, n in overlap["kind"].value_counts().items())
        first = overlap.iloc[0]
        return [
            f"Neurons: {kinds}. The class has {first['n']} tokens.",
            f"The neuron with the largest effect is {first['layer']}.{first['neuron']} (overlap {first['mean']:.0%}).",
        ]


def _steps(bins: pd.DataFrame, which: str, colour: str) -> go.Scatter:
    """A histogram's outline, its largest bin at 1."""
    share = bins[which] / max(1, bins[which].max())
    return go.Scatter(
        x=(bins["left"] + bins["right"]) / 2, y=share, customdata=bins[which], mode="lines", fill="tozeroy",
        line={"shape": "hvh", "color": colour, "width": 1},
        name={"members": f"the class ({bins['kind'].iloc[0]} neurons)", "others": "all other tokens"}[which],
        hovertemplate="%{x:.3f}: %{customdata} tokens",
    )  # fmt: skip
