"""Isolation of label words (section 2.2, Fig. 4; numbers of layers App. D, Fig. 8; with two shots Fig. 10).

The paper cuts the label words' attention to everything before them in the first or the last n layers, and compares the
prediction with the whole model's: the same label (label loyalty), the same top-k next words (word loyalty, Jaccard).
Cutting in the first layers should hurt, cutting in the last layers or cutting at random tokens should not.

The authors draw the random tokens afresh in every layer from all positions up to the query, so no random token is
isolated throughout (`protocol="paper"`, with their very draws). `"corrected"` draws once per prompt. Both report word
loyalty at k = 5 (the paper) and k = 10 (the authors' notebook).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import pandas as pd
import plotly.graph_objects as go

from mechicl.declared import Switch
from mechicl.engines.prefix import run_shared
from mechicl.errors import InputError
from mechicl.figures import GREY, LABEL_COLOUR, add_curve, error_bars, panels
from mechicl.hooks import Patch
from mechicl.models import hooked
from mechicl.models.tokenizers import token_text
from mechicl.patches.cut_edges import Mode
from mechicl.patches.isolate import (
    IsolateLabels,
    IsolatePositions,
    IsolateRandom,
    Pool,
    first_layers,
    last_layers,
    random_pool,
)
from mechicl.prompts import Prompt, PromptSet
from mechicl.results import Result
from mechicl.studies.label_words.loyalty import LOYALTIES, PROMPT, TITLES, prediction_rows, top_tokens, with_loyalty
from mechicl.studies.study import Condition, Study
from mechicl.studies.summary import BAND, by_metric, mean_over_tasks, mean_with_interval

_CONDITIONS = ["isolated", "where", "n_layers"]
_AUTHORS_SEED = 42  # their Trainer resets the global seed to 42 whatever the experiment's seed
_STYLES = {("label words", "first"): (LABEL_COLOUR, "solid"), ("label words", "last"): (LABEL_COLOUR, "dot"),
           ("random tokens", "first"): (GREY, "solid"), ("random tokens", "last"): (GREY, "dot")}  # fmt: skip


@dataclass(frozen=True)
class Isolation(Study):
    """A row per prompt and condition (label words or random tokens isolated in the first or last n layers).

    Gold and predicted class, label probabilities, and top-10 token ids.
    """

    n_layers: Annotated[tuple[int, ...], Switch("Numbers of first and of last layers to isolate.", min=1)] = (1, 3, 5)
    mode: Annotated[
        Mode, Switch("How attention is cut: presoftmax (the authors' code), postsoftmax_zero or postsoftmax_renorm.")
    ] = "presoftmax"
    pool: Annotated[Pool, Switch("Where random tokens may lie: all, demo_text or demo_template.")] = "all"
    random_seed: Annotated[int, Switch("Seed of the random control.", min=0)] = 0

    name = "isolation"
    title = "Isolating label words"
    shows = "Predictions with label words cut off from what precedes them."
    source = "Label Words are Anchors, section 2.2, Fig. 4 and 8"
    claim = (
        "Isolating the label words in the first layers changes the prediction; isolating them in the last layers, or "
        "isolating as many random tokens, hardly does."
    )

    def conditions(self, model: Any) -> list[Condition]:
        total = hooked(model).sizes.n_layers
        if max(self.n_layers) > total:
            raise InputError(f"n_layers is {self.n_layers}; this model has {total} layers, choose among 1 to {total}.")
        return [
            {"isolated": "nothing", "where": "", "n_layers": 0},
            *(
                {"isolated": isolated, "where": where, "n_layers": n}
                for n in self.n_layers
                for where in ("first", "last")
                for isolated in ("label words", "random tokens")
            ),
        ]

    def passes(self, n_layers: int) -> float:
        return 1 + 1.5 * len(self.n_layers)

    def measure(self, model: Any, prompts: PromptSet, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        top = top_tokens(model)
        patch = self.patch(model, prompts, condition)
        seen = run_shared(model, prompts, [top], [patch] if patch else [], batch_size=batch_size)
        return prediction_rows(prompts, seen, top)

    def patch(self, model: Any, prompts: PromptSet, condition: Condition) -> Patch | None:
        """The isolation of one condition, or None for the whole model."""
        if condition["isolated"] == "nothing":
            return None
        choose = first_layers if condition["where"] == "first" else last_layers
        layers = choose(condition["n_layers"], hooked(model).sizes.n_layers)
        if condition["isolated"] == "label words":
            return IsolateLabels(layers, mode=self.mode)
        if self.protocol == "paper":
            return IsolatePositions(layers, mode=self.mode, positions=authors_draws(prompts, len(layers)))
        return IsolateRandom(layers, mode=self.mode, seed=self.random_seed, pool=self.pool)

    def loyalty(self, table: pd.DataFrame) -> pd.DataFrame:
        """Rows of the isolated conditions with their agreement with the whole model, between 0 and 1."""
        nothing = table["isolated"] == "nothing"
        return with_loyalty(table[~nothing], table[nothing])

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Mean loyalty: model, task, shots, metric, isolated, where, n_layers, mean, low, high, n, seeds."""
        rows = by_metric(self.loyalty(table), LOYALTIES, _CONDITIONS)
        return mean_with_interval(rows, "value", ["model", "task", "shots", "metric", *_CONDITIONS])

    def figure(self, result: Result) -> go.Figure:
        rows = by_metric(self.loyalty(result.table), LOYALTIES, _CONDITIONS)
        summary = mean_over_tasks(rows, "value", ["model", "metric", *_CONDITIONS])
        several = len(self.n_layers) > 1
        figure = panels([TITLES[metric] for metric in LOYALTIES])
        for column, metric in enumerate(LOYALTIES, start=1):
            for (isolated, where), (colour, dash) in _STYLES.items():
                chosen = (summary["metric"] == metric) & (summary["isolated"] == isolated) & (summary["where"] == where)
                if several:
                    add_curve(
                        figure, summary[chosen], x="n_layers", name=f"{isolated}, {where} layers",
                        colour=colour, dash=dash, legend=column == 1, column=column,
                    )  # fmt: skip
                else:
                    bar, name = summary[chosen].iloc[:1], f"{isolated}, {where} {self.n_layers[0]}"
                    figure.add_bar(
                        x=[name], y=bar["mean"], name=name, showlegend=False, marker_color=colour,
                        marker_pattern_shape="/" if dash == "dot" else "", error_y=error_bars(bar),
                        hovertemplate="%{y:.4f}", row=1, col=column,
                    )  # fmt: skip
        figure.update_yaxes(range=[0, 1.02])
        return self.styled(
            figure, summary, f"protocol {self.protocol}; {BAND}", x="isolated layers" if several else "",
            y="agreement with the whole model", counts=max(self.n_layers) if several else None,
        )  # fmt: skip

    def finding(self, result: Result) -> str:
        summary = result.summary()
        n = summary["n_layers"].max()
        label = summary[(summary["metric"] == "label_loyalty") & (summary["n_layers"] == n)]
        mean = label.groupby(["isolated", "where"])["mean"].mean()
        return (
            f"Label loyalty with {n} layers isolated: label words first {mean['label words', 'first']:.0%}, last "
            f"{mean['label words', 'last']:.0%}; random tokens first {mean['random tokens', 'first']:.0%}, last "
            f"{mean['random tokens', 'last']:.0%}."
        )


