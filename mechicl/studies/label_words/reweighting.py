"""Anchor re-weighting (section 3.1, Table 1, appendices G and H).

The attention from q to each class's label word is multiplied by exp(beta), with one beta per layer, head and class,
learned on training prompts (4 per class; Adam, learning rate 0.01, 10 epochs, one prompt per step). The paper compares
this with the same demonstrations without re-weighting, and with the training items as additional demonstrations (5 per
class in all; 3 for AG News, whose texts are long). If they do not fit, every seed of a task uses the largest number
that fits all seeds.

`protocol="paper"` measures these three. `"corrected"` adds controls that show whether the gain depends on anchors:
fitted biases of the labels' logits, contextual calibration (Zhao et al. 2021), the majority class, beta shared over
heads, layers or both, beta on random text tokens, and beta before the softmax; AG News, like every task, gets as many
more shots as fit. It also re-weights compressed contexts, which the paper could not. We report accuracy, macro-F1, the
recall of every class, the gain over every other method on the same queries, and learning curves of each beta.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from mechicl.claims import Claim, Evidence
from mechicl.declared import Switch
from mechicl.engines.compression import anchors_of, on_anchors
from mechicl.engines.prefix import run_shared
from mechicl.engines.reweighting import Fit, Shared, Variant, fit_together
from mechicl.errors import InputError
from mechicl.figures import GREY, LABEL_COLOUR, ORANGE, SKY, curve_traces
from mechicl.metrics.resampling import mean_over_sets
from mechicl.patches.reweight import ReweightAnchors
from mechicl.prompts import PromptSet
from mechicl.results import Result
from mechicl.studies.drawing import Drawing, Panel, bars, marks, where
from mechicl.studies.label_words import controls, tables
from mechicl.studies.label_words.controls import MORE_SHOTS, at_random_positions
from mechicl.studies.label_words.predictions import PROMPT, by_prompt, is_right, macro_f1_rows, paired
from mechicl.studies.parts import DEMONSTRATION_SET, set_names
from mechicl.studies.study import Condition, Study
from mechicl.studies.summary import by_task, intervals, mean_with_interval
from mechicl.tasks import Task

VANILLA, REWEIGHTED = "vanilla", "re-weighted"
COMPRESSED, REWEIGHTED_COMPRESSED = "compressed", "re-weighted, compressed"
_SHARED: dict[str, tuple[Shared, ...]] = {
    "beta shared over heads": ("heads",),
    "beta shared over layers": ("layers",),
    "beta of the class alone": ("heads", "layers"),
}
_AT_RANDOM, _PRESOFTMAX = "beta at random positions", "beta before the softmax"
_FITTED = (REWEIGHTED, *_SHARED, _AT_RANDOM, _PRESOFTMAX, REWEIGHTED_COMPRESSED)
"""Methods that learn a beta."""
_UNFITTED = ("label biases", "contextual calibration", "majority class", COMPRESSED)
_CONTROLS = (*_SHARED, _AT_RANDOM, _PRESOFTMAX, *_UNFITTED, REWEIGHTED_COMPRESSED)
_KEPT = {REWEIGHTED: "", REWEIGHTED_COMPRESSED: ", compressed"}
"""Methods whose beta is saved, with the suffix of its name."""
_COLOURS = {VANILLA: GREY, MORE_SHOTS: GREY, REWEIGHTED: LABEL_COLOUR, REWEIGHTED_COMPRESSED: LABEL_COLOUR,
            COMPRESSED: ORANGE}  # fmt: skip


def _claim(id: str, sentence: str, null: str, published: str = "") -> Claim:
    source = "Label Words are Anchors, section 3.1, Table 1"
    return Claim(id, sentence, source, "accuracy", "of prompts", null, 0.05, published)


_CLAIMS = {
    _claim("reweighting", "Re-weighting the anchors raises accuracy.", "the same demonstrations without it",
           "+0.167, from 51.9 to 68.6 % (GPT2-XL)"): (REWEIGHTED, VANILLA),
    _claim("reweighting-shots", "Re-weighting the anchors beats more demonstrations.", "more demonstrations",
           "+0.218, from 46.9 to 68.6 % (GPT2-XL)"): (REWEIGHTED, MORE_SHOTS),
    _claim("reweighting-biases", "Re-weighting the anchors beats a bias for each class.",
           "a trained bias for each class"): (REWEIGHTED, "label biases"),
    _claim("reweighting-compressed", "Re-weighted anchors alone are more accurate than the whole context.",
           "the whole context"): (REWEIGHTED_COMPRESSED, VANILLA),
}  # fmt: skip
"""Each claim, with the methods that it compares."""


@dataclass(frozen=True)
class Reweighting(Study):
    """A row per prompt and method, with or without re-weighted anchors: the prediction.

    Gold and predicted class, and the scores of the label words. The first row of a method that learns a beta also holds
    the beta, and loss and accuracy on the training prompts by epoch.
    """

    lr: Annotated[float, Switch("Learning rate of Adam.", above=0)] = 0.01
    epochs: Annotated[int, Switch("Epochs over the training prompts.", min=1)] = 10
    per_class: Annotated[int, Switch("Training prompts per class.", min=1)] = 4
    more_shots: Annotated[
        int, Switch("Demonstrations per class of the many-shot baseline, or as many as fit; 0 leaves it out.", min=0)
    ] = 5
    random_seed: Annotated[int, Switch("Seed of the random positions.", min=0)] = 0

    name = "reweighting"
    title = "Re-weighting the anchors"
    shows = "Accuracy with learned attention to the label words, and controls."
    source = "Label Words are Anchors, section 3.1, Table 1"
    claim = (
        "Learning how strongly the target attends to each class's label word raises accuracy far above that of the "
        "same demonstrations, and above that of more demonstrations."
    )
    claims = tuple(_CLAIMS)
    shared_options = {"demonstrations": None}

    def conditions(self, model: Any) -> list[Condition]:
        methods = (VANILLA, *((MORE_SHOTS,) if self.more_shots else ()), REWEIGHTED)
        return [{"method": method} for method in (*methods, *(_CONTROLS if self.protocol == "corrected" else ()))]

    def prompts(self, task: Task, tokenizer: Any, **options: Any) -> PromptSet:
        """A task's prompts with auxiliary prompts: training prompts, more shots, content-free queries.

        `options` are those of `task.prompts`.
        """
        most = self.more_shots
        if self.protocol == "paper":
            most = min(most, tables.MORE_SHOTS_PER_CLASS.get(task.name, most))
        return controls.with_auxiliary_prompts(task, tokenizer, self.per_class, most, **options)

    def prompt_sets(self, task: Task, tokenizer: Any, *, seeds: Sequence[int], **options: Any) -> list[PromptSet]:
        """Like `prompts`, with as many more shots as fit every seed."""
        sets = super().prompt_sets(task, tokenizer, seeds=seeds, **options)
        fitting = [controls.more_shots_of(prompts) for prompts in sets]
        fewest = min(fitting)
        if len(set(fitting)) == 1:
            return sets
        all_have = f"at most {fewest} demonstrations per class fit every seed, so {MORE_SHOTS!r} uses {fewest} for all."
        warnings.warn(f"{task.name}: {all_have if fewest else f'no seed has {MORE_SHOTS!r}.'}", stacklevel=2)
        fewer = replace(self, more_shots=fewest)
        return [
            prompts if fits == fewest else fewer.prompts(task, tokenizer, seed=seed, **options)
            for prompts, fits, seed in zip(sets, fitting, seeds, strict=True)
        ]

    def is_clean(self, table: pd.DataFrame) -> pd.Series[bool]:
        return table["method"] == VANILLA

    def passes(self, n_layers: int) -> float:
        return (2 + (len(_CONTROLS) if self.protocol == "corrected" else 0)) / 3  # demonstrations are read once

    def measure(self, model: Any, prompts: PromptSet, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        return next(self.measure_all(model, prompts, [condition], batch_size=batch_size))

    def measure_all(
        self, model: Any, prompts: PromptSet, conditions: Sequence[Condition], *, batch_size: int
    ) -> Iterator[pd.DataFrame]:
        """All betas are fitted together, and each set of prompts runs without a beta only once."""
        if "training" not in prompts.auxiliary:
            raise InputError(
                "Re-weighting needs training prompts; make the prompts by Reweighting().prompts(task, ...)."
            )
        if not len(prompts) or int(prompts.gold.min()) < 0:
            raise InputError("Re-weighting is judged by accuracy; give prompts whose gold class is known.")
        methods = [condition["method"] for condition in conditions]
        fits = self._fits(model, prompts.auxiliary["training"], [m for m in methods if m in _FITTED])
        places = {prompt.ids.query: place for place, prompt in enumerate(prompts)}
        sets = {**prompts.auxiliary, "": prompts, "more_shots": controls.asking_the_same(prompts)}

        @cache
        def clean(name: str) -> Tensor:
            return run_shared(model, sets[name], batch_size=batch_size).label_logits

        for method in methods:
            queries, fit = sets["more_shots" if method == MORE_SHOTS else ""], fits.get(method)
            patch = None if fit is None else fit.patch
            n, logits = len(queries), torch.zeros(0, len(prompts.label_ids))
            if n and (patch is not None or method == COMPRESSED):
                logits = self._changed(model, queries, method, patch, batch_size)
            elif n:
                logits = controls.without_beta(method, sets, clean)
            same = [places[query.ids.query] for query in queries] if method == MORE_SHOTS else range(n)
            facts = [None] * 3 if fit is None else [fit.patch.to_json(), *fit.by_epoch()]
            first = {name: pd.Series([fact, *[None] * n][:n], dtype=object)
                     for name, fact in zip(("fit", *_LEARNING), facts, strict=True)}  # fmt: skip
            yield pd.DataFrame({
                "prompt": np.array(same, dtype=int), "gold": queries.gold.numpy(),
                "gold_name": [queries.class_names[c] for c in queries.gold], "predicted": logits.argmax(-1).numpy(),
                "label_logits": logits.double().tolist(), "per_class": str(queries.shots),
                **first,
            })  # fmt: skip

    def _changed(
        self, model: Any, prompts: PromptSet, method: str, patch: ReweightAnchors | None, batch_size: int
    ) -> Float[Tensor, "prompt class"]:
        """Label logits with a fitted beta, and on compressed contexts with or without one."""
        patches = [] if patch is None else [patch]
        if method in (COMPRESSED, REWEIGHTED_COMPRESSED):
            return on_anchors(model, prompts, patches, batch_size=batch_size).label_logits
        if method == _AT_RANDOM:
            prompts = at_random_positions(prompts, self.random_seed)
        return run_shared(model, prompts, patches=patches, batch_size=batch_size).label_logits

    def _fits(self, model: Any, training: PromptSet, methods: Sequence[str]) -> dict[str, Fit]:
        """The beta of each method, all trained in lockstep."""
        variants = [
            Variant(
                at_random_positions(training, self.random_seed) if method == _AT_RANDOM else training,
                shared=_SHARED.get(method, ()),
                placement="presoftmax" if method == _PRESOFTMAX else "postsoftmax",
                keep=anchors_of if method == REWEIGHTED_COMPRESSED else None,
            )
            for method in methods
        ]
        seed = 42 if training.seed is None else training.seed
        fits = fit_together(model, variants, lr=self.lr, epochs=self.epochs, seed=seed)
        return dict(zip(methods, fits, strict=True))

    def fitted(self, result: Result) -> dict[str, ReweightAnchors]:
        """The fitted re-weightings by task, shots and seed; "compressed" marks those of a compressed context."""
        rows = result.table[result.table["method"].isin(list(_KEPT)) & result.table["fit"].notna()]
        places = zip(rows["task"], rows["shots"], rows["seed"], rows["method"], rows["fit"], strict=True)
        return {
            f"{task}, {shots} per class, seed {seed}{_KEPT[method]}": ReweightAnchors.from_json(fit)
            for task, shots, seed, method, fit in places
        }

    def save_more(self, result: Result, folder: Path) -> None:
        """Save every fitted re-weighting in its own folder, for `ReweightAnchors.load`."""
        for name, patch in self.fitted(result).items():
            patch.save(folder / self.name / "-".join(re.findall(r"[\w.]+", name)))

    def evidence(self, claim: Claim, table: pd.DataFrame) -> Evidence:
        """Paired by query, even if the methods' contexts differ."""
        right = by_prompt(table.assign(right=is_right(table)), "right", "method")
        method, baseline = _CLAIMS[claim]
        if method not in right:
            return Evidence.nothing(f"The method {method!r} was not measured.")
        evidence = paired(claim, right[method], right.get(baseline))
        errors = 1 - right[VANILLA].mean() if VANILLA in right else 1.0
        if errors >= claim.least:
            return evidence
        few = f"The model errs on {errors:.0%} of prompts, so re-weighting can only raise confidence; "
        return replace(evidence, undecided=f"{few}give it wrong labels (mislabelled), or a harder task.")

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Accuracy, macro_f1, recall of each class, and gain: the lead in accuracy of re-weighted anchors.

        The gain is over each other method on the same queries. Columns: model, task, shots, metric, method, per_class
        (demonstrations shown), mean, low, high, n, sets, seeds.
        """
        rows = table.assign(value=is_right(table), metric="recall of " + table["gold_name"])
        by = ["model", "task", "shots", "method", "per_class"]
        accuracy, recall = (
            mean_with_interval(one, "value", [*by, "metric"]) for one in (rows.assign(metric="accuracy"), rows)
        )
        return pd.concat([accuracy, macro_f1_rows(table, by), recall, _gains(rows, by)], ignore_index=True)

    def learning_curves(self, table: pd.DataFrame) -> pd.DataFrame:
        """Means over seeds of loss (nats) and accuracy on the training prompts, in each epoch before its steps.

        Columns: model, task, shots, method, metric (training_loss, training_accuracy), epoch, mean, low, high, n,
        sets, seeds, seed_sd. Empty if the result was saved without them.
        """
        if "training_loss" not in table or table["training_loss"].isna().all():
            return pd.DataFrame()
        by = ["model", "task", "shots", "method", "metric", "epoch"]
        rows = table[table["training_loss"].notna()].explode(list(_LEARNING))
        rows = rows.assign(epoch=rows.groupby([*PROMPT, "method"], dropna=False).cumcount() + 1)
        long = pd.concat([rows.assign(metric=name, value=rows[name].astype(float)) for name in _LEARNING])
        curves = mean_with_interval(long, "value", by)
        return curves.assign(low=curves["low"].clip(lower=0))

    def drawing(self, result: Result) -> Drawing:
        """Per task: accuracy by method, with macro-F1 and published accuracies; gains; learning curves."""
        summary, learned, panels = result.summary(), self.learning_curves(result.table), []
        for title, task in by_task(summary).items():
            rows = where(summary, **task)
            panels.append(
                Panel(f"Accuracy: {title}", _accuracies(rows), {"range": [0, 1.02], "title_text": "accuracy"})
            )
            gains = _named(where(rows, metric="gain"))[::-1]
            less = bars(gains, gains["name"], [_COLOURS.get(name, SKY) for name in gains["method"]])
            panels.append(Panel("Re-weighted less each, same queries", [less], {"title_text": "gain in accuracy"}))
            if len(learned):
                panels.append(Panel("Learning", _learning(where(learned, **task)), {"title_text": "epoch"}, _LOSS))
        return Drawing(
            summary, panels, x_title="", note=intervals(summary), height=30 * summary["method"].nunique(),
            widths=(4, 4, 3)[: 3 if len(learned) else 2], hover="closest",
        )  # fmt: skip


_LEARNING = ("training_loss", "training_accuracy")
_LOSS = {"title_text": "loss on training prompts, nats", "rangemode": "tozero"}
_DRAWN = {REWEIGHTED: LABEL_COLOUR, _AT_RANDOM: SKY, REWEIGHTED_COMPRESSED: ORANGE}
"""Methods whose learning is drawn; `learning_curves` has all."""


def _learning(rows: pd.DataFrame) -> list[go.Scatter]:
    """Training loss by epoch."""
    curves = where(rows, metric="training_loss")
    return [
        trace
        for method, colour in _DRAWN.items()
        for trace in curve_traces(where(curves, method=method), x="epoch", name=method, colour=colour)
    ]


def _gains(rows: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Mean difference in accuracy between re-weighted anchors and each other method, paired by query."""
    if DEMONSTRATION_SET not in rows:  # saved by 0.1
        return pd.DataFrame()
    place = [*PROMPT, DEMONSTRATION_SET]
    others = rows[rows["method"] != REWEIGHTED]
    both = others.merge(where(rows, method=REWEIGHTED)[[*place, "value"]], on=place, suffixes=("", "_own"))
    gains = []
    for key, group in both.groupby(by, sort=False):
        gain = (group["value_own"] - group["value"]).to_numpy()
        interval = mean_over_sets(gain, set_names(group), generator=np.random.default_rng(0))
        seeds = group["seed"].nunique(dropna=False)
        gains.append(dict(zip(by, key, strict=True)) | interval._asdict() | {"metric": "gain", "seeds": seeds})
    return pd.DataFrame(gains)


