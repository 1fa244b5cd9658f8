"""Which tokens are anchors, in which layers (beyond the paper; after section 2.2 and Bai et al. 2024).

The paper isolates label words in the first or last five layers at once. We isolate them in each single layer, and in
each window of layers. We also isolate the same number of other tokens: the template's token right before each label
word (":" in the paper's templates), the one right after it (the line break), and a random token of each demonstration's
text. If a kind of token gathers what the prediction needs in some layer, isolating it there changes the prediction.
Loyalty is agreement with the clean run, as in section 2.2.

Position 0 is not an anchor but a sink, which takes attention that has nowhere else to go. Any isolated token loses this
edge along with all others, so the claim compares label words with random text, which loses it, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import pandas as pd

from mechicl.claims import Claim, Evidence
from mechicl.declared import Switch
from mechicl.engines.rising import run_each
from mechicl.errors import InputError
from mechicl.figures import GREY, LABEL_COLOUR, PURPLE, SKY
from mechicl.hooks import Patch
from mechicl.models import hooked
from mechicl.patches.isolate import IsolateLabels, IsolateRandom, IsolateTemplate
from mechicl.prompts import PromptSet
from mechicl.results import Result
from mechicl.studies.drawing import Curve, Drawing, Panel, where
from mechicl.studies.label_words.predictions import TITLES, CutMode, PredictionStudy, by_prompt, paired
from mechicl.studies.study import Condition
from mechicl.studies.summary import bands

_COLOURS = {"label words": LABEL_COLOUR, "before the label": PURPLE, "behind the label": SKY, "random text": GREY}
"""Kinds of tokens."""
_CLAIM = Claim(
    "anchor-sweep", "Label words gather the demonstrations' information in shallow layers.",
    "beyond Label Words are Anchors, section 2.2",
    "word loyalty (k = 5) lost to isolation in the first third of the layers, minus that in the last third",
    "word loyalty", "the same number of random text tokens", 0.05,
)  # fmt: skip


@dataclass(frozen=True)
class AnchorSweep(PredictionStudy):
    """A row per prompt, isolated kind of token and window of layers: the prediction.

    Gold and predicted class, label probabilities, and top-10 token ids.
    """

    windows: Annotated[tuple[int, ...], Switch("Numbers of consecutive layers isolated together.", min=1)] = (1,)
    mode: CutMode = "presoftmax"
    random_seed: Annotated[int, Switch("Seed of the random text tokens.", min=0)] = 0

    name = "anchor-sweep"
    title = "Which tokens are anchors, in which layers"
    shows = "Isolation of label words and of other tokens, in every layer or window of layers."
    source = "beyond Label Words are Anchors, section 2.2"
    claim = "Do label words, and not other tokens, gather the demonstrations' information, and in which layers?"
    claims = (_CLAIM,)
    no_paper_protocol = "the paper has no such sweep"
    shared_options = {"demonstrations": None, "samples": 32}
    axes = ("isolated", "window", "layer")

    def conditions(self, model: Any) -> list[Condition]:
        layers = hooked(model).sizes.n_layers
        if max(self.windows) > layers:
            raise InputError(f"windows is {self.windows}; this model has {layers} layers, choose from 1 to {layers}.")
        return [
            {"isolated": "nothing", "window": 0, "layer": 0},
            *(
                {"isolated": kind, "window": width, "layer": first}
                for width in self.windows
                for first in range(layers - width + 1)
                for kind in _COLOURS
            ),
        ]

    def passes(self, n_layers: int) -> float:
        windows = sum(n_layers - width + 1 for width in self.windows)
        # the demonstrations are read once per condition, and layers below run once
        return (1 + windows * len(_COLOURS)) / 5

    def measure_all(
        self, model: Any, prompts: PromptSet, conditions: Sequence[Condition], *, batch_size: int
    ) -> Iterator[pd.DataFrame]:
        top, patches = self.top(model), [self.patches(model, prompts, one) for one in conditions]
        for run in run_each(model, prompts, [top], patches, batch_size=batch_size):
            yield self.rows(prompts, [run], top)

    def patches(self, model: Any, prompts: PromptSet, condition: Condition) -> list[Patch]:
        kind, layers = condition["isolated"], range(condition["layer"], condition["layer"] + condition["window"])
        if kind == "nothing":
            return []
        if kind == "label words":
            return [IsolateLabels(layers, mode=self.mode)]
        if kind == "random text":
            return [IsolateRandom(layers, mode=self.mode, seed=self.random_seed, pool="demo_text", resample="per_seed")]
        before = kind == "before the label"
        return [IsolateTemplate(layers, mode=self.mode, which="before_label" if before else "after_label")]

    def evidence(self, claim: Claim, table: pd.DataFrame) -> Evidence:
        """Paired by prompt, for the first window width.

        The last layers, too, are compared with random tokens: isolation there can change less by construction.
        """
        rows = where(self.loyalty(table), window=self.windows[0])
        loyalty = by_prompt(rows, "word_loyalty_5", ["isolated", "layer"])
        width, starts = self.windows[0], rows["layer"].nunique()
        third = max(1, starts // 3)
        if third - 1 + width > starts - third:
            return Evidence.nothing(f"Windows of {width} layers at either end overlap; use narrower ones (windows).")

        def more_in_shallow(kind: str) -> pd.Series[float]:
            by_layer = pd.DataFrame(loyalty[kind]).sort_index(axis=1)
            shallow, deep = by_layer.iloc[:, :third].mean(axis=1), by_layer.iloc[:, -third:].mean(axis=1)
            return deep - shallow

        return paired(claim, more_in_shallow("label words"), more_in_shallow("random text"))

    def drawing(self, result: Result) -> Drawing:
        """A panel per window width and loyalty; `layer` is the first isolated one."""
        means = self.over_tasks(result.table)
        panels = [
            Panel(
                f"{TITLES[metric]}, {_layers(width)}",
                [Curve(metric, kind, colour, where={"window": width, "isolated": kind})
                 for kind, colour in _COLOURS.items()],
            )
            for width in self.windows for metric in self.metrics
        ]  # fmt: skip
        note = f"mean of tasks; isolated tokens lose position 0, too; {bands(means)}"
        return Drawing(
            means, panels, x_title="first isolated layer", y_title="agreement with the clean run", note=note,
            common=True, y_axis={"range": [0, 1.02]},
        )  # fmt: skip


def _layers(width: int) -> str:
    return "single layers" if width == 1 else f"windows of {width} layers"
