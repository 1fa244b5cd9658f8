"""Benchmarks under lesions (section 4.1, Fig. 15, 16; layer repeat section 5.4, Fig. 24).

The paper scores models with a layer dropped or swapped on HellaSwag, ARC-Easy and LAMBADA, and with a window of layers
repeated on HellaSwag; repeats at 80 to 90 % of depth are said to help. It names no harness and no settings, so there is
no protocol "paper": ours is lm-evaluation-harness, its documents, requests and scores as they are, zero-shot.

The harness's requests are answered by the intact model and all lesions in one sweep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from mechicl.declared import Switch
from mechicl.engines.continuations import continuations
from mechicl.figures import BLUE, GREEN, GREY, INK, SKY, VERMILION, add_curve, panels
from mechicl.models import hooked
from mechicl.results import Result
from mechicl.studies.stages.drawing import titled, where
from mechicl.studies.stages.lesions import Lesions
from mechicl.studies.stages.sequences import weighted_summary
from mechicl.studies.study import Condition, Study
from mechicl.tasks.benchmarks import Answer, Benchmarks, Request

_COLOURS = {"drop": BLUE, "swap": VERMILION}
_METRICS = ("acc", "acc_norm")
_INTACT = -1
_Kind = Literal["drop", "swap", "repeat"]


@dataclass(frozen=True)
class LesionedBenchmarks(Study):
    """Scores of every document, for the intact model and every lesion: a row per lesion and document.

    `acc` is 1 where the answer was right, `acc_norm` by log-probability per byte; layer -1 is the intact model.
    """

    kinds: Annotated[tuple[_Kind, ...], Switch("What is done to each layer.")] = ("drop", "swap", "repeat")
    windows: Annotated[tuple[int, ...], Switch("Lengths of repeated windows.", min=1)] = (5,)
    prepend_bos: Annotated[bool, Switch("Put a BOS before every request, as the harness does for Llama.")] = False

    name = "benchmarks"
    title = "Benchmarks under lesions"
    shows = "HellaSwag, ARC-Easy and LAMBADA with layers dropped, swapped or repeated (extra lm-eval)."
    source = "Stages of Inference, section 4.1, Fig. 15 and 16; section 5.4, Fig. 24"
    claim = (
        "Dropping or swapping middle layers costs little accuracy; repeating windows of layers at 80-90 % of depth "
        "adds some."
    )
    reads = "benchmarks"
    no_paper_protocol = "the paper does not say how it scored"
    may_lack = ("acc_norm",)  # a task with one choice to judge has none

    def passes(self, n_layers: int) -> float:
        return 1 + len(Lesions(kinds=self.kinds, windows=self.windows).lesions(n_layers))

    def measure(self, model: Any, tasks: Benchmarks, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        chosen = Lesions(kinds=self.kinds, windows=self.windows).lesions(hooked(model).sizes.n_layers)
        lesions = [lesion for *_, lesion in chosen]
        found = continuations(model, tasks.requests, lesions, prepend_bos=self.prepend_bos, batch_size=batch_size)
        place = {request: i for i, request in enumerate(tasks.requests)}
        tables = []
        for row, (kind, layer) in enumerate([("intact", _INTACT), *((kind, layer) for kind, layer, _ in chosen)]):
            answers = list(zip(found.log_prob[row].tolist(), found.greedy[row].tolist(), strict=True))

            def answer(requests: Sequence[Request], answers: list[Answer] = answers) -> list[Answer]:
                return [answers[place[one]] for one in requests]

            tables.append(tasks.score(answer).assign(kind=kind, layer=layer))
        return pd.concat(tables, ignore_index=True)

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Accuracy: model, benchmark, kind, metric (acc, acc_norm), layer, mean, low, high, n (documents), seeds.

        Layer -1 is the intact model; a window stands at its first layer.
        """
        counted = table.assign(**{f"has_{metric}": table[metric].notna().astype(float) for metric in _METRICS})
        weights = {metric: f"has_{metric}" for metric in _METRICS}
        return weighted_summary(counted, weights, ["model", "benchmark", "kind"], "layer")

    def figure(self, result: Result) -> go.Figure:
        summary = result.summary()
        names = list(summary["benchmark"].unique())
        repeats = [kind for kind in summary["kind"].unique() if kind.startswith("repeat")]
        colours = _COLOURS | {kind: (SKY, INK, GREEN)[place % 3] for place, kind in enumerate(repeats)}
        figure = panels(names)
        for column, benchmark in enumerate(names, start=1):
            own = scores(summary, benchmark)
            for kind, rows in own[own["layer"] != _INTACT].groupby("kind", sort=False):
                name, colour = str(kind), colours[kind]
                add_curve(figure, rows, x="layer", name=name, colour=colour, legend=column == 1, column=column)
            intact = where(own, layer=_INTACT)["mean"].item()
            figure.add_hline(intact, line={"dash": "dot", "color": GREY}, row=1, col=column)
        figure.update_yaxes(range=[0, 1.02])
        documents = "; ".join(f"{name}: {int(scores(summary, name)['n'].max())} documents" for name in names)
        told = f"{documents}; dotted: intact; band: 95 % bootstrap interval over documents"
        return titled(figure, self, summary, told, y="accuracy")

    def finding(self, result: Result) -> str:
        summary = result.summary()
        parts = []
        for name in summary["benchmark"].unique():
            own = scores(summary, name)
            intact = where(own, kind="intact").iloc[0]
            told = [f"intact {intact['mean']:.1%}{_interval(intact)}"]
            for kind, rows in own[own["kind"] != "intact"].groupby("kind", sort=False):
                ordered = rows.sort_values("mean", kind="stable")
                worst, best = ordered.iloc[0], ordered.iloc[-1]
                told.append(
                    f"{kind} from {worst['mean']:.1%} (layer {worst['layer']:.0f}) to {best['mean']:.1%} "
                    f"(layer {best['layer']:.0f})"
                )
            parts.append(f"{name}: {', '.join(told)}")
        return "; ".join(parts) + "."


def scores(summary: pd.DataFrame, benchmark: str) -> pd.DataFrame:
    """One benchmark's accuracies: normalised by length where the harness does so (HellaSwag), else as they are."""
    own = where(summary, benchmark=benchmark)
    normalised = where(own, metric="acc_norm")
    return normalised if len(normalised) and benchmark == "hellaswag" else where(own, metric="acc")


def _interval(row: pd.Series[Any]) -> str:
    return f" [{row['low']:.1%}, {row['high']:.1%}]" if np.isfinite(row["low"]) else ""
