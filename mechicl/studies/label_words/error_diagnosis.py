"""Error diagnosis: near anchors are confused classes (section 3.3, Fig. 6, appendices J and K, Fig. 14).

Attention from q to a label word depends on the product of q's query vector and the label word's key. If the keys of two
classes are close together along the directions in which queries vary, attention cannot distinguish them. Queries of
many prompts give the directions (the first M principal components). Each anchor key is expressed in these components,
each scaled by the queries' standard deviation along it; distances between the classes, divided by the largest, are the
predicted confusion. The real confusion of two classes is the AUROC with which their scores separate their own items.

The authors' code uses layer 32 of GPT2-XL's 48, the keys of a single context, and the scores of all items after that
context (`protocol="paper"`; here the layer at two thirds of the depth unless one is given). `"corrected"` averages
distances over all contexts and uses the scores after those contexts. The paper shows two heat maps; we measure their
rank correlation over pairs of classes in every layer, with a test that permutes the classes: one test per task, on the
seeds' mean matrices. If every seed draws its own classes, each seed's classes are permuted separately. The summary's
interval is the spread over contexts. If the model confuses all pairs alike, there is no correlation.

With several demonstrations of a class, its anchor key is the mean of the keys of its label words, even next to a
wrongly labelled text. So a model that hardly errs can be diagnosed, too: wrong labels make it err.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from mechicl.claims import Claim, Evidence
from mechicl.declared import Switch
from mechicl.engines.context import Context, read_context
from mechicl.engines.prefix import run_shared, shared_demonstrations
from mechicl.errors import DoesNotFit, InputError
from mechicl.metrics import real_confusion, scaled_keys
from mechicl.models import hooked
from mechicl.probes.target_query import TargetQuery
from mechicl.prompts import PromptSet
from mechicl.results import Result
from mechicl.studies.drawing import Drawing, Panel, where
from mechicl.studies.label_words import pairs
from mechicl.studies.label_words.pairs import REAL, real_matrix, seeds_by_classes
from mechicl.studies.study import Condition, Study
from mechicl.tasks import Task

_CLAIM = Claim(
    "error-diagnosis", "Classes whose label words have keys close together are the ones that the model confuses.",
    "Label Words are Anchors, section 3.3, Fig. 6", "rank correlation of predicted and real confusion",
    "Spearman correlation", "permuted classes", 0.2,
)  # fmt: skip
_NOTHING = (
    "The model confuses all pairs of classes alike; use more prompts, a model that makes errors, or wrong labels, "
    "which bias it (mislabelled)."
)


_HIDDEN = {"visible": False}
"""Axes of a panel that only fills a row."""


@dataclass(frozen=True)
class ErrorDiagnosis(Study):
    """A row per pair of classes: real confusion, and the distance between their scaled anchor keys.

    Real confusion, an AUROC, has layer -1; distances have a row per context, layer and number of components.
    """

    components: Annotated[
        tuple[int, ...], Switch("Numbers of principal components.", min=1)
    ] = (5, 10, 20, 50, 100, 200)  # fmt: skip
    layer: Annotated[int | None, Switch("Layer of the heatmap; default: at two thirds of the depth.", min=0)] = None
    contexts: Annotated[int, Switch("Demonstration sets; halved until the data suffice.", min=1)] = 64

    name = "error-diagnosis"
    title = "Near anchors, confused classes"
    shows = "Whether distances between anchors predict which classes are confused."
    source = "Label Words are Anchors, section 3.3, Fig. 6 and 14"
    claims = (_CLAIM,)
    not_measured = ("layer",)
    may_lack = ("value",)  # undefined for a class without items
    claim = (
        "Classes whose label words have keys close together are the ones that the model confuses: on TREC, Description "
        "and Entity most of all."
    )
    shared_options = {"demonstrations": None, "order": None, "samples": 500, "seeds": "42"}

    def prompts(
        self,
        task: Task,
        tokenizer: Any,
        *,
        samples: int | None = None,
        demonstrations: str = "per_seed",
        **options: Any,
    ) -> PromptSet:
        """All items after one context (in class order; paper: one demonstration per class), and each after its own.

        `options` are those of `task.prompts`; `mislabelled` makes a model err that otherwise hardly does. If the data
        cannot fill `contexts`, their number is halved until they can.
        """
        if demonstrations != "per_seed":
            raise InputError("Error diagnosis has contexts that many prompts share; use demonstrations='per_seed'.")
        prompts = task.prompts(tokenizer, samples=samples, order="class", **options)
        rows = sorted(prompt.ids.query for prompt in prompts if prompt.ids.query is not None)
        contexts = self.contexts
        while True:
            try:
                behind = task.context_prompts(tokenizer, contexts=contexts, rows=rows, **options)
                return replace(prompts, auxiliary={"contexts": behind})
            except DoesNotFit:
                if contexts == 1:
                    raise
                contexts //= 2

    def measure(self, model: Any, prompts: PromptSet, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        behind = prompts.auxiliary.get("contexts")
        if behind is None or len(prompts.label_ids) < 3:
            raise InputError(
                "Error diagnosis compares pairs of three or more classes in many contexts; give a task of three "
                "classes or more (in Python, make its prompts by ErrorDiagnosis().prompts(task, ...))."
            )
        if not all(set(prompt.anchor_classes) == set(range(len(prompt.label_ids))) for prompt in behind):
            raise InputError("Error diagnosis needs a label word of every class in every context; use more shots.")
        probe, paper = TargetQuery(), self.protocol == "paper"
        run = run_shared(model, behind, [probe], batch_size=batch_size)
        groups = shared_demonstrations(behind)[: 1 if paper else None]
        keys = torch.stack([anchor_keys(model, read_context(model, behind[indices[0]])) for indices in groups])
        if paper:
            real = real_confusion(run_shared(model, prompts, batch_size=batch_size).label_logits, prompts.gold)
        else:
            real = real_confusion(run.label_logits, behind.gold)
        names = behind.class_names
        between = real[~torch.eye(len(real), dtype=torch.bool)]
        known = between[between.isfinite()]
        if not len(known):
            raise InputError(
                f"There is nothing to diagnose: no two classes of {prompts.task} have prompts; use more prompts, of "
                "known classes."
            )
        rows = [pairs.pair_rows(real, names, context=0, layer=REAL, components=0)]
        rows += [pairs.pair_rows(matrix, names, **place) for place, matrix in self._distances(run[probe].values, keys)]
        return pd.concat(rows, ignore_index=True)

    def _distances(
        self, queries: Float[Tensor, "prompt layer d"], keys: Float[Tensor, "context layer class_ d"]
    ) -> Iterator[tuple[dict[str, int], Float[Tensor, "class_ class_"]]]:
        """Distances between classes in every layer, for every number of components, in every context."""
        most = min(len(queries) - 1, queries.shape[-1])
        numbers = [m for m in self.components if m <= most]
        if not numbers:
            raise InputError(f"{len(queries)} prompts allow {most} components at most; use more prompts or fewer.")
        for layer in range(queries.shape[1]):
            # One decomposition serves all contexts; fewer components are its first columns.
            scaled = scaled_keys(queries[:, layer], keys[:, layer].flatten(0, 1), max(numbers))
            for context, of_context in enumerate(scaled.reshape(keys.shape[0], keys.shape[2], -1)):
                for m in numbers:
                    kept = of_context[:, :m]
                    distance = torch.cdist(kept, kept, compute_mode="donot_use_mm_for_euclid_dist")
                    yield {"context": context, "layer": layer, "components": m}, distance

    def shown(self, table: pd.DataFrame) -> tuple[int, int]:
        """Layer and number of components of the heat map: the given layer or two thirds of the depth, and M = 10."""
        layers, numbers = int(table["layer"].max()) + 1, sorted(set(table["components"]) - {0})
        layer = layers * 2 // 3 if self.layer is None else self.layer
        if layer >= layers:
            raise InputError(f"layer is {layer}; this model has layers 0-{layers - 1}.")
        return layer, min(numbers, key=lambda m: abs(m - 10))

    def confusion(self, table: pd.DataFrame, layer: int, components: int) -> pd.DataFrame:
        """Predicted confusion of every pair: distances averaged over contexts, divided by each seed's largest."""
        return pairs.predicted_matrix(table, layer, components)

    def evidence(self, claim: Claim, table: pd.DataFrame) -> Evidence:
        """Over seeds, in the heat map's layer; p comes from permuted classes and is corrected for all layers."""
        layer, components = self.shown(table)
        alike = pairs.with_differences(table)
        if not alike:
            return Evidence.nothing(_NOTHING)
        first, real = alike[0]
        predicted = self.confusion(first, layer, components)
        nearest, confused = (" and ".join(pairs.smallest(matrix)) for matrix in (predicted, real))
        note = f"Nearest anchors in layer {layer} (M = {components}): {nearest}; most confused: {confused}."
        if len(predicted) < 4:
            why = "Three pairs of classes cannot decide a correlation; use a task of four classes or more."
            return Evidence.nothing(why, note=note)
        of_seeds = [
            pairs.by_context([(rows, real)], layer, components)
            for table, real in alike
            for _, rows in table.groupby("seed", dropna=False)
        ]
        by_context, seeds = np.concatenate(of_seeds), np.repeat(range(len(of_seeds)), list(map(len, of_seeds)))
        p = pairs.corrected_p(alike, sorted(set(table["layer"]) - {REAL}), components)[layer]
        return Evidence(by_context, 0.0, seeds, "seeds", p=p, note=note)

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Correlation of predicted and real confusion: model, task, shots, metric, components, layer, mean, low, high,
        n (contexts), seeds, seed_sd.

        Metrics: spearman and pearson over pairs of classes, for the seeds' mean matrices, and spearman's one-sided
        p_value, one per task. If seeds draw their own classes, their correlations are averaged, and tested together.
        `low` and `high` of spearman span 95 % of the contexts' values; `seed_sd` is the standard deviation of the
        seeds' values. All are NaN if the model confuses all pairs of classes alike.
        """
        means = []
        for (model, task, shots), rows in table.groupby(["model", "task", "shots"], sort=False):
            alike = pairs.with_differences(rows)
            predicted, seeds = rows[rows["layer"] != REAL], rows["seed"].nunique(dropna=False)
            n = predicted.groupby("seed", dropna=False)["context"].nunique().sum()
            for components, layer in sorted(set(zip(predicted["components"], predicted["layer"], strict=True))):
                for metric, mean, low, high, seed_sd in pairs.correlations(alike, layer, components):
                    place = (model, task, shots, metric, components, layer)
                    means.append((*place, mean, low, high, n, seeds, seed_sd))
        columns = ["model", "task", "shots", "metric", "components", "layer", "mean", "low", "high", "n", "seeds"]
        return pd.DataFrame(means, columns=[*columns, "seed_sd"])

    def drawing(self, result: Result) -> Drawing:
        """Per task, real and predicted confusion, their rank correlation in every layer, and Fig. 14 (every M)."""
        table, summary = result.table, result.summary()
        layer, components = self.shown(table)
        numbers, panels = sorted(set(table["components"]) - {0}), list[Panel]()
        for task, rows in table.groupby("task", sort=False):
            for of_some in seeds_by_classes(rows):
                seeds = "" if len(of_some) == len(rows) else f", seed {', '.join(map(str, of_some['seed'].unique()))}"
                correlations = where(summary, task=task, metric="spearman")
                curves = pairs.correlation_traces(correlations, components)
                layers = {"title_text": "layer", "dtick": 1}
                spearman = {"title_text": "Spearman", "range": [-1.05, 1.05]}
                maps = {"real confusion": pairs.heat_map(real_matrix(of_some), 0.5)}
                for m in (components, *(n for n in numbers if n != components)):
                    predicted = pairs.heat_map(self.confusion(of_some, layer, m), 0)
                    maps[f"predicted, layer {layer}, M\u00a0=\u00a0{m}"] = predicted
                shown = [Panel(f"{task}{seeds}: {what}", [heat_map], {}, {"autorange": "reversed"})
                         for what, heat_map in maps.items()]  # fmt: skip
                shown.insert(2, Panel(f"{task}{seeds}: their rank correlation", curves, layers, spearman))
                panels += [*shown, *[Panel("", [], _HIDDEN, _HIDDEN)] * (-len(shown) % 3)]
        note = "1: never confused; band: 95 % of contexts"
        return Drawing(table, panels, x="", widths=(0.3, 0.3, 0.4), note=note, hover="closest")


def anchor_keys(model: Any, context: Context) -> Float[Tensor, "layer class_ d"]:
    """Mean key of each class's label words; repeated for heads that share keys, with heads concatenated."""
    heads, n_classes = hooked(model).sizes.n_heads, len(context.label_ids)
    member = torch.nn.functional.one_hot(torch.tensor(context.anchor_classes), n_classes).float()
    mean = (member / member.sum(0)).T
    keys = (layer.keys[0, list(context.anchors)].float().cpu() for layer in context.layers)
    return torch.stack(
        [mean @ of_layer.repeat_interleave(heads // of_layer.shape[1], 1).flatten(1) for of_layer in keys]
    )
