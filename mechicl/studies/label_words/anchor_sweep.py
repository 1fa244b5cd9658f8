"""Which tokens are anchors, and in which layers (beyond the paper; after section 2.2 and Bai et al. 2024).

The paper isolates label words in the first or last five layers at once. Here every single layer, and every window of
layers, is isolated on its own; and not only label words, but as many tokens of other kinds: the template's token right
before each label word (":" in the paper's templates), the one right behind it (the line break), and a random token of
each demonstration's text. Where a kind of token gathers what the prediction needs, isolating it there changes the
prediction. Loyalty is agreement with the whole model, as in section 2.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import pandas as pd
import plotly.graph_objects as go

from mechicl.declared import Switch
from mechicl.engines.prefix import run_shared
from mechicl.errors import InputError
from mechicl.figures import GREY, LABEL_COLOUR, PURPLE, SKY, add_curve, panels
from mechicl.hooks import Patch
from mechicl.models import hooked
from mechicl.patches.cut_edges import Mode
from mechicl.patches.isolate import IsolateLabels, IsolateRandom, IsolateTemplate
from mechicl.prompts import PromptSet
from mechicl.results import Result
from mechicl.studies.label_words.loyalty import TITLES, prediction_rows, top_tokens, with_loyalty
from mechicl.studies.study import Condition, Study
from mechicl.studies.summary import BAND, by_metric, mean_with_interval

_METRICS = ("label_loyalty", "word_loyalty_5")
_KINDS = ("label words", "before the label", "behind the label", "random text")
_COLOURS = dict(zip(_KINDS, (LABEL_COLOUR, PURPLE, SKY, GREY), strict=True))


@dataclass(frozen=True)
class AnchorSweep(Study):
    """A row per prompt, isolated kind of token and window of layers: the prediction.

    Gold and predicted class, label probabilities, and top-10 token ids.
    """

    windows: Annotated[tuple[int, ...], Switch("Numbers of neighbouring layers isolated together.", min=1)] = (1,)
    mode: Annotated[
        Mode, Switch("How attention is cut: presoftmax (the authors' code), postsoftmax_zero or postsoftmax_renorm.")
    ] = "presoftmax"
    random_seed: Annotated[int, Switch("Seed of the random text tokens.", min=0)] = 0

    name = "anchor-sweep"
    title = "Which tokens are anchors, in which layers"
    shows = "Isolation of label words and of other tokens, in every layer or window of layers."
    source = "beyond Label Words are Anchors, section 2.2"
    claim = "Label words, not other tokens, gather the demonstrations' information, and they do so in shallow layers."
    no_paper_protocol = "the paper has no such sweep"
    shared_options = {"demonstrations": None}

    def conditions(self, model: Any) -> list[Condition]:
        layers = hooked(model).sizes.n_layers
        if max(self.windows) > layers:
            raise InputError(f"windows is {self.windows}; this model has {layers} layers, choose among 1 to {layers}.")
        return [
            {"isolated": "nothing", "window": 0, "layer": 0},
            *(
                {"isolated": kind, "window": width, "layer": first}
                for width in self.windows
                for kind in _KINDS
                for first in range(layers - width + 1)
            ),
        ]

    def passes(self, n_layers: int) -> float:
        windows = sum(n_layers - width + 1 for width in self.windows)
        return (1 + windows * len(_KINDS)) / 3  # demonstrations are read once for many queries

    def measure(self, model: Any, prompts: PromptSet, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        top = top_tokens(model)
        patch = self.patch(condition)
        seen = run_shared(model, prompts, [top], [patch] if patch else [], batch_size=batch_size, progress=None)
        return prediction_rows(prompts, seen, top)

    def patch(self, condition: Condition) -> Patch | None:
        """The isolation of one condition, or None for the whole model."""
        layers = range(condition["layer"], condition["layer"] + condition["window"])
        if condition["isolated"] == "nothing":
            return None
        if condition["isolated"] == "label words":
            return IsolateLabels(layers, mode=self.mode)
        if condition["isolated"] == "random text":
            return IsolateRandom(layers, mode=self.mode, seed=self.random_seed, pool="demo_text", resample="per_seed")
        before = condition["isolated"] == "before the label"
        return IsolateTemplate(layers, mode=self.mode, which="before_label" if before else "after_label")

    def loyalty(self, table: pd.DataFrame) -> pd.DataFrame:
        """Rows of the isolated conditions with their agreement with the whole model, between 0 and 1."""
        nothing = table["isolated"] == "nothing"
        return with_loyalty(table[~nothing], table[nothing])

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Mean loyalty: model, task, shots, metric, isolated, window, layer (its first), mean, low, high, n, seeds."""
        place = ["isolated", "window", "layer"]
        rows = by_metric(self.loyalty(table), _METRICS, place)
        return mean_with_interval(rows, "value", ["model", "task", "shots", "metric", *place])

    def figure(self, result: Result) -> go.Figure:
        summary = result.summary()
        shown = [(metric, width) for width in self.windows for metric in _METRICS]
        figure = panels([f"{TITLES[m]}, {_layers(width)}" for m, width in shown])
        for column, (metric, width) in enumerate(shown, start=1):
            for kind, colour in _COLOURS.items():
                rows = summary[
                    (summary["metric"] == metric) & (summary["window"] == width) & (summary["isolated"] == kind)
                ]
                mean = rows.groupby("layer", as_index=False)[["mean", "low", "high"]].mean()
                add_curve(figure, mean, x="layer", name=kind, colour=colour, legend=column == 1, column=column)
        figure.update_yaxes(range=[0, 1.02])
        return self.styled(
            figure, summary, f"mean of tasks; {BAND}",
            x="first isolated layer", y="agreement with the whole model", counts=int(summary["layer"].max()),
        )  # fmt: skip

    def finding(self, result: Result) -> str:
        summary = result.summary()
        chosen = (summary["metric"] == "word_loyalty_5") & (summary["window"] == self.windows[0])
        mean = summary[chosen].groupby(["isolated", "layer"])["mean"].mean()
        parts = [f"{kind} {mean[kind].min():.0%} (layer {mean[kind].idxmin()})" for kind in _KINDS]
        return f"Lowest word loyalty (k = 5) with {_layers(self.windows[0])} isolated: {', '.join(parts)}."


def _layers(width: int) -> str:
    return "single layers" if width == 1 else f"windows of {width} layers"