def authors_draws(prompts: Sequence[Prompt], n_layers: int) -> dict[Prompt, list[list[int]]]:
    """The random positions that the authors' code isolates: per prompt, then per layer, from one stream.

    Python's generator seeded with 42, whatever the experiment's seed; the pool is every position up to the one before
    the last before q, but for the label words.
    """
    stream = random.Random(_AUTHORS_SEED)
    return {
        prompt: [stream.sample(random_pool(prompt), len(prompt.anchors)) for _ in range(n_layers)] for prompt in prompts
    }


def isolation_examples(result: Result, tokenizer: Any, *, n: int = 5, k: int = 5) -> pd.DataFrame:
    """Prompts whose most probable words change most when label words are isolated in the first layers (App. C).

    Columns: prompt, predicted class index with and without isolation, and the k most probable words of each.
    """
    if not isinstance(result.study, Isolation):
        raise InputError(f"isolation_examples reads results of the study isolation, not of {result.name}.")
    rows = result.study.loyalty(result.table)
    rows = rows[(rows["isolated"] == "label words") & (rows["where"] == "first")]
    rows = rows[rows["n_layers"] == rows["n_layers"].max()].nsmallest(n, "word_loyalty_5", keep="first")

    def words(ids: Sequence[int]) -> list[str]:
        return [token_text(tokenizer, int(token)) for token in ids[:k]]

    table: pd.DataFrame = rows[[*PROMPT, "n_layers", "gold"]].assign(
        predicted_whole=rows["predicted_whole"],
        predicted_isolated=rows["predicted"],
        words_whole=rows["top_tokens_whole"].map(words),
        words_isolated=rows["top_tokens"].map(words),
    )
    return table
