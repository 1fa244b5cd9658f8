"""Error diagnosis: near anchors are confused classes (section 3.3, Fig. 6, appendices J and K, Fig. 14).

Attention from q to a label word depends on the product of q's query vector and the label word's key. Where the keys of
two classes lie close together along the directions in which queries vary, attention cannot tell them apart. Queries of
many prompts give the directions (the first M principal components); each anchor key is written in these components,
each scaled by the queries' deviation along it; distances between the classes, divided by the largest, are the predicted
confusion. The real confusion of two classes is the AUROC with which their scores separate their own items.

The authors' code takes layer 32 of GPT2-XL's 48, the keys of a single context, and the scores of all items behind that
context (`protocol="paper"`; here the layer at two thirds of the depth unless one is given). `"corrected"` averages
distances over all contexts and takes the scores behind those contexts. The paper shows two heat maps; here their rank
correlation over pairs of classes is measured in every layer, with a test that permutes the classes. The summary's
interval is the spread over contexts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from mechicl.engines.context import Context, read_context
from mechicl.engines.prefix import run_shared, shared_demonstrations
from mechicl.errors import InputError
from mechicl.figures import panels, styled
from mechicl.metrics import confusion_correlation, real_confusion, scaled_keys
from mechicl.models import Sizes, hooked
from mechicl.probes.target_query import TargetQuery
from mechicl.prompts import PromptSet
from mechicl.results import Result
from mechicl.studies.label_words.pairs import (
    PAIR,
    add_correlations,
    add_heat_map,
    pair_matrix,
    pair_name,
    pair_rows,
    spread_over_contexts,
)
from mechicl.studies.study import Condition, Material, Protocol, Study
from mechicl.studies.work import Work
from mechicl.tasks import Counts, Task

REAL = -1
"""Layer of the rows that hold the real confusion."""


@dataclass(frozen=True)
class ErrorDiagnosis(Study):
    """Distances between anchor keys, and the confusion of their classes."""

    components: tuple[int, ...] = (5, 10, 20, 50, 100, 200)
    layer: int | None = None
    contexts: int = 64

    name: ClassVar[str] = "error-diagnosis"
    title: ClassVar[str] = "Near anchors, confused classes"
    source: ClassVar[str] = "Label Words are Anchors, section 3.3, Fig. 6 and 14"
    may_lack: ClassVar[tuple[str, ...]] = ("value",)  # the confusion with a class that no item has
    claim: ClassVar[str] = (
        "Classes whose label words have keys close together are the ones that the model confuses: on TREC, Description "
        "and Entity most of all."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.components or min(self.components) < 1 or self.contexts < 1:
            raise InputError("Error diagnosis needs numbers of components and of contexts of 1 or more.")

    def prompts(
        self,
        task: Task,
        tokenizer: Any,
        *,
        seed: int = 42,
        samples: int | None = None,
        shots: Counts = 1,
        mislabelled: Counts = 0,
        demonstrations: str = "per_seed",
        **options: Any,
    ) -> PromptSet:
        """All items behind one context (one demonstration of every class, in class order), and each behind its own.

        `options` are those of `task.prompts`. Where the data cannot fill `contexts`, there are half as many, and so on.
        """
        if (shots, mislabelled, demonstrations) != (1, 0, "per_seed"):
            raise InputError(
                "Error diagnosis has one demonstration of every class, the same in a context; use shots=1, and right "
                "labels."
            )
        asked = task.prompts(tokenizer, seed=seed, samples=samples, order="class", **options)
        rows = sorted(prompt.ids.query for prompt in asked if prompt.ids.query is not None)
        contexts = self.contexts
        while True:
            try:
                behind = task.context_prompts(tokenizer, contexts=contexts, seed=seed, rows=rows, **options)
            except InputError:
                if contexts == 1:
                    raise
                contexts //= 2
                continue
            return replace(asked, companions={"contexts": behind})

    def work(self, sizes: Sizes, material: Material) -> Work:
        return Work(shared=1.5)

    def measure(self, model: Any, prompts: PromptSet, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        behind = prompts.companions.get("contexts")
        if behind is None or len(prompts.label_ids) < 3:
            raise InputError(
                "Error diagnosis compares pairs of three or more classes in many contexts; give a task of three "
                "classes or more (in Python, make its prompts by ErrorDiagnosis().prompts(task, ...))."
            )
        probe = TargetQuery()
        seen = run_shared(model, behind, [probe], batch_size=batch_size)
        judged = seen.label_logits, behind.gold
        if self.protocol == "paper":
            judged = run_shared(model, prompts, batch_size=batch_size).label_logits, prompts.gold
        keys = torch.stack([_anchor_keys(model, context) for context in self._contexts(model, behind)])
        distances = self._distances(seen[probe], keys)
        names, real = behind.class_names, real_confusion(*judged)
        between = real[~torch.eye(len(real), dtype=torch.bool)]
        known = between[between.isfinite()]
        if not len(known) or known.min() == known.max():
            raise InputError(
                f"There is nothing to diagnose: this model confuses all pairs of {prompts.task}'s classes alike; take "
                "more prompts, or a model that makes errors."
            )
        rows = [pair_rows(real, names, context=0, layer=REAL, components=0)]
        rows += [pair_rows(matrix, names, **place) for place, matrix in distances]
        return pd.concat(rows, ignore_index=True)

    def _contexts(self, model: Any, prompts: PromptSet) -> Iterator[Context]:
        for indices in shared_demonstrations(prompts)[: 1 if self.protocol == "paper" else None]:
            yield read_context(model, prompts[indices[0]])

    def _distances(
        self, queries: Float[Tensor, "prompt layer d"], keys: Float[Tensor, "context layer class_ d"]
    ) -> Iterator[tuple[dict[str, int], Float[Tensor, "class_ class_"]]]:
        """Distances between classes in every layer, for every number of components, in every context."""
        most = min(len(queries) - 1, queries.shape[-1])
        numbers = [m for m in self.components if m <= most]
        if not numbers:
            raise InputError(f"{len(queries)} prompts allow {most} components at most; use more prompts or fewer.")
        for layer in range(queries.shape[1]):
            # One decomposition for all contexts; fewer components are the first columns of more.
            scaled = scaled_keys(queries[:, layer], keys[:, layer].flatten(0, 1), max(numbers))
            for context, of_context in enumerate(scaled.reshape(keys.shape[0], keys.shape[2], -1)):
                for m in numbers:
                    kept = of_context[:, :m]
                    distance = torch.cdist(kept, kept, compute_mode="donot_use_mm_for_euclid_dist")
                    yield {"context": context, "layer": layer, "components": m}, distance

    def shown(self, table: pd.DataFrame) -> tuple[int, int]:
        """Layer and number of components of the heat map: the given layer or two thirds of the depth, and M = 10."""
        layers = int(table["layer"].max()) + 1
        numbers = sorted(set(table["components"]) - {0})
        layer = layers * 2 // 3 if self.layer is None else self.layer
        if layer >= layers:
            raise InputError(f"layer is {layer}; this model has layers 0-{layers - 1}.")
        return layer, min(numbers, key=lambda m: abs(m - 10))

    def confusion(self, table: pd.DataFrame, layer: int, components: int) -> pd.DataFrame:
        """Predicted confusion of every pair, distances averaged over contexts and divided by the largest."""
        rows = table[(table["layer"] == layer) & (table["components"] == components)]
        mean = rows.groupby(PAIR, sort=False)["value"].mean()
        return pair_matrix(mean / mean.max())

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Correlation of predicted and real confusion: model, task, shots, metric, components, layer, mean, ...

        Metrics: spearman and pearson over pairs of classes, and spearman's one-sided p_value, each averaged over seeds.
        `low` and `high` of spearman hold 95 % of the contexts' own values.
        """
        by = ["model", "task", "shots", "components", "layer"]
        found = []
        for (model, task, shots, seed), rows in table.groupby(
            ["model", "task", "shots", "seed"], sort=False, dropna=False
        ):
            real = pair_matrix(rows[rows["layer"] == REAL].groupby(PAIR, sort=False)["value"].mean())
            predicted = rows[rows["layer"] != REAL]
            for components, layer in sorted(set(zip(predicted["components"], predicted["layer"], strict=True))):
                numbers = self._correlation(predicted, real, layer, components)
                place = dict(zip(by, (model, task, shots, components, layer), strict=True))
                found += [place | {"seed": seed, "metric": name} | values for name, values in numbers.items()]
        each = pd.DataFrame(found)
        grouped = each.groupby([*by, "metric"], sort=False)
        summary = grouped[["mean", "low", "high"]].mean().assign(n=grouped["n"].sum(), seeds=grouped.size())
        return summary.reset_index()

    def _correlation(
        self, table: pd.DataFrame, real: pd.DataFrame, layer: int, components: int
    ) -> dict[str, dict[str, float]]:
        predicted = self.confusion(table, layer, components)
        matrices = (
            torch.tensor(matrix.to_numpy()) for matrix in (predicted, real.loc[predicted.index, predicted.index])
        )
        whole = confusion_correlation(*matrices, generator=np.random.default_rng(0))
        rows = table[(table["layer"] == layer) & (table["components"] == components)]
        low, high = spread_over_contexts(rows, real)
        n = rows["context"].nunique()
        return {
            "spearman": {"mean": whole.spearman, "low": low, "high": high, "n": n},
            "pearson": {"mean": whole.pearson, "low": np.nan, "high": np.nan, "n": n},
            "p_value": {"mean": whole.p_value, "low": np.nan, "high": np.nan, "n": n},
        }

    def figure(self, result: Result) -> go.Figure:
        table, summary = result.table, result.summary()
        layer, components = self.shown(table)
        tasks = list(dict.fromkeys(table["task"]))
        titles = ["real confusion", f"predicted, layer {layer}, M\u00a0=\u00a0{components}", "their rank correlation"]
        names = [f"{task}: {title}" for task in tasks for title in titles]
        figure = panels(names, common=False, rows=len(tasks), widths=[0.3, 0.3, 0.4])
        for row, task in enumerate(tasks, start=1):
            of_task = table[table["task"] == task]
            real = pair_matrix(of_task[of_task["layer"] == REAL].groupby(PAIR, sort=False)["value"].mean())
            add_heat_map(figure, real, row, 1)
            add_heat_map(figure, self.confusion(of_task, layer, components), row, 2)
            add_correlations(
                figure, summary[(summary["task"] == task) & (summary["metric"] == "spearman")], row, components
            )
        return styled(
            figure, title=f"{self.title}: {', '.join(table['model'].unique())}",
            subtitle=f"{self.source}; protocol {self.protocol}; 1: never confused; band: 95 % of contexts", x="", y="",
        ).update_layout(hovermode="closest")  # fmt: skip

    def finding(self, result: Result) -> str:
        layer, components = self.shown(result.table)
        summary = result.summary()
        at = summary[(summary["layer"] == layer) & (summary["components"] == components)]
        mean = at.groupby("metric")["mean"].mean()
        curve = summary[(summary["metric"] == "spearman") & (summary["components"] == components)]
        best = curve.groupby("layer")["mean"].mean()
        pairs = result.table[result.table["layer"] == REAL].groupby(PAIR, sort=False)["value"].mean()
        predicted = result.table[(result.table["layer"] == layer) & (result.table["components"] == components)]
        nearest = predicted.groupby(PAIR, sort=False)["value"].mean()
        return (
            f"In layer {layer} (M = {components}) anchor distances rank the pairs of classes as their real confusion "
            f"with a Spearman correlation of {mean['spearman']:.2f} (p = {mean['p_value']:.2g}); the best layer is "
            f"{best.idxmax()} ({best.max():.2f}). Nearest anchors: {pair_name(nearest)}; most confused: "
            f"{pair_name(pairs)} ({pairs.min():.2f})."
        )


