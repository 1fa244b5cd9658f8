"""Isolation of label words (section 2.2, Fig. 4; numbers of layers App. D, Fig. 8; with two shots Fig. 10).

The paper cuts the label words' attention to everything before them in the first or the last n layers, and compares the
prediction with the clean run's: the same label (label loyalty), the same top-k next words (word loyalty, Jaccard).
Cutting in the first layers should hurt, cutting in the last layers or cutting at random tokens should not.

The authors draw the random tokens afresh in every layer from all positions up to the query, so no random token is
isolated throughout (`protocol="paper"`, with their very draws). `"corrected"` draws once per prompt. Both report word
loyalty at k = 5 (the paper) and k = 10 (the authors' notebook).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd

from mechicl.claims import Claim, Evidence, Verdicts
from mechicl.declared import Switch
from mechicl.errors import InputError
from mechicl.figures import GREY, INK, LABEL_COLOUR
from mechicl.hooks import Patch
from mechicl.models import hooked
from mechicl.models.tokenizers import token_text
from mechicl.patches import isolate
from mechicl.patches.cut_edges import Mode
from mechicl.patches.isolate import random_pool
from mechicl.prompts import Prompt, PromptSet
from mechicl.results import Result
from mechicl.studies.drawing import Curve, Drawing, Level, Panel, bars, marks, where
from mechicl.studies.label_words.predictions import PROMPT, TITLES, PredictionStudy
from mechicl.studies.parts import DEMONSTRATION_SET, set_names
from mechicl.studies.study import Condition
from mechicl.studies.summary import BAND, INTERVALS, by_metric, mean_over_tasks

_AUTHORS_SEED = 42  # their Trainer resets the global seed to 42 whatever the experiment's seed
_STYLES = {("label words", "first"): (LABEL_COLOUR, "solid"), ("label words", "last"): (LABEL_COLOUR, "dot"),
           ("random tokens", "first"): (GREY, "solid"), ("random tokens", "last"): (GREY, "dot")}  # fmt: skip
_SOURCE = "Label Words are Anchors, section 2.2, Fig. 4 and 8"
_BY_RANDOM, _BY_LAST = ("random tokens", "first"), ("label words", "last")
_MEASURED = {
    Claim(
        f"isolation-{kind}{suffix}", f"Isolating label words in the first layers changes {what} more than {control}.",
        _SOURCE, f"change{over}", f"of {what}", control, 0.1,
    ): (metric, condition)
    for kind, metric, what in (
        ("labels", "label_loyalty", "predicted labels"), ("words", "word_loyalty_5", "the five most probable words"),
    )
    for suffix, control, condition, over in (
        ("", "isolating as many random tokens there", _BY_RANDOM, ""),
        ("-depth", "isolating them in the last layers", _BY_LAST, " over that of random tokens"),
    )
}  # fmt: skip
"""Each claim with its metric, and the condition that is its null."""
_CONSTANT = "constant answer"
_CLAIMED = 5
"""Numbers of first and of last layers that the paper speaks of."""


@dataclass(frozen=True)
class Isolation(PredictionStudy):
    """A row per prompt and condition (label words or random tokens isolated in the first or last n layers).

    Gold and predicted class, label probabilities, and top-10 token ids.
    """

    n_layers: Annotated[tuple[int, ...], Switch("Numbers of first and of last layers to isolate.", min=1)] = (1, 3, 5)
    mode: Annotated[
        Mode, Switch("How attention is cut: presoftmax (the authors' code), postsoftmax_zero or postsoftmax_renorm.")
    ] = "presoftmax"
    pool: Annotated[isolate.Pool, Switch("Where random tokens may lie: all, demo_text or demo_template.")] = "all"
    resample: Annotated[
        isolate.Resample,
        Switch("When random tokens are drawn afresh: per_prompt, per_layer (the authors) or per_seed."),
    ] = "per_prompt"
    span: Annotated[
        Literal["anchor", "label"], Switch("What is isolated of a label word: its anchor sub-token, or all (label).")
    ] = "anchor"
    random_seed: Annotated[int, Switch("Seed of the random control.", min=0)] = 0

    name = "isolation"
    title = "Isolating label words"
    shows = "Predictions with label words cut off from what precedes them."
    source = _SOURCE
    claim = (
        "Isolating the label words in the first layers changes the prediction; isolating them in the last layers, or "
        "isolating as many random tokens, hardly does."
    )
    claims = tuple(_MEASURED)

    axes = ("isolated", "where", "n_layers")
    metrics = ("label_loyalty", "word_loyalty_5", "word_loyalty_10")

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

    def patches(self, model: Any, prompts: PromptSet, condition: Condition) -> list[Patch]:
        if condition["isolated"] == "nothing":
            return []
        choose = isolate.first_layers if condition["where"] == "first" else isolate.last_layers
        layers = choose(condition["n_layers"], hooked(model).sizes.n_layers)
        if condition["isolated"] == "label words":
            return [isolate.IsolateLabels(layers, span=self.span, mode=self.mode)]
        if self.protocol == "paper":
            return [isolate.IsolatePositions(layers, mode=self.mode, positions=authors_draws(prompts, len(layers)))]
        return [
            isolate.IsolateRandom(layers, mode=self.mode, seed=self.random_seed, pool=self.pool, resample=self.resample)
        ]

    def measure(self, model: Any, prompts: PromptSet, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        rows = super().measure(model, prompts, condition, batch_size=batch_size)
        tokenizer = hooked(model).tokenizer
        words = [[token_text(tokenizer, token) for token in ids[:5]] if tokenizer else [] for ids in rows["top_tokens"]]
        shown = pd.Series(words, index=rows.index, dtype=object)
        return rows.assign(model_layers=hooked(model).sizes.n_layers, top_words=shown)

    def evidence(self, claim: Claim, table: pd.DataFrame) -> Evidence:
        metric, control = _MEASURED[claim]
        n_layers = self._claimed
        if control == _BY_LAST and "model_layers" in table:
            half = int(table["model_layers"].iloc[0]) // 2
            n_layers = max((n for n in self.n_layers if n <= min(half, n_layers)), default=0)
            if not n_layers:
                why = f"The first and the last layers overlap; isolate at most {half} (n_layers)."
                return Evidence(np.empty(0), None, np.empty(0), undecided=why)
        rows = where(self.loyalty(table), n_layers=n_layers)
        names = ["seed", DEMONSTRATION_SET, "prompt"]
        change = 1 - rows.groupby([rows[name].map(str) for name in names] + ["isolated", "where"])[metric].mean()
        changes = change.unstack(["isolated", "where"])
        sets = set_names(changes.index)
        if metric == "label_loyalty" and 1 - (floor := self.floor(table)) < claim.least:
            why = f"{floor:.0%} of the clean model's answers are the same, so that hardly one could change."
            return Evidence(np.empty(0), None, np.empty(0), undecided=why)
        if control == _BY_RANDOM:
            return Evidence(changes["label words", "first"].to_numpy(), changes[control].to_numpy(), sets)
        # What is cut in the last layers can change less by construction, which random tokens show, too.
        excess = {end: changes["label words", end] - changes["random tokens", end] for end in ("first", "last")}
        return Evidence(excess["first"].to_numpy(), excess["last"].to_numpy(), sets)

    def verdicts(self, result: Result) -> Verdicts:
        return Verdicts(replace(one, about={**one.about, "mode": self.mode}) for one in super().verdicts(result))

    @property
    def _claimed(self) -> int:
        return _CLAIMED if _CLAIMED in self.n_layers else max(self.n_layers)

    def floor(self, table: pd.DataFrame) -> float:
        """Label loyalty of always giving the clean run's commonest answer, mean over tasks and seeds."""
        clean = table[self.is_clean(table)].groupby(["model", "task", "seed", "shots"], dropna=False)["predicted"]
        return float(clean.agg(lambda predicted: predicted.value_counts(normalize=True).iloc[0]).mean())

    def drawing(self, result: Result) -> Drawing:
        rows = by_metric(self.loyalty(result.table), self.metrics, self.axes)
        means = mean_over_tasks(rows, "value", ["model", "metric", *self.axes])
        floors, agreement = {"label_loyalty": self.floor(result.table)}, "agreement with the clean run"
        if len(self.n_layers) == 1:
            panels = [self._bars(metric, means, floors.get(metric)) for metric in self.metrics]
            return Drawing(means, panels, x="", x_title=agreement, note=INTERVALS, common=True, hover="closest")
        panels = [self._curves(metric, floors.get(metric)) for metric in self.metrics]
        return Drawing(
            means, panels, x="n_layers", x_title="isolated layers", y_title=agreement, note=BAND, common=True
        )

    def _curves(self, metric: str, floor: float | None) -> Panel:
        """Agreement by the number of isolated layers."""
        levels = [] if floor is None else [Level(floor, INK, _CONSTANT)]
        curves = [
            Curve(metric, f"{isolated}, {end} layers", colour, dash, {"isolated": isolated, "where": end})
            for (isolated, end), (colour, dash) in _STYLES.items()
        ]
        return Panel(TITLES[metric], [*levels, *curves], {}, {"range": [0, 1.02]})

    def _bars(self, metric: str, means: pd.DataFrame, floor: float | None) -> Panel:
        """Agreement with a single number of isolated layers."""
        rows = where(means, metric=metric).set_index(["isolated", "where"]).loc[list(_STYLES)[::-1]]
        names = [f"{isolated}, {end} {self.n_layers[0]}" for isolated, end in rows.index]
        colours, dashes = zip(*(_STYLES[place] for place in rows.index), strict=True)
        patterns = ["/" if dash == "dot" else "" for dash in dashes]
        levels = [] if floor is None else [marks(names, [floor] * len(names), "line-ns-open", _CONSTANT)]
        content = [bars(rows, names, colours, marker_pattern_shape=patterns), *levels]
        return Panel(TITLES[metric], content, {"range": [0, 1.02]})

    def tables(self, result: Result) -> dict[str, pd.DataFrame]:
        if "top_words" not in result.table or not all(map(len, result.table["top_words"])):
            return {}  # saved by an earlier version, or a model without a tokenizer
        return {"Where isolation changes the most probable words most (Table 5)": isolation_examples(result)}

    def finding(self, result: Result) -> str:
        return (
            f"{result.claims.in_words()} Isolated layers: {self._claimed}, mode {self.mode}. A constant answer keeps "
            f"{self.floor(result.table):.0%} of predicted labels."
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


def isolation_examples(result: Result, tokenizer: Any = None, *, n: int = 5, k: int = 5) -> pd.DataFrame:
    """Prompts whose most probable words change most with label words isolated in the first layers (App. C, Table 5).

    Columns: prompt, predicted class index with and without isolation, and the k most probable words of each. Without a
    tokenizer these are the five that the result holds.
    """
    if not isinstance(result.study, Isolation):
        raise InputError(f"isolation_examples reads results of the study isolation, not of {result.name}.")
    rows = where(result.study.loyalty(result.table), isolated="label words", where="first")
    rows = rows[rows["n_layers"] == rows["n_layers"].max()].nsmallest(n, "word_loyalty_5", keep="first")

    stored = dict[int, str]()
    if tokenizer is None:
        if "top_words" not in result.table or not all(map(len, result.table["top_words"])):
            raise InputError("This result holds no words; give isolation_examples the model's tokenizer.")
        for ids, texts in zip(result.table["top_tokens"], result.table["top_words"], strict=True):
            stored |= zip(map(int, ids), texts, strict=False)

    def words(ids: Sequence[int]) -> list[str]:
        return [stored.get(int(token)) or token_text(tokenizer, int(token)) for token in ids[:k]]

    table: pd.DataFrame = rows[[*PROMPT, "n_layers", "gold"]].assign(
        predicted_whole=rows["predicted_clean"],
        predicted_isolated=rows["predicted"],
        words_whole=rows["top_tokens_clean"].map(words),
        words_isolated=rows["top_tokens"].map(words),
    )
    return table