def _accuracies(rows: pd.DataFrame) -> list[go.Bar | go.Scatter]:
    """The contents of a task's panel."""
    (task, *_), (shots, *_), rows = rows["task"], rows["shots"], _named(rows)
    accuracy, f1 = where(rows, metric="accuracy")[::-1], where(rows, metric="macro_f1")
    more = accuracy["per_class"] != accuracy["shots"].astype(str)
    accuracy_bars = bars(
        accuracy, accuracy["name"], [_COLOURS.get(name, SKY) for name in accuracy["name"]],
        text=("with " + accuracy["per_class"] + " per class").where(more, ""), textposition="inside",
        insidetextanchor="start",
    )  # fmt: skip
    shown = [method for method in tables.TABLE_1 if shots == 1 and method in set(accuracy["name"])]
    known = {method: tables.published_accuracy(method, task, rows) for method in shown}
    published = {method: value / 100 for method, value in known.items() if value is not None}
    return [
        accuracy_bars,
        marks(f1["name"], f1["mean"], "line-ns-open", "macro-F1"),
        marks(published, published.values(), "diamond-open", "paper: accuracy of GPT2-XL"),
    ]


def _named(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with the name of their bar; a method has one bar per number of shots."""
    several = rows.duplicated(["metric", "method"], keep=False)
    return rows.assign(name=rows["method"].where(~several, rows["method"] + ", " + rows["per_class"]))
