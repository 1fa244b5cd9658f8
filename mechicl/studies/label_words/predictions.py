"""Predictions under several conditions, and their agreement with the clean run (section 2.2).

Label loyalty is 1 where the same class is predicted; word loyalty is the Jaccard similarity of the most probable next
words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from mechicl.claims import Claim, Evidence
from mechicl.declared import Switch
from mechicl.engines.prefix import run_shared
from mechicl.hooks import Patch, Probe, Run
from mechicl.metrics import jaccard
from mechicl.metrics.resampling import over_few_sets
from mechicl.models import hooked
from mechicl.patches.cut_edges import Mode
from mechicl.probes import TopTokens
from mechicl.prompts import PromptSet
from mechicl.studies.parts import DEMONSTRATION_SET, set_names
from mechicl.studies.study import Condition, Study
from mechicl.studies.summary import by_metric, mean_over_tasks, mean_with_interval, spread

TITLES = {
    "label_loyalty": "label loyalty",
    "word_loyalty_5": "word loyalty, k = 5",
    "word_loyalty_10": "word loyalty, k = 10",
    "accuracy": "accuracy",
    "label_mass": "mass on the label words",
}
PROMPT = ["model", "task", "seed", "shots", "prompt"]
CutMode = Annotated[
    Mode,
    Switch(
        "How attention is cut: presoftmax (the authors' code), presoftmax_keep_0 (keeps the edge to position 0), "
        "postsoftmax_zero or postsoftmax_renorm."
    ),
]
"""The switch of studies that isolate tokens."""
_CLEAN = ("nothing", "full context")


class PredictionStudy(Study):
    """A study of predictions under conditions; for the clean run the first of `axes` is "nothing" or "full context"."""

    axes: ClassVar[tuple[str, ...]]
    """Columns that name a condition."""
    metrics: ClassVar[tuple[str, ...]] = ("label_loyalty", "word_loyalty_5")
    """Columns of `loyalty` to average; if accuracy is among them, the clean run is summarised, too."""
    more: ClassVar[Mapping[str, Probe]] = {}
    """Additional readings from the same passes, one value per prompt: each column with its probe."""

    def patches(self, model: Any, prompts: PromptSet, condition: Condition) -> list[Patch]:
        """The patches of a condition."""
        return []

    def runs(
        self, model: Any, prompts: PromptSet, condition: Condition, top: TopTokens, batch_size: int
    ) -> Sequence[Run]:
        """Run the prompts in one condition: once, or once per random draw."""
        patches = self.patches(model, prompts, condition)
        return [run_shared(model, prompts, [top, *self.more.values()], patches, batch_size=batch_size)]

    def measure(self, model: Any, prompts: PromptSet, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        """A row per run and prompt: gold and predicted class, label probabilities, the ten most probable tokens."""
        top = self.top(model)
        return self.rows(prompts, self.runs(model, prompts, condition, top, batch_size), top)

    def top(self, model: Any) -> TopTokens:
        """The probe of the ten most probable tokens."""
        return TopTokens(min(10, hooked(model).sizes.d_vocab))

    def rows(self, prompts: PromptSet, runs: Sequence[Run], top: TopTokens) -> pd.DataFrame:
        """The rows of a condition's runs."""
        tables = [
            pd.DataFrame({
                "prompt": np.arange(len(prompts)), "gold": prompts.gold.numpy(), "predicted": run.predicted.numpy(),
                "label_probs": run.label_probs.tolist(), "top_tokens": run[top].values.tolist(),
                **{column: run[probe].values.tolist() for column, probe in self.more.items()},
            })
            for run in runs
        ]  # fmt: skip
        return pd.concat(tables, ignore_index=True)

    def is_clean(self, table: pd.DataFrame) -> pd.Series[bool]:
        return table[self.axes[0]].isin(_CLEAN)

    def loyalty(self, table: pd.DataFrame) -> pd.DataFrame:
        """Rows with their agreement with the clean run, between 0 and 1, and their correctness."""
        clean = self.is_clean(table)
        reference = table[clean][[*PROMPT, "predicted", "top_tokens"]]
        rows = table[~clean | ("accuracy" in self.metrics)].merge(reference, on=PROMPT, suffixes=("", "_clean"))
        ids, clean_ids = (torch.tensor(np.stack(rows[f"top_tokens{name}"].to_list())) for name in ("", "_clean"))
        return rows.assign(
            label_loyalty=(rows["predicted"] == rows["predicted_clean"]).astype(float),
            **{f"word_loyalty_{k}": jaccard(ids[:, :k], clean_ids[:, :k]).numpy() for k in (5, 10)},
            accuracy=is_right(rows),
        )

    def one_per_prompt(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Rows of `loyalty` with several random sets averaged, as they share the prompt."""
        if "set" not in rows:
            return rows
        index = [*PROMPT, DEMONSTRATION_SET, *self.axes]
        return rows.groupby(index, sort=False, as_index=False, dropna=False)[list(self.metrics)].mean()

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Means of `metrics`: model, task, shots, metric, the condition's columns, mean, low, high, n, seeds, seed_sd.

        If accuracy is among them and gold classes are known, also macro_f1 (averaged over random sets) and, for the
        clean run, majority_rate.
        """
        rows = self.loyalty(table)
        long = by_metric(self.one_per_prompt(rows), self.metrics, self.axes)
        means = mean_with_interval(long, "value", ["model", "task", "shots", "metric", *self.axes])
        means.loc[self.is_clean(means) & means["metric"].str.contains("loyalty"), ["low", "high"]] = (
            1.0  # by definition
        )
        if "accuracy" not in self.metrics:
            return means
        context = accuracy_context(rows, ["model", "task", "shots", *self.axes], self.is_clean(rows))
        return pd.concat([means, context], ignore_index=True)

    def over_tasks(self, table: pd.DataFrame) -> pd.DataFrame:
        """Means of `metrics` over all tasks, for figures: model, metric, the condition's columns, and as in `summary`.

        The clean run's agreement with itself is left out.
        """
        rows = by_metric(self.one_per_prompt(self.loyalty(table)), self.metrics, self.axes)
        rows = rows[~(self.is_clean(rows) & rows["metric"].str.contains("loyalty"))]
        return mean_over_tasks(rows, "value", ["model", "metric", *self.axes])


def by_prompt(rows: pd.DataFrame, value: str, condition: str | list[str]) -> pd.DataFrame:
    """A row per prompt (seed, demonstration set, prompt) and a column per condition, which is the mean of its draws."""
    index = ["seed", DEMONSTRATION_SET, "prompt"]
    rows = rows.assign(seed=rows["seed"].map(str))  # None for prompts without a seed
    return rows.pivot_table(index=index, columns=condition, values=value, sort=False)


def paired(claim: Claim, values: pd.Series[float], null: pd.Series[float] | None, note: str = "") -> Evidence:
    """Evidence from two columns of `by_prompt` between 0 and 1; undecided if the null leaves no room for an effect."""
    if null is not None:
        both = pd.concat([values, null], axis=1).dropna()
        values, null = both.iloc[:, 0], both.iloc[:, 1]
    sets = set_names(values.index)
    undecided = ""
    if null is not None and 1 - null.mean() < claim.least:
        undecided = f"With {claim.null} the {claim.quantity} is {null.mean():.2f}, which leaves no room for an effect."
    return Evidence(values.to_numpy(), None if null is None else null.to_numpy(), sets, undecided=undecided, note=note)


def constant_answer(clean: pd.DataFrame) -> pd.DataFrame:
    """Rows of the clean run, scored as if all prompts of a seed got one constant answer: the floor of loyalty.

    For labels, this is the seed's most common; for words, the k that are most often among the k most probable.
    """

    def of_seed(rows: pd.DataFrame) -> pd.DataFrame:
        ids, floors = torch.tensor(np.stack(rows["top_tokens"].to_list())), {}
        for k in (5, 10):
            commonest = ids[:, :k].flatten().bincount().argsort(descending=True, stable=True)[: ids[:, :k].shape[1]]
            floors[f"word_loyalty_{k}"] = jaccard(ids[:, :k], commonest.expand_as(ids[:, :k])).numpy()
        label = rows["predicted"].mode().iloc[0]
        return rows.assign(label_loyalty=(rows["predicted"] == label).astype(float), **floors)

    return pd.concat([of_seed(rows) for _, rows in clean.groupby(PROMPT[:-1], sort=False, dropna=False)])


def macro_f1_rows(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Mean over seeds of macro-F1, with an interval over seeds, or for a single seed over resampled prompts.

    One seed may have rows of several random sets.
    """
    rows = []
    for key, group in table.groupby(by, sort=False):
        seeds = [part for _, part in group.groupby("seed", sort=False, dropna=False)]
        values = np.stack([_of_sets(part, index) for index, part in enumerate(seeds)])
        bounds = np.quantile(values[:, 1:].mean(0), [0.025, 0.975])
        if len(seeds) > 1:
            bounds = np.clip(over_few_sets(values[:, :1], values[:, 1:].std(1, keepdims=True)), 0, 1)[:, 0]
        numbers = {"mean": values[:, 0].mean(), "low": bounds[0], "high": bounds[1], "n": len(group),
                   "sets": len(seeds), "seeds": len(seeds), "seed_sd": spread(values[:, 0])}  # fmt: skip
        rows.append(dict(zip(by, key, strict=True)) | numbers | {"metric": "macro_f1"})
    return pd.DataFrame(rows)


def is_right(table: pd.DataFrame) -> pd.Series[float]:
    """1 if the predicted class is the gold one, else 0; NaN if the gold class is unknown."""
    return (table["predicted"] == table["gold"]).astype(float).where(table["gold"] >= 0)


def accuracy_context(table: pd.DataFrame, by: list[str], clean: pd.Series[bool]) -> pd.DataFrame:
    """Context for accuracy: macro-F1, and majority_rate, the accuracy of always answering the most common class.

    Only prompts with a known gold class count. The rate is computed from the `clean` rows; it is the same for others.
    """
    known = table["gold"] >= 0
    if not known.any():
        return pd.DataFrame()
    table, clean = table[known], clean[known]
    commonest = table.groupby(["task", "seed"], dropna=False)["gold"].transform(lambda gold: gold.mode().iloc[0])
    of_all = table.assign(value=(table["gold"] == commonest).astype(float), metric="majority_rate")
    rates = mean_with_interval(of_all[clean], "value", [*by, "metric"])
    return pd.concat([macro_f1_rows(table, by), rates], ignore_index=True)


def _of_sets(rows: pd.DataFrame, seed: int) -> Float[np.ndarray, "draw"]:
    """Macro-F1 of one seed; several random sets are averaged, and share the resampled prompts."""
    sets = [part for _, part in rows.groupby("set")] if "set" in rows else [rows]
    scores = [_macro_f1(part["gold"].to_numpy(), part["predicted"].to_numpy(), np.random.default_rng(seed))
              for part in sets]  # fmt: skip
    mean: np.ndarray = np.mean(scores, axis=0)
    return mean


def _macro_f1(gold: np.ndarray, predicted: np.ndarray, generator: np.random.Generator) -> Float[np.ndarray, "draw"]:
    """Mean F1 over classes that occur as gold or predicted; first for all prompts, then for 500 resamples."""
    n, classes = len(gold), int(max(gold.max(), predicted.max())) + 1
    weights = np.vstack([np.ones(n), generator.multinomial(n, np.full(n, 1 / n), size=500)])
    cells = np.eye(classes * classes)[gold * classes + predicted]
    confusion = (weights @ cells).reshape(-1, classes, classes)  # [draw gold predicted]
    both = confusion.sum(1) + confusion.sum(2)
    f1 = 2 * np.diagonal(confusion, axis1=1, axis2=2) / np.where(both > 0, both, 1)
    scores: np.ndarray = f1.sum(1) / (both > 0).sum(1)
    return scores
