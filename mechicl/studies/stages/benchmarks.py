"""Benchmarks under lesions (section 4.1, Fig. 15, 16; layer repeat section 5.4, Fig. 24).

The paper scores models with a layer dropped or swapped on HellaSwag, ARC-Easy and LAMBADA, and with a window of layers
repeated on HellaSwag; repeats at 80 to 90 % of depth are said to help. It names no harness and no settings, so there is
no protocol "paper": ours is lm-evaluation-harness, its documents, requests and scores as they are, zero-shot.

The harness's requests are answered by the intact model and all lesions in one sweep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from mechicl.declared import Reads, Switch
from mechicl.engines.continuations import continuations
from mechicl.figures import BLUE, GREEN, GREY, INK, SKY, VERMILION, add_curve, panels, styled
from mechicl.models import hooked
from mechicl.results import Result
from mechicl.studies.stages.lesions import Lesions
from mechicl.studies.study import Condition, Study
from mechicl.studies.summary import mean_with_interval
from mechicl.tasks.benchmarks import Answer, Benchmarks, Request

_COLOURS = {"drop": BLUE, "swap": VERMILION}
_INTACT = -1


@dataclass(frozen=True)
class LesionedBenchmarks(Study):
    """Scores of every document, for the intact model and every lesion."""

    kinds: Annotated[tuple[Literal["drop", "swap", "repeat"], ...], Switch("What is done to each layer.")] = (
        "drop", "swap", "repeat"
    )  # fmt: skip
    windows: Annotated[tuple[int, ...], Switch("Lengths of repeated windows.", min=1)] = (5,)
    """Lengths of repeated windows."""
    prepend_bos: Annotated[bool, Switch("Put a BOS before every request, as the harness does for Llama.")] = False
    """Put a BOS before every request (the harness does so where a model's tokenizer does, as Llama's)."""

    name: ClassVar[str] = "benchmarks"
    title: ClassVar[str] = "Benchmarks under lesions"
    source: ClassVar[str] = "Stages of Inference, section 4.1, Fig. 15 and 16; section 5.4, Fig. 24"
    claim: ClassVar[str] = (
        "Dropping or swapping middle layers costs little accuracy; repeating windows of layers at 80-90 % of depth "
        "adds some."
    )
    reads: ClassVar[Reads] = "benchmarks"
    no_paper_protocol: ClassVar[str] = "the paper does not say how it scored"
    may_lack: ClassVar[tuple[str, ...]] = ("acc_norm",)  # a task with one choice to judge has none

    def passes(self, n_layers: int) -> float:
        return 1 + len(Lesions(kinds=self.kinds, windows=self.windows).lesions(n_layers))

    def measure(self, model: Any, tasks: Benchmarks, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        chosen = Lesions(kinds=self.kinds, windows=self.windows).lesions(hooked(model).sizes.n_layers)
        found = continuations(
            model, tasks.requests, [lesion for *_, lesion in chosen], prepend_bos=self.prepend_bos,
            batch_size=batch_size,
        )  # fmt: skip
        place = {request: i for i, request in enumerate(tasks.requests)}
        tables = []
        for row, (kind, layer) in enumerate([("intact", _INTACT), *((kind, layer) for kind, layer, _ in chosen)]):
            log_prob, greedy = found.log_prob[row].tolist(), found.greedy[row].tolist()

            def answer(
                requests: Sequence[Request], log_prob: list[float] = log_prob, greedy: list[bool] = greedy
            ) -> list[Answer]:
                return [(log_prob[place[one]], greedy[place[one]]) for one in requests]

            tables.append(tasks.score(answer).assign(kind=kind, layer=layer))
        return pd.concat(tables, ignore_index=True)

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Accuracy: model, benchmark, kind, metric (acc, acc_norm), layer, mean, low, high, n (documents), seeds.

        Layer -1 is the intact model; a window stands at its first layer.
        """
        by = ["model", "benchmark", "kind", "metric", "layer"]
        parts = [
            mean_with_interval(rows.assign(metric=metric, value=rows[metric]), "value", by)
            for metric in ("acc", "acc_norm")
            if len(rows := table[table[metric].notna()])
        ]
        return pd.concat(parts, ignore_index=True)

    def figure(self, result: Result) -> go.Figure:
        summary = result.summary()
        names = list(summary["benchmark"].unique())
        repeats = [kind for kind in summary["kind"].unique() if kind.startswith("repeat")]
        colours = _COLOURS | {kind: (SKY, INK, GREEN)[place % 3] for place, kind in enumerate(repeats)}
        figure = panels(names)
        for column, name in enumerate(names, start=1):
            own = scores(summary, name)
            for kind in [kind for kind in own["kind"].unique() if kind != "intact"]:
                add_curve(
                    figure, own[own["kind"] == kind], x="layer", name=kind, legend=column == 1, column=column,
                    colour=colours[kind],
                )  # fmt: skip
            intact = own[own["kind"] == "intact"]["mean"].item()
            figure.add_hline(intact, line={"dash": "dot", "color": GREY}, row=1, col=column)
        figure.update_yaxes(range=[0, 1.02])
        documents = "; ".join(f"{name}: {int(scores(summary, name)['n'].max())} documents" for name in names)
        return styled(
            figure, title=f"{self.title}: {', '.join(summary['model'].unique())}",
            subtitle=f"{documents}; dotted: intact; band: 95 % bootstrap interval over documents",
            x="layer", y="accuracy", counts=int(summary["layer"].max()),
        )  # fmt: skip

    def finding(self, result: Result) -> str:
        summary = result.summary()
        parts = []
        for name in summary["benchmark"].unique():
            own = scores(summary, name)
            intact = own[own["kind"] == "intact"].iloc[0]
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
    own = summary[summary["benchmark"] == benchmark]
    normalised = own[own["metric"] == "acc_norm"]
    return normalised if len(normalised) and benchmark == "hellaswag" else own[own["metric"] == "acc"]


def _interval(row: pd.Series[Any]) -> str:
    return f" [{row['low']:.1%}, {row['high']:.1%}]" if np.isfinite(row["low"]) else ""
