"""Benchmarks under ablations (section 4.1, Fig. 15, 16; layer repeat section 5.4, Fig. 24).

The paper scores models with a layer dropped or swapped on HellaSwag, ARC-Easy and LAMBADA, and with a window of layers
repeated on HellaSwag; it says that repeats at 80 to 90 % of depth help. It names no harness and no settings, so there
is no protocol "paper": we use lm-evaluation-harness, its documents, requests and scores unchanged, zero-shot.

One sweep answers the harness's requests for the clean model and all ablations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd

from mechicl.claims import Claim, Evidence
from mechicl.declared import Switch
from mechicl.engines.continuations import continuations
from mechicl.figures import BLUE, GREEN, GREY, INK, SKY, VERMILION
from mechicl.models import hooked
from mechicl.results import Result
from mechicl.studies.drawing import Curve, Drawing, Level, Panel, where
from mechicl.studies.stages.lesion_claims import length, middle
from mechicl.studies.stages.lesions import Lesions
from mechicl.studies.stages.sequences import weighted_summary
from mechicl.studies.study import Condition, Study
from mechicl.studies.summary import extreme_in_words
from mechicl.tasks.benchmarks import Answer, Benchmarks, Request

_SOURCE = "Stages of Inference, section 4.1, Fig. 15 and 16"
KEPT = Claim(
    "benchmarks-robust-middle", "Dropping a middle layer costs less accuracy on benchmarks than dropping layer 0.",
    _SOURCE, "accuracy with a middle layer dropped", "of documents", "accuracy with layer 0 dropped", 0.05,
)  # fmt: skip
HELPED = Claim(
    "benchmarks-late-repeats", "Repeating a window of layers at 80 to 90 % of depth raises accuracy on benchmarks.",
    "Stages of Inference, section 5.4, Fig. 24", "accuracy with such a window repeated", "of documents",
    "accuracy of the clean model", 0.01,
)  # fmt: skip
_HELPFUL = (0.8, 0.9)
"""Relative depths of the middle of a repeated window."""
_METRICS = ("acc", "acc_norm")
_NORMALISED = ("hellaswag",)
"""Benchmarks whose accuracy is that by log-probability per byte."""
_CLEAN = -1
_Kind = Literal["drop", "swap", "repeat"]


@dataclass(frozen=True)
class LesionedBenchmarks(Study):
    """Scores of every document, for the clean model and every ablation: a row per ablation and document.

    `acc` is 1 if the answer is right, `acc_norm` the same by log-probability per byte; layer -1 is the clean model.
    """

    kinds: Annotated[tuple[_Kind, ...], Switch("Ablations of each layer.")] = ("drop", "swap", "repeat")
    windows: Annotated[tuple[int, ...], Switch("Lengths of repeated windows.", min=1)] = (5,)
    prepend_bos: Annotated[bool, Switch("Prepend a BOS to every request, as the harness does for Llama.")] = False

    name = "benchmarks"
    title = "Benchmarks under layer ablation"
    shows = "HellaSwag, ARC-Easy and LAMBADA with layers dropped, swapped or repeated (extra lm-eval)."
    source = "Stages of Inference, section 4.1, Fig. 15 and 16; section 5.4, Fig. 24"
    claim = (
        "Dropping or swapping middle layers costs little accuracy; repeating windows of layers at 80-90 % of depth "
        "adds some."
    )
    claims = (KEPT, HELPED)
    reads = "benchmarks"
    no_paper_protocol = "the paper does not say how it scored"
    may_lack = ("acc_norm",)  # undefined for a task with a single choice
    sweeps = True

    def passes(self, n_layers: int) -> float:
        return self._ablations.passes(n_layers)

    @property
    def _ablations(self) -> Lesions:
        return Lesions(kinds=self.kinds, windows=self.windows, positions=("all",))

    def measure(self, model: Any, tasks: Benchmarks, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        chosen = self._ablations.lesions(hooked(model).sizes.n_layers)
        lesions, requests = [lesion for *_, lesion in chosen], tasks.requests
        scores = continuations(model, requests, lesions, prepend_bos=self.prepend_bos, batch_size=batch_size)
        tables = []
        for row, (kind, layer) in enumerate([("clean", _CLEAN), *((kind, layer) for kind, layer, _ in chosen)]):
            pairs = zip(scores.log_prob[row].tolist(), scores.greedy[row].tolist(), strict=True)
            answers: dict[Request, Answer] = dict(zip(requests, pairs, strict=True))
            table = tasks.score(lambda some, answers=answers: [answers[one] for one in some])  # type: ignore[misc]
            tables.append(table.assign(kind=kind, layer=layer))
        return pd.concat(tables, ignore_index=True)

    def evidence(self, claim: Claim, table: pd.DataFrame) -> Evidence:
        right = _by_document(_renamed(table))
        places = [(str(place[0]), int(place[1])) for place in right.columns.to_flat_index()]
        n_layers = 1 + max(layer + length(kind) - 1 for kind, layer in places)
        if claim is KEPT:
            if ("drop", 0) not in places or n_layers < 3:
                return Evidence.nothing("This claim needs layers dropped, in a model of three layers or more.")
            dropped = right[[("drop", layer) for layer in middle(n_layers)]]
            return _evidence(dropped.mean(axis=1), right["drop", 0], _told(dropped, right["clean", _CLEAN]))
        if not any(kind.startswith("repeat") for kind, _ in places):
            return Evidence.nothing("Not measured: this claim needs repeat among the kinds of ablation.")
        windows = [
            (kind, layer) for kind, layer in places
            if kind.startswith("repeat") and _at_depth(layer + (length(kind) - 1) / 2, n_layers)
        ]  # fmt: skip
        if not windows:
            return Evidence.nothing(
                "No repeated window has its middle at 80 to 90 % of depth; repeat others (windows)."
            )
        named = ", ".join(f"layers {layer}-{layer + length(kind) - 1}" for kind, layer in windows)
        return _evidence(right[windows].mean(axis=1), right["clean", _CLEAN], f"Repeated: {named}.")

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Accuracy: model, benchmark, kind, metric (acc, acc_norm), layer, mean, low, high, n (documents), seeds.

        Layer -1 is the clean model; a window is listed at its first layer.
        """
        weights = {metric: f"has_{metric}" for metric in _METRICS}
        table = _renamed(table)
        counted = table.assign(**{has: table[metric].notna().astype(float) for metric, has in weights.items()})
        return weighted_summary(counted, weights, ["model", "benchmark", "kind"])

    def drawing(self, result: Result) -> Drawing:
        summary = result.summary()
        repeats = [kind for kind in summary["kind"].unique() if kind.startswith("repeat")]
        colours = {"drop": BLUE, "swap": VERMILION}
        colours |= {kind: (SKY, INK, GREEN)[place % 3] for place, kind in enumerate(repeats)}
        panels, documents = [], []
        for benchmark in summary["benchmark"].unique():
            rows = scores(summary, benchmark)
            facts = {"benchmark": benchmark}
            curves = [
                Curve(rows["metric"].iloc[0], kind, colours[kind], where=facts | {"kind": kind})
                for kind in rows["kind"].unique()
                if kind != "clean"
            ]
            panels.append(Panel(benchmark, [*curves, Level(where(rows, kind="clean")["mean"].item(), GREY)]))
            documents.append(f"{benchmark}: {int(rows['n'].max())} documents")
        return Drawing(
            summary, panels, y_title="accuracy", common=True, y_axis={"range": [0, 1.02]},
            note=f"{'; '.join(documents)}; dotted: clean model; band: 95 % interval over documents",
        )  # fmt: skip

    def details(self, result: Result) -> list[str]:
        summary, parts = result.summary(), super().details(result)
        for name in summary["benchmark"].unique():
            rows = scores(summary, name)
            clean, metric = where(rows, kind="clean")["mean"].item(), rows["metric"].iloc[0]
            answers = where(_renamed(result.table), benchmark=name).dropna(subset=metric)
            told = [f"{name}: clean {clean:.1%}"]
            for kind, of_kind in answers[answers["kind"] != "clean"].groupby("kind", sort=False):
                right = of_kind.pivot_table(index=["model", "prompt"], columns="layer", values=metric)
                low, high = (
                    extreme_in_words(
                        right.to_numpy(float), [int(layer) for layer in right.columns], lowest=lowest, spec=".1%"
                    )
                    for lowest in (True, False)
                )
                told.append(f"{kind}: {low}" if low == high else f"{kind}: lowest {low}, highest {high}")
            parts.append(f"{'; '.join(told)}.")
        return parts


