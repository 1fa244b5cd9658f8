"""Compressing the context to its anchors (section 3.2, Table 2).

The paper keeps, of the demonstrations, only the keys and values of label words and template tokens (Hidden_anchor), and
asks the queries on top. It compares with the same tokens read as a text of their own (Text_anchor), with a random token
of each demonstration in place of its label word (Hidden_random), and with the best of 20 such random sets
(Hidden_random-top), by agreement with the full context (label and word loyalty) and by accuracy.

The authors' code puts the query at position 0 for GPT-2 but behind the original context for GPT-J and in the random-top
run, and its 20 random sets are unions of all sets before them (`protocol="paper"`, with their very draws; both
placements are reported). `"corrected"` measures every kept set and every random set with every placement; its random
sets are independent and equal in size, and the same in every placement; Hidden_random is their mean, and
Hidden_random-top the best of them for each task, seed and placement.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import pandas as pd
import plotly.graph_objects as go

from mechicl.declared import Switch
from mechicl.engines.compression import (
    Kept,
    PositionMode,
    authors_random_set,
    authors_top_sets,
    keep,
    kept_positions,
    random_sets,
    without_the_rest,
)
from mechicl.engines.context import read_context
from mechicl.engines.prefix import joined_runs, run_shared, shared_demonstrations
from mechicl.figures import GREY, INK, LABEL_COLOUR, ORANGE, SKY, panels
from mechicl.hooks import Run
from mechicl.models import blockwise
from mechicl.probes import TopTokens
from mechicl.prompts import Prompt, PromptSet
from mechicl.results import Result
from mechicl.studies.label_words.accuracy import beside_accuracy, is_right
from mechicl.studies.label_words.drawing import PAPER_MODELS, add_bars, add_marks
from mechicl.studies.label_words.loyalty import TITLES, prediction_rows, top_tokens, with_loyalty
from mechicl.studies.study import Condition, Study
from mechicl.studies.summary import INTERVALS, by_metric, mean_with_interval

METRICS = ("label_loyalty", "word_loyalty_5", "word_loyalty_10", "accuracy")
_CONDITION = ["method", "kept", "positions"]
_PAPER_SET: Kept = "label+template"

PUBLISHED = {
    "full context": ((100.0, 100.0, 51.90), (100.0, 100.0, 56.82)),
    "text anchor": ((51.05, 36.65, 38.77), (53.45, 43.85, 40.83)),
    "hidden random": ((48.96, 5.59, 39.96), (49.03, 2.16, 31.51)),
    "hidden random, best set": ((57.52, 4.49, 41.72), (71.10, 11.36, 52.34)),
    "hidden anchor": ((79.47, 62.17, 45.04), (89.06, 75.04, 55.59)),
}
"""Table 2 in percent: label loyalty, word loyalty (k = 5) and accuracy of GPT2-XL and of GPT-J, mean of four tasks."""


@dataclass(frozen=True)
class Compression(Study):
    """A row per prompt, condition and random set: the prediction on what is kept of the context.

    Gold and predicted class, label probabilities, top-10 token ids, and the number of context tokens.
    """

    kept: Annotated[tuple[Kept, ...], Switch("What is kept of the context.")] = ("label+template", "label", "template")
    positions: Annotated[
        tuple[PositionMode, ...], Switch("Where queries stand: original, zero or packed.")
    ] = ("original", "zero", "packed")  # fmt: skip
    n_sets: Annotated[int, Switch("Number of random sets.", min=1)] = 20
    random_seed: Annotated[int, Switch("Seed of the random sets.", min=0)] = 0

    name = "compression"
    title = "Compressing the context to its anchors"
    shows = "Predictions from the label words and template of the context alone."
    source = "Label Words are Anchors, section 3.2, Table 2"
    claim = (
        "The hidden states of label words and template alone keep most of the predictions of the full context; the "
        "same words as text, or random tokens in place of the label words, do not."
    )
    shared_options = {"demonstrations": None}

    def conditions(self, model: Any) -> list[Condition]:
        def condition(method: str, kept: str = "", positions: str = "") -> Condition:
            return {"method": method, "kept": kept, "positions": positions}

        common = [condition("full context"), condition("text anchor", _PAPER_SET)]
        if self.protocol == "paper":
            placed = ("zero", "original") if blockwise(model, self.name).learned_positions else ("original",)
            return [
                *common,
                *(condition("hidden anchor", _PAPER_SET, where) for where in placed),
                condition("hidden random", _PAPER_SET, placed[0]),
                condition("hidden random, best set", _PAPER_SET, "original"),
            ]
        return [
            *common,
            *(condition("hidden anchor", kept, where) for kept in self.kept for where in self.positions),
            *(condition("hidden random", _PAPER_SET, where) for where in self.positions),
        ]

    def passes(self, n_layers: int) -> float:
        placed = len(self.positions) if self.protocol == "corrected" else 1
        return (2 + (len(self.kept) + 1 + self.n_sets) * placed) / 4  # of queries, behind demonstrations read before

    def measure(self, model: Any, prompts: PromptSet, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        top = top_tokens(model)
        frames = []
        for index, seen in enumerate(self._runs(model, prompts, condition, top, batch_size)):
            frames.append(prediction_rows(prompts, seen, top).assign(set=index))
        return pd.concat(frames, ignore_index=True).assign(context_tokens=_context_tokens(prompts, condition))

    def _runs(
        self, model: Any, prompts: PromptSet, condition: Condition, top: TopTokens, batch_size: int
    ) -> Iterator[Run]:
        """The prompts asked in one condition: once, or once for each random set."""
        if condition["method"] == "full context":
            yield run_shared(model, prompts, [top], batch_size=batch_size)
        elif condition["method"] == "text anchor":
            short = [without_the_rest(prompt, condition["kept"]) for prompt in prompts]
            yield run_shared(model, short, [top], batch_size=batch_size)
        else:
            groups = shared_demonstrations(prompts)
            contexts = [read_context(model, prompts[indices[0]]) for indices in groups]
            choices = [self.kept_sets(prompts[indices[0]], condition) for indices in groups]
            for number in range(min(map(len, choices))):
                parts = [
                    keep(context, sets[number], condition["positions"]).ask(
                        model, prompts.select(indices), [top], batch_size=batch_size, progress=None
                    )
                    for context, sets, indices in zip(contexts, choices, groups, strict=True)
                ]
                yield joined_runs(parts, groups, [top])

    def kept_sets(self, prompt: Prompt, condition: Condition) -> list[tuple[int, ...]]:
        """Positions that are kept of a prompt's demonstrations: one set, or several random ones."""
        if condition["method"] == "hidden anchor":
            return [kept_positions(prompt, condition["kept"])]
        if self.protocol == "corrected":
            return random_sets(prompt, self.n_sets, self.random_seed)
        if condition["method"] == "hidden random":
            return [authors_random_set(prompt)]
        return authors_top_sets(prompt, self.n_sets)

    def loyalty(self, table: pd.DataFrame) -> pd.DataFrame:
        """All rows with their agreement with the full context and, where gold is known, whether they are right.

        Hidden_random-top keeps the rows of the set with the highest label loyalty of its task, seed and placement.
        """
        rows = with_loyalty(table, table[table["method"] == "full context"])
        rows["accuracy"] = is_right(rows)
        draws = rows[rows["method"] == ("hidden random" if self.protocol == "corrected" else "hidden random, best set")]
        best = _best_sets(draws).assign(method="hidden random, best set")
        return pd.concat([rows[rows["method"] != "hidden random, best set"], best], ignore_index=True)

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Means: model, task, shots, metric, method, kept, positions, mean, low, high, n, seeds, seed_sd.

        Metrics: label_loyalty, word_loyalty_5 and _10; where gold is known accuracy, macro_f1 (of random sets the
        mean of the sets') and, of the full context, majority_rate.
        """
        rows = self.loyalty(table)
        long = by_metric(rows, METRICS, _CONDITION)
        found = mean_with_interval(long, "value", ["model", "task", "shots", "metric", *_CONDITION])
        beside = beside_accuracy(rows, ["model", "task", "shots", *_CONDITION], rows["method"] == "full context")
        return pd.concat([found, beside], ignore_index=True)

    def figure(self, result: Result) -> go.Figure:
        summary = result.summary()
        shown = [m for m in ("label_loyalty", "word_loyalty_5", "accuracy") if m in set(summary["metric"])]
        figure = panels([TITLES[metric] for metric in shown])
        for column, metric in enumerate(shown, start=1):
            rows = summary[summary["metric"] == metric].groupby(_CONDITION, sort=False)[["mean", "low", "high"]].mean()
            rows = rows[::-1].reset_index()
            names = list(rows.apply(_label, axis=1))
            add_bars(figure, rows, names, [_COLOURS.get(method, SKY) for method in rows["method"]], column)
            _published(figure, rows, shown.index(metric) if metric != "accuracy" else 2, column)
            if metric == "accuracy":
                f1, majority = (summary[summary["metric"] == name] for name in ("macro_f1", "majority_rate"))
                by_condition = f1.groupby(_CONDITION, sort=False)["mean"].mean()
                marks = [by_condition[tuple(condition)] for condition in rows[_CONDITION].to_numpy()]
                add_marks(figure, names, marks, "line-ns-open", "macro-F1", column)
                figure.add_scatter(
                    y=[names[0], names[-1]], x=[majority["mean"].mean()] * 2, mode="lines", name="majority class",
                    line={"color": INK, "width": 1.5, "dash": "dash"}, hovertemplate="%{x:.4f}", row=1, col=column,
                )  # fmt: skip
        told = f"protocol {self.protocol}; mean of tasks, {INTERVALS}"
        figure.update_xaxes(range=[0, 1.04]).update_layout(barmode="overlay")
        return self.styled(figure, summary, told, x="share of prompts", y="", height=34 * len(rows), hover="closest")

    def finding(self, result: Result) -> str:
        summary = result.summary()
        by = summary[summary["metric"] == "label_loyalty"].groupby(_CONDITION, sort=False)["mean"].mean()
        anchors = by["hidden anchor"]
        where = anchors.index[0]
        kept = result.table.groupby(_CONDITION, sort=False)["context_tokens"].mean()
        text, random, best = (by[name].iloc[0] for name in ("text anchor", "hidden random", "hidden random, best set"))
        return (
            f"With {kept['hidden anchor'][where]:.0f} of {kept['full context'].iloc[0]:.0f} context tokens "
            f"({where[0]}, query at {where[1]} positions) {anchors.iloc[0]:.0%} of the predictions stay as they are; "
            f"{text:.0%} with the same tokens as text, {random:.0%} with random tokens in place of the label words, "
            f"{best:.0%} with the best random set."
        )


def _context_tokens(prompts: PromptSet, condition: Condition) -> list[int] | int:
    first = prompts[0]
    return len(kept_positions(first, condition["kept"])) if condition["kept"] else first.query_start


def _best_sets(rows: pd.DataFrame) -> pd.DataFrame:
    """Of the random sets of each model, task, seed, shots and placement, the one with the highest label loyalty."""
    parts = []
    for _, group in rows.groupby(["model", "task", "seed", "shots", "positions"], sort=False, dropna=False):
        best = group.groupby("set")["label_loyalty"].mean().idxmax()
        parts.append(group[group["set"] == best])
    return pd.concat(parts)


_COLOURS = {"full context": GREY, "text anchor": ORANGE, "hidden anchor": LABEL_COLOUR}


def _label(row: Any) -> str:
    details = ", ".join(part for part in (row["kept"], row["positions"] and f"{row['positions']} positions") if part)
    return f"{row['method']} ({details})" if details else str(row["method"])


def _published(figure: go.Figure, rows: pd.DataFrame, place: int, column: int) -> None:
    """Table 2's numbers as marks on the bars of the paper's kept set."""
    marked = rows[rows["method"].isin(list(PUBLISHED)) & rows["kept"].isin(["", _PAPER_SET])]
    marked = marked[~marked["positions"].isin(["zero", "packed"])]
    for number, (name, symbol) in enumerate(PAPER_MODELS.items()):
        values = [PUBLISHED[method][number][place] / 100 for method in marked["method"]]
        names = marked.apply(_label, axis=1)
        add_marks(figure, names, values, symbol, name, column, marker_size=10, showlegend=column == 1)
