"""How special label words are among a context's tokens (beyond the paper; after Bai et al. 2024).

The paper keeps label words together with the template's tokens and finds that label words alone do not suffice. We ask
which of these tokens carry the demonstrations, for each kind separately: label words, the template's separators (":",
line breaks), the template's words, and random text tokens, one per label word. There are three changes, each compared
with the full context:

- *isolated*: tokens of the kind see nothing before them, in any layer, so they gather nothing (section 2.2);
- *kept alone*: the query sees only their keys and values of all the demonstrations' (section 3.2);
- *left out*: the query sees all keys and values but theirs, as Bai et al. ablate them.

A kind that is an anchor hurts when isolated or left out, and suffices when kept alone.

Without a BOS token, position 0 is one of the template's words. It is not an anchor but a sink, which takes attention
that has nowhere else to go. So it is also left out and kept by itself, and kept together with the label words. A BOS
token is always kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import pandas as pd

from mechicl.claims import Claim, Evidence
from mechicl.declared import Switch
from mechicl.engines.compression import Kept, kept_positions, on_kept
from mechicl.figures import GREEN, GREY, INK, LABEL_COLOUR, ORANGE, PURPLE, SKY
from mechicl.hooks import Patch, Run
from mechicl.models import hooked
from mechicl.patches.isolate import IsolateLabels, IsolateRandom, IsolateTemplate
from mechicl.probes import TopTokens
from mechicl.prompts import Prompt, PromptSet
from mechicl.results import Result
from mechicl.studies.drawing import Drawing, Panel, bars, marks, where
from mechicl.studies.label_words.predictions import TITLES, PredictionStudy, by_prompt, paired
from mechicl.studies.study import Condition
from mechicl.studies.summary import intervals

RANDOM, SINK, _LABELS_AND_SINK = "random text", "position 0", "label words, position 0"
_KINDS: dict[str, Kept | None] = {
    "label words": "label",
    "separators": "separators",
    "template words": "template words",
    "label words, separators": "label+separators",
    "label words, template": "label+template",
    RANDOM: None,
    SINK: None,
    _LABELS_AND_SINK: "label",
}
"""Kinds of tokens, each with its name among kept sets."""
_COLOURS = dict(zip(_KINDS, (LABEL_COLOUR, GREEN, ORANGE, PURPLE, SKY, GREY, INK, LABEL_COLOUR), strict=True))
_NO_CHANGE = {("isolated", SINK), ("isolated", _LABELS_AND_SINK), ("left out", _LABELS_AND_SINK)}
"""Not measured: position 0 sees nothing before it anyway, and label words are left out without it already."""
_CHANGES = ("kept alone", "left out", "isolated")
"""In the order of the panels; the first has every kind, and so labels the bars."""


def _claim(kind: str, null: str) -> Claim:
    return Claim(
        f"anchor-kinds-{kind.split()[-1]}", f"Isolating label words changes predictions more than isolating {null}.",
        "beyond Label Words are Anchors, section 2.2", "word loyalty (k = 5) lost to isolation", "word loyalty", null,
        0.1,
    )  # fmt: skip


_NULLS = {RANDOM: "the same number of random text tokens", "separators": "the separators"}
_CLAIMS = {_claim(kind, null): kind for kind, null in _NULLS.items()}
"""Each claim, with the kind of token that it compares label words with."""


@dataclass(frozen=True)
class AnchorKinds(PredictionStudy):
    """A row per prompt, change (isolated, kept alone or left out) and kind of token: the prediction.

    Gold and predicted class, label probabilities, top-10 token ids, and the number of tokens of the kind.
    """

    random_seed: Annotated[int, Switch("Seed of the random text tokens.", min=0)] = 0

    name = "anchor-kinds"
    title = "How special label words are"
    shows = "Label words, separators, template words and random text: isolated, kept alone, left out."
    source = "beyond Label Words are Anchors, sections 2.2 and 3.2"
    claim = "Label words are the anchors; with label words alone, without the template, compression fails (footnote 6)."
    claims = tuple(_CLAIMS)
    no_paper_protocol = "the paper has no such comparison"
    shared_options = {"demonstrations": None}
    axes = ("change", "kind")
    metrics = ("label_loyalty", "word_loyalty_5", "accuracy", "kind_tokens")

    def conditions(self, model: Any) -> list[Condition]:
        pairs = [(change, kind) for change in _CHANGES for kind in _KINDS if (change, kind) not in _NO_CHANGE]
        changed = [{"change": change, "kind": kind} for change, kind in pairs]
        return [{"change": "nothing", "kind": ""}, *changed]

    def passes(self, n_layers: int) -> float:
        return (1 + len(_CHANGES) * len(_KINDS)) / 3  # one pass over the demonstrations serves many queries

    def measure(self, model: Any, prompts: PromptSet, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        kind = condition["kind"]
        tokens = [len(self.positions(prompt, kind)) if kind else prompt.query_start for prompt in prompts]
        return super().measure(model, prompts, condition, batch_size=batch_size).assign(kind_tokens=tokens)

    def runs(
        self, model: Any, prompts: PromptSet, condition: Condition, top: TopTokens, batch_size: int
    ) -> Sequence[Run]:
        change, kind = condition["change"], condition["kind"]
        if change in ("nothing", "isolated"):
            return super().runs(model, prompts, condition, top, batch_size)

        def remaining(prompt: Prompt) -> list[list[int]]:
            """The tokens of the demonstrations that a change keeps; a BOS token is always among them."""
            of_kind = set(self.positions(prompt, kind))
            if change == "left out":
                return [sorted(set(range(prompt.query_start)) - of_kind)]
            return [sorted({*range(prompt.demonstrations[0].span[0]), *of_kind})]

        return on_kept(model, prompts, remaining, [top], batch_size=batch_size)

    def patches(self, model: Any, prompts: PromptSet, condition: Condition) -> list[Patch]:
        """The isolation of a kind in all layers."""
        kind, layers = condition["kind"], range(hooked(model).sizes.n_layers)
        if kind == RANDOM:
            return [self._random(layers)]
        patches: list[Patch] = [IsolateLabels(layers, span="label")] if "label" in kind else []
        if "separators" in kind:
            patches.append(IsolateTemplate(layers, which="separators"))
        elif "template" in kind:
            patches.append(IsolateTemplate(layers, which="words" if kind == "template words" else "all"))
        return patches

    def positions(self, prompt: Prompt, kind: str) -> tuple[int, ...]:
        """The tokens of a kind in a prompt's demonstrations."""
        kept = _KINDS[kind]
        if kind == RANDOM:
            return tuple(sorted(self._random([0]).rows(prompt, 0)))
        sink = (0,) if kind in (SINK, _LABELS_AND_SINK) else ()
        positions = () if kept is None else kept_positions(prompt, kept)
        return (*sink, *(p for p in positions if p >= prompt.demonstrations[0].span[0]))

    def _random(self, layers: Sequence[int]) -> IsolateRandom:
        return IsolateRandom(layers, seed=self.random_seed, pool="demo_text", resample="per_seed")

    def evidence(self, claim: Claim, table: pd.DataFrame) -> Evidence:
        """Paired by prompt."""
        rows = where(self.loyalty(table), change="isolated")
        tokens = rows.groupby("kind")["kind_tokens"].mean()
        if _CLAIMS[claim] == RANDOM and tokens["label words"] > tokens[RANDOM]:
            return Evidence.nothing(
                "Label words have several tokens here, but only one random token is isolated for each; use label words "
                "of one token."
            )
        changed = 1 - by_prompt(rows, "word_loyalty_5", "kind")
        return paired(claim, changed["label words"], changed[_CLAIMS[claim]])

    def drawing(self, result: Result) -> Drawing:
        """Bars of label loyalty for each change, with word loyalty as marks."""
        summary = self.over_tasks(result.table)
        tokens = where(summary, metric="kind_tokens").groupby("kind")["mean"].mean()
        panels = []
        for change in _CHANGES:
            kinds = [kind for kind in reversed(_KINDS) if (change, kind) not in _NO_CHANGE]
            names = [f"{kind} ({tokens[kind]:.0f})" for kind in kinds]
            label, words = (
                where(summary, change=change, metric=metric).set_index("kind").loc[kinds]
                for metric in ("label_loyalty", "word_loyalty_5")
            )
            hover = "%{y}: label loyalty %{x:.4f}<extra></extra>"
            label_bars = bars(label, names, [_COLOURS[kind] for kind in kinds], hovertemplate=hover)
            word_marks = marks(names, words["mean"], "line-ns-open", TITLES["word_loyalty_5"])
            panels.append(Panel(change, [label_bars, word_marks], {"range": [0, 1.02]}))
        note = f"in brackets how many of {tokens['']:.0f} context tokens; mean of tasks; {intervals(summary)}"
        return Drawing(
            summary, panels, x_title="label loyalty", note=note, common=True, height=36 * len(_KINDS), hover="closest",
        )  # fmt: skip