def _renamed(table: pd.DataFrame) -> pd.DataFrame:
    """Version 0.1 called the clean model intact."""
    return table.replace({"kind": {"intact": "clean"}})


def _by_document(table: pd.DataFrame) -> pd.DataFrame:
    """Whether each document is answered correctly: a row per benchmark and document, a column per kind and layer."""
    normalised = table["benchmark"].isin(_NORMALISED) & table["acc_norm"].notna()
    rows = table.assign(right=table["acc"].where(~normalised, table["acc_norm"]))
    return rows.pivot_table(index=["benchmark", "prompt"], columns=["kind", "layer"], values="right")


def _at_depth(layer: float, n_layers: int) -> bool:
    low, high = _HELPFUL
    return low <= layer / max(1, n_layers - 1) <= high


def _evidence(values: pd.Series[float], null: pd.Series[float], note: str) -> Evidence:
    """Per document; documents are what was sampled, and all count the same."""
    documents = np.arange(len(values))
    return Evidence(values.to_numpy(float), null.to_numpy(float), documents, "questions", note=note)


def _told(dropped: pd.DataFrame, clean: pd.Series[float]) -> str:
    """The worst of the dropped layers, next to the clean model."""
    of_layer = dropped.droplevel(0, axis=1)
    lowest = extreme_in_words(of_layer.to_numpy(float), list(map(int, of_layer.columns)), lowest=True, spec=".1%")
    return f"Clean accuracy is {clean.mean():.1%}; with a middle layer dropped it is lowest {lowest}."


def scores(summary: pd.DataFrame, benchmark: str) -> pd.DataFrame:
    """One benchmark's accuracies, normalised by length where that is customary."""
    rows = where(summary, benchmark=benchmark)
    normalised = where(rows, metric="acc_norm")
    return normalised if len(normalised) and benchmark in _NORMALISED else where(rows, metric="acc")
