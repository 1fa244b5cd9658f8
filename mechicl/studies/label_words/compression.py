"""Compressing the context to its anchors (section 3.2, Table 2).

From the demonstrations, the paper keeps only the keys and values of label words and template tokens (Hidden_anchor),
and runs the queries on top. By agreement with the full context (label and word loyalty) and by accuracy, it compares
this with the same tokens read as a text of their own (Text_anchor), with a random token of each demonstration in place
of its label word (Hidden_random), and with the best of 20 such random sets (Hidden_random-top).

The authors' code puts the query at position 0 for GPT-2 but after the original context for GPT-J and in the random-top
run, and each of its 20 random sets contains all sets before it (`protocol="paper"`, with the authors' draws; both
placements are reported). `"corrected"` measures every kept set with every placement, and the controls with the first,
which the claim is about; its random sets are independent and equal in size; Hidden_random is their mean, and
Hidden_random-top the best of them for each task and seed. The authors' code reads all demonstrations
together; `"corrected"` also reads each separately, another reading of the paper's text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import pandas as pd
import plotly.graph_objects as go

from mechicl.claims import Claim, Evidence
from mechicl.declared import Switch
from mechicl.engines import compression as engine
from mechicl.engines.compression import Kept, PositionMode, kept_positions
from mechicl.engines.prefix import run_shared
from mechicl.figures import GREY, INK, LABEL_COLOUR, ORANGE, SKY
from mechicl.hooks import Run
from mechicl.models import blockwise, hooked
from mechicl.patches import CutDemonstrations
from mechicl.probes import TopTokens
from mechicl.prompts import Prompt, PromptSet
from mechicl.results import Result
from mechicl.studies.drawing import Drawing, Panel, bars, marks, where
from mechicl.studies.label_words.predictions import TITLES, PredictionStudy, by_prompt, constant_answer, paired
from mechicl.studies.label_words.tables import PAPER_MODELS, TABLE_2
from mechicl.studies.study import Condition
from mechicl.studies.summary import intervals

_PAPER_SET: Kept = "label+template"
READ_APART = "hidden anchor, read apart"
_CLAIM = Claim(
    "compression", "The hidden states of label words and template alone keep the predictions of the full context.",
    "Label Words are Anchors, section 3.2, Table 2", "label loyalty", "label loyalty", "the best control", 0.1,
    "79.5 % of predicted labels against 57.5 % (GPT2-XL), 89.1 % against 71.1 % (GPT-J)",
)  # fmt: skip


@dataclass(frozen=True)
class Compression(PredictionStudy):
    """A row per prompt, condition and random set: the prediction from the kept part of the context.

    Gold and predicted class, label probabilities, top-10 token ids, and the number of context tokens.
    """

    kept: Annotated[tuple[Kept, ...], Switch("Parts of the context whose hidden states are kept.")] = (
        "label+template",
        "label",
        "template",
    )
    positions: Annotated[
        tuple[PositionMode, ...],
        Switch("Position ids of queries: original, zero or packed; controls are measured at the first."),
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
    claims = (_CLAIM,)
    shared_options = {"demonstrations": None}
    axes = ("method", "kept", "positions")
    metrics = ("label_loyalty", "word_loyalty_5", "word_loyalty_10", "accuracy")

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
            *(condition(control, _PAPER_SET, self.positions[0]) for control in (READ_APART, "hidden random")),
        ]

    def passes(self, n_layers: int) -> float:
        placed = len(self.positions) if self.protocol == "corrected" else 1
        return (3 + len(self.kept) * placed + self.n_sets) / 4  # over queries; demonstrations are read once

    def measure(self, model: Any, prompts: PromptSet, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        rows = super().measure(model, prompts, condition, batch_size=batch_size)
        rows = rows.assign(set=rows.groupby("prompt").cumcount())
        return rows.assign(context_tokens=self._context_tokens(prompts, condition, rows))

    def _context_tokens(self, prompts: PromptSet, condition: Condition, rows: pd.DataFrame) -> list[int]:
        """Tokens of the demonstrations that each row's query sees."""
        if not condition["kept"]:
            return [prompts[i].query_start for i in rows["prompt"]]
        if condition["method"] == "text anchor":
            return [len(kept_positions(prompts[i], condition["kept"])) for i in rows["prompt"]]
        sizes = [[len(one) for one in self.kept_sets(prompt, condition)] for prompt in prompts]
        return [sizes[i][of_set] for i, of_set in zip(rows["prompt"], rows["set"], strict=True)]

    def runs(
        self, model: Any, prompts: PromptSet, condition: Condition, top: TopTokens, batch_size: int
    ) -> Sequence[Run]:
        if condition["method"] == "full context":
            return super().runs(model, prompts, condition, top, batch_size)
        if condition["method"] == "text anchor":
            short = [engine.without_the_rest(prompt, condition["kept"]) for prompt in prompts]
            return [run_shared(model, short, [top], batch_size=batch_size)]
        apart = [CutDemonstrations(range(hooked(model).sizes.n_layers))]
        return engine.on_kept(
            model, prompts, lambda prompt: self.kept_sets(prompt, condition), [top],
            positions=condition["positions"], reading=apart if condition["method"] == READ_APART else [],
            batch_size=batch_size,
        )  # fmt: skip

    def kept_sets(self, prompt: Prompt, condition: Condition) -> list[tuple[int, ...]]:
        """Kept positions of a prompt's demonstrations: one set, or several random ones."""
        if condition["method"] in ("hidden anchor", READ_APART):
            return [kept_positions(prompt, condition["kept"])]
        if self.protocol == "corrected":
            return engine.random_sets(prompt, self.n_sets, self.random_seed)
        if condition["method"] == "hidden random":
            return [engine.authors_random_set(prompt)]
        return engine.authors_top_sets(prompt, self.n_sets)

    def loyalty(self, table: pd.DataFrame) -> pd.DataFrame:
        """All rows with their agreement with the full context and, where the gold class is known, correctness.

        Hidden_random-top keeps the rows of the set with the highest label loyalty of its task, seed and placement.
        """
        rows, best = super().loyalty(table), "hidden random, best set"
        draws = where(rows, method="hidden random" if self.protocol == "corrected" else best)
        by = ["model", "task", "seed", "shots", "positions"]
        groups = draws.groupby(by, sort=False, dropna=False)
        kept = [where(group, set=group.groupby("set")["label_loyalty"].mean().idxmax()) for _, group in groups]
        return pd.concat([rows[rows["method"] != best], *(one.assign(method=best) for one in kept)], ignore_index=True)

    def evidence(self, claim: Claim, table: pd.DataFrame) -> Evidence:
        """Paired by prompt with the best of random tokens, the same words as text, and a constant answer."""
        rows = self.loyalty(table)
        anchors = where(rows, method="hidden anchor", kept=_PAPER_SET)
        if anchors.empty:
            return Evidence.nothing()
        place = anchors["positions"].iloc[0]
        anchors = where(anchors, positions=place)
        controls = {
            "random tokens in place of the label words": where(rows, method="hidden random", positions=place),
            "the same words as text": where(rows, method="text anchor"),
            "a constant answer": constant_answer(table[self.is_clean(table)]),
        }
        loyalty = {name: by_prompt(one, "label_loyalty", "method").iloc[:, 0] for name, one in controls.items()}
        best = max(loyalty, key=lambda name: loyalty[name].mean())
        of_anchors = by_prompt(anchors, "label_loyalty", "method").iloc[:, 0]
        kept, whole = (where(rows, method=one)["context_tokens"].mean() for one in ("text anchor", "full context"))
        note = (
            f"The best control is {best}; controls: {', '.join(f'{k} {v.mean():.2f}' for k, v in loyalty.items())}. The"
            f" exact alternative, a cache of the whole context, keeps every prediction but holds {whole:.0f} tokens"
            f" instead of {kept:.0f}."
        )
        return paired(claim, of_anchors, loyalty[best], note)

    def drawing(self, result: Result) -> Drawing:
        """Bars by condition, with the paper's numbers as marks; macro-F1 and the majority class next to accuracy."""
        summary, of_all, panels = result.summary(), self.over_tasks(result.table), []
        metrics = [m for m in ("label_loyalty", "word_loyalty_5", "accuracy") if m in set(of_all["metric"])]
        # The full context has an accuracy and no loyalty.
        widest = max((where(of_all, metric=metric)[list(self.axes)] for metric in metrics), key=len)
        every = [_label(*row) for row in widest.itertuples(index=False)]
        for metric in metrics:
            means = where(of_all, metric=metric).set_index(list(self.axes))
            rows = means[::-1].reset_index()
            names = [_label(*row) for row in rows[list(self.axes)].itertuples(index=False)]
            items = [bars(rows, names, [_COLOURS.get(method, SKY) for method in rows["method"]])]
            items += _published(rows.assign(name=names), metric)
            if metric == "accuracy":
                items += _accuracy_context(summary, means[::-1].index, names)
            panels.append(Panel(TITLES[metric], items, {"range": [0, 1.04]}))
        return Drawing(
            summary, panels, x_title="share of prompts", note=f"mean of tasks, {intervals(of_all)}", common=True,
            y_axis={"categoryorder": "array", "categoryarray": every[::-1]}, height=34 * len(every), hover="closest",
        )  # fmt: skip


