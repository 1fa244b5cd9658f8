"""How special label words are among the tokens of a context (beyond the paper; after Bai et al. 2024).

The paper keeps label words together with the template's tokens and finds that label words alone do not do. Which of
them carry the demonstrations is asked here for every kind of token apart: label words, the template's separators (":",
line breaks), the template's words, and as many random tokens of the texts as there are label words. Three changes, each
beside the whole context:

- *isolated*: tokens of the kind see nothing before them, in any layer, so they gather nothing (section 2.2);
- *kept alone*: of all the demonstrations' keys and values only theirs are left to the query (section 3.2);
- *left out*: all are left but theirs, as Bai et al. ablate them.

A kind that is an anchor hurts when isolated or left out, and suffices when kept alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import pandas as pd
import plotly.graph_objects as go

from mechicl.declared import Switch
from mechicl.engines.compression import Kept, keep, kept_positions
from mechicl.engines.context import read_context
from mechicl.engines.prefix import joined_runs, run_shared, shared_demonstrations
from mechicl.figures import GREEN, GREY, LABEL_COLOUR, ORANGE, PURPLE, SKY, panels
from mechicl.hooks import Patch, Run
from mechicl.models import hooked
from mechicl.patches.isolate import IsolateLabels, IsolateRandom, IsolateTemplate
from mechicl.probes import TopTokens
from mechicl.prompts import Prompt, PromptSet
from mechicl.results import Result
from mechicl.studies.label_words.accuracy import beside_accuracy, is_right
from mechicl.studies.label_words.drawing import add_bars, add_marks
from mechicl.studies.label_words.loyalty import prediction_rows, top_tokens, with_loyalty
from mechicl.studies.study import Condition, Study
from mechicl.studies.summary import INTERVALS, by_metric, mean_with_interval

RANDOM = "random text"
_KINDS: dict[str, Kept | None] = {
    "label words": "label",
    "separators": "separators",
    "template words": "template words",
    "label words, separators": "label+separators",
    "label words, template": "label+template",
    RANDOM: None,
}
"""Kinds of tokens: the kept set that they are."""
_COLOURS = dict(zip(_KINDS, (LABEL_COLOUR, GREEN, ORANGE, PURPLE, SKY, GREY), strict=True))
_CHANGES = ("isolated", "kept alone", "left out")
_METRICS = ("label_loyalty", "word_loyalty_5", "accuracy", "kind_tokens")


@dataclass(frozen=True)
class AnchorKinds(Study):
    """A row per prompt, change (isolated, kept alone or left out) and kind of token: the prediction.

    Gold and predicted class, label probabilities, top-10 token ids, and how many tokens are of the kind.
    """

    random_seed: Annotated[int, Switch("Seed of the random text tokens.", min=0)] = 0

    name = "anchor-kinds"
    title = "How special label words are"
    shows = "Label words, separators, template words and random text: isolated, kept alone, left out."
    source = "beyond Label Words are Anchors, sections 2.2 and 3.2"
    claim = "Label words are the anchors; with label words alone, without the template, compression fails (footnote 6)."
    no_paper_protocol = "the paper has no such comparison"
    shared_options = {"demonstrations": None}

    def conditions(self, model: Any) -> list[Condition]:
        changed = [{"change": change, "kind": kind} for change in _CHANGES for kind in _KINDS]
        return [{"change": "nothing", "kind": ""}, *changed]

    def passes(self, n_layers: int) -> float:
        return (1 + len(_CHANGES) * len(_KINDS)) / 3  # demonstrations are read once for many queries

    def measure(self, model: Any, prompts: PromptSet, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        top = top_tokens(model)
        change, kind = condition["change"], condition["kind"]
        if change in ("nothing", "isolated"):
            patches = self.patches(model, kind) if change == "isolated" else []
            seen = run_shared(model, prompts, [top], patches, batch_size=batch_size, progress=None)
        else:
            seen = self._on_part(model, prompts, change, kind, top, batch_size)
        tokens = [len(self.positions(prompt, kind)) if kind else prompt.query_start for prompt in prompts]
        return prediction_rows(prompts, seen, top).assign(kind_tokens=tokens)

    def patches(self, model: Any, kind: str) -> list[Patch]:
        """The isolation of a kind in all layers."""
        layers = range(hooked(model).sizes.n_layers)
        if kind == RANDOM:
            return [IsolateRandom(layers, seed=self.random_seed, pool="demo_text", resample="per_seed")]
        found: list[Patch] = [IsolateLabels(layers, span="label")] if "label" in kind else []
        if "separators" in kind:
            found.append(IsolateTemplate(layers, which="separators"))
        elif "template" in kind:
            found.append(IsolateTemplate(layers, which="words" if kind == "template words" else "all"))
        return found

    def positions(self, prompt: Prompt, kind: str) -> tuple[int, ...]:
        """The tokens of a kind in a prompt's demonstrations."""
        kept = _KINDS[kind]
        if kept is None:
            random = IsolateRandom([0], seed=self.random_seed, pool="demo_text", resample="per_seed")
            return tuple(sorted(random.rows(prompt, 0)))
        return tuple(p for p in kept_positions(prompt, kept) if p >= prompt.demonstrations[0].span[0])

    def _on_part(self, model: Any, prompts: PromptSet, change: str, kind: str, top: TopTokens, batch_size: int) -> Run:
        """The queries on what is left of their demonstrations; a BOS token always is."""
        groups, parts = shared_demonstrations(prompts), []
        for indices in groups:
            first = prompts[indices[0]]
            of_kind = set(self.positions(first, kind))
            bos = range(first.demonstrations[0].span[0])
            shown = set(range(first.query_start)) - of_kind if change == "left out" else {*bos, *of_kind}
            context = keep(read_context(model, first), sorted(shown), "original")
            asked = prompts.select(indices)
            parts.append(context.ask(model, asked, [top], batch_size=batch_size, progress=None))
        return joined_runs(parts, groups, [top])

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Means: model, task, shots, metric, change, kind, mean, low, high, n, seeds, seed_sd.

        Metrics: label_loyalty, word_loyalty_5, and kind_tokens, how many they are; where gold is known accuracy,
        macro_f1 and, of the whole context, majority_rate.
        """
        rows = with_loyalty(table, table[table["change"] == "nothing"])
        rows["accuracy"] = is_right(rows)
        by = ["model", "task", "shots", "change", "kind"]
        found = mean_with_interval(by_metric(rows, _METRICS, ["change", "kind"]), "value", [*by, "metric"])
        return pd.concat([found, beside_accuracy(rows, by, rows["change"] == "nothing")], ignore_index=True)

    def figure(self, result: Result) -> go.Figure:
        summary = result.summary()
        figure = panels(_CHANGES)
        tokens = summary[summary["metric"] == "kind_tokens"].groupby("kind")["mean"].mean()
        kinds = list(_KINDS)[::-1]
        names = [f"{kind} ({tokens[kind]:.0f})" for kind in kinds]
        for column, change in enumerate(_CHANGES, start=1):
            changed = summary[summary["change"] == change]
            rows, words = (
                changed[changed["metric"] == metric].groupby("kind")[["mean", "low", "high"]].mean().loc[kinds]
                for metric in ("label_loyalty", "word_loyalty_5")
            )
            add_bars(
                figure, rows, names, [_COLOURS[kind] for kind in kinds], column,
                hovertemplate="%{y}: label loyalty %{x:.4f}<extra></extra>",
            )  # fmt: skip
            add_marks(
                figure, names, words["mean"], "line-ns-open", "word loyalty, k = 5", column,
                legendgroup="words", showlegend=column == 1,
            )  # fmt: skip
        told = f"in brackets how many of {tokens['']:.0f} context tokens; mean of tasks; {INTERVALS}"
        figure.update_xaxes(range=[0, 1.02])
        return self.styled(figure, summary, told, x="label loyalty", y="", height=36 * len(kinds), hover="closest")

    def finding(self, result: Result) -> str:
        summary = result.summary()
        mean = summary.groupby(["metric", "kind", "change"])["mean"].mean()
        loyalty, tokens = mean["label_loyalty"], mean["kind_tokens"]
        parts = [
            f"{kind} ({tokens[kind].mean():.0f}) {loyalty[kind, 'isolated']:.0%}, {loyalty[kind, 'kept alone']:.0%}, "
            f"{loyalty[kind, 'left out']:.0%}"
            for kind in ("label words", "separators", "template words", RANDOM)
        ]
        return f"Label loyalty with tokens isolated, kept alone, left out: {'; '.join(parts)}."