def _anchor_keys(model: Any, context: Context) -> Float[Tensor, "layer class_ d"]:
    """Keys of the label words in class order, repeated for query heads that share them, heads side by side."""
    heads = hooked(model).sizes.n_heads
    order = torch.tensor(context.anchors)[torch.tensor(context.anchor_classes).argsort()]
    layers = [layer.keys[0, order.to(layer.keys.device)] for layer in context.layers]
    return torch.stack([keys.repeat_interleave(heads // keys.shape[1], 1).flatten(1).float().cpu() for keys in layers])


def error_diagnosis(
    model: Any,
    prompts: PromptSet | Sequence[PromptSet],
    *,
    components: Sequence[int] = (5, 10, 20, 50, 100, 200),
    layer: int | None = None,
    protocol: Protocol = "corrected",
    batch_size: int = 16,
) -> Result:
    """Measure whether distances between anchors foretell which classes are confused, section 3.3.

    Args:
        model: a HookedTransformer that can be run block by block.
        prompts: sets made by `ErrorDiagnosis().prompts(task, tokenizer, ...)` of a task with three classes or more.
        components: numbers M of principal components; those that the number of prompts does not allow are left out.
        layer: layer of the heat map; by default at two thirds of the depth. All layers are measured.
        protocol: one context or all, see the module.
        batch_size: prompts per pass.

    Returns:
        A result with a row per pair of classes: real confusion (layer -1), and distance between scaled anchor keys per
        context, layer and number of components.
    """
    study = ErrorDiagnosis(protocol, components=tuple(components), layer=layer)
    return study.run(model, prompts, batch_size=batch_size)