_COLOURS = {"full context": GREY, "text anchor": ORANGE, "hidden anchor": LABEL_COLOUR, READ_APART: LABEL_COLOUR}


def _label(method: str, kept: str, positions: str) -> str:
    details = ", ".join(filter(None, (kept, positions and f"{positions} positions")))
    return f"{method} ({details})" if details else method


def _published(rows: pd.DataFrame, metric: str) -> list[go.Scatter]:
    """Table 2's numbers as marks on the bars of the paper's kept set."""
    marked = rows[rows["method"].isin(list(TABLE_2)) & rows["kept"].isin(["", _PAPER_SET])]
    marked = marked[~marked["positions"].isin(["zero", "packed"])]
    place = ("label_loyalty", "word_loyalty_5", "accuracy").index(metric)
    return [
        marks(marked["name"], [TABLE_2[method][number][place] / 100 for method in marked["method"]], symbol, name,
              marker_size=10)
        for number, (name, symbol) in enumerate(PAPER_MODELS.items())
    ]  # fmt: skip


def _accuracy_context(summary: pd.DataFrame, conditions: pd.Index, names: Sequence[str]) -> list[go.Scatter]:
    """Macro-F1 as marks, and the accuracy of always answering the majority class as a line."""
    f1 = where(summary, metric="macro_f1").groupby(conditions.names, sort=False)["mean"].mean()
    majority = where(summary, metric="majority_rate")["mean"].mean()
    line = go.Scatter(
        y=[names[0], names[-1]], x=[majority] * 2, mode="lines", name="majority class",
        line={"color": INK, "width": 1.5, "dash": "dash"}, hovertemplate="%{x:.4f}",
    )  # fmt: skip
    return [marks(names, f1[conditions], "line-ns-open", "macro-F1"), line]
