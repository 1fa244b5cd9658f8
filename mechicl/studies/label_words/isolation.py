"""Isolation of label words (section 2.2, Fig. 4; numbers of layers App. D, Fig. 8; with two shots Fig. 10).

The paper cuts the label words' attention to everything before them in the first or the last n layers, and compares the
prediction with the clean run's: the same label (label loyalty), the same most probable next tokens (word loyalty).
Cutting in the first layers should hurt; cutting in the last layers or at random tokens should not.

The authors redraw the random tokens in every layer from all positions up to the query, so no random token is isolated
throughout (`protocol="paper"`, with the authors' draws). `"corrected"` draws once per prompt. Both report word loyalty
at k = 5 (the paper) and k = 10 (the authors' notebook), and the probability of the label words.

How attention is cut matters: without the edge to position 0, a label word may itself become an attention sink. So
`"corrected"` also isolates in further modes (`modes`), and cuts the same number of random edges as a second control. A
claim is supported only if its interval lies above 0 in every mode that cuts, and against random edges. One mode cuts
nothing: `exchange` gives a label word what that of the same class gathers in another demonstration set, which shows
whether label words carry more than their class. Loyalty is reported next to that of a constant answer.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd

from mechicl.claims import Claim, Evidence, Verdict, Verdicts
from mechicl.declared import Switch
from mechicl.engines.compression import AUTHORS_SEED
from mechicl.errors import InputError
from mechicl.hooks import Patch
from mechicl.models import hooked
from mechicl.models.tokenizers import token_text
from mechicl.patches import isolate
from mechicl.patches.cut_edges import Mode
from mechicl.patches.exchange import exchange
from mechicl.patches.isolate import random_pool
from mechicl.probes import LabelMass
from mechicl.prompts import Prompt, PromptSet
from mechicl.results import Result
from mechicl.studies.drawing import Drawing, where
from mechicl.studies.label_words.isolation_examples import isolation_examples
from mechicl.studies.label_words.isolation_figure import EDGES, LABELS, RANDOM, at_one_number, by_number
from mechicl.studies.label_words.isolation_modes import donors, in_every, norms_after, sinks, with_other_sets
from mechicl.studies.label_words.predictions import PROMPT, CutMode, PredictionStudy, constant_answer
from mechicl.studies.parts import DEMONSTRATION_SET, Material, Part, set_names
from mechicl.studies.study import Condition, Study
from mechicl.studies.summary import bands, intervals

Variant = Literal["presoftmax", "presoftmax_keep_0", "postsoftmax_zero", "postsoftmax_renorm", "exchange"]
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
        ("", "isolating the same number of random tokens there", _BY_RANDOM, ""),
        ("-depth", "isolating them in the last layers", _BY_LAST, " over that of random tokens"),
    )
}  # fmt: skip
"""Each claim, with its metric and the condition that serves as its null."""
_CLAIMED = 5
"""Numbers of first and last layers that the paper discusses."""


@dataclass(frozen=True)
class Isolation(PredictionStudy):
    """A row per prompt and condition (label words or random tokens isolated in the first or last n layers).

    Gold and predicted class, label probabilities, probability of all label words over the vocabulary, and top-10 token
    ids. For the claimed number of layers, also norms of the residual after them, at label words and at position 0.
    """

    n_layers: Annotated[tuple[int, ...], Switch("Numbers of first (and of last) layers to isolate.", min=1)] = (1, 3, 5)
    mode: CutMode = "presoftmax"
    modes: Annotated[
        tuple[Variant, ...],
        Switch(
            "Additional modes (protocol corrected); a claim is supported only if its interval lies above 0 in each. "
            "To add none, give the value of mode. exchange does not affect the verdict: it replaces what label words "
            "gather with what those of the same class gather in another demonstration set (its control does this to "
            "text tokens), and needs two demonstration sets."
        ),
    ] = ("presoftmax_keep_0", "postsoftmax_zero", "exchange")
    pool: Annotated[
        isolate.Pool,
        Switch(
            "Where random tokens are drawn from: all (any position before the target, query and template included), "
            "demo_text or demo_template."
        ),
    ] = "all"
    resample: Annotated[
        isolate.Resample,
        Switch(
            "When random tokens are redrawn: per_prompt, per_layer (the authors) or per_seed (needs pool demo_text or "
            "demo_template)."
        ),
    ] = "per_prompt"
    span: Annotated[isolate.Span, Switch("Which tokens of a label word are isolated: its anchor, or all (label).")] = (
        "anchor"
    )
    random_seed: Annotated[int, Switch("Seed of the random control.", min=0)] = 0

    name = "isolation"
    title = "Isolating label words"
    shows = "Predictions when label words cannot attend to anything before them."
    source = _SOURCE
    claim = (
        "Isolating the label words in the first layers changes the prediction; isolating them in the last layers, or "
        "isolating the same number of random tokens, hardly does."
    )
    claims = tuple(_MEASURED)

    axes = ("isolated", "where", "n_layers")
    metrics = ("label_loyalty", "word_loyalty_5", "word_loyalty_10", "label_mass")
    more = {"label_mass": LabelMass()}
    may_lack = ("label_norm", "first_norm")

    def conditions(self, model: Any) -> list[Condition]:
        total, arms = hooked(model).sizes.n_layers, list(self._arms)
        if max(self.n_layers) > total:
            raise InputError(f"n_layers is {self.n_layers}; this model has {total} layers, choose from 1 to {total}.")
        return [
            {"isolated": "nothing", "where": "", "n_layers": 0},
            *(
                {"isolated": isolated, "where": where, "n_layers": n}
                for chosen, numbers in ((arms[:2], self.n_layers), (arms[2:], self._of_verdicts(total)))
                for n in numbers
                for where in ("first", "last")
                for isolated in chosen
                if where == "first" or isolated == RANDOM or self._arms[isolated][0] == LABELS
            ),
        ]

    @property
    def _arms(self) -> dict[str, tuple[str, Variant]]:
        """The isolated tokens and the mode, by the arm's name in the table.

        The first two arms cover every number of layers. Random tokens in the last layers, which change next to nothing,
        are isolated only in `mode`.
        """
        arms: dict[str, tuple[str, Variant]] = {tokens: (tokens, self.mode) for tokens in (LABELS, RANDOM)}
        if self.protocol == "corrected":
            arms[EDGES] = (EDGES, self.mode)
            further = [mode for mode in self.modes if mode != self.mode]
            arms |= {f"{tokens} ({mode})": (tokens, mode) for mode in further for tokens in (LABELS, RANDOM)}
        return arms

    def _of_verdicts(self, total: int) -> list[int]:
        """Numbers of isolated layers that verdicts rest on, in a model with so many layers."""
        return sorted({self._claimed, self._apart(total) or self._claimed})

    def _apart(self, total: int) -> int:
        """The largest of them for which the first and last layers do not overlap; 0 if there is none."""
        return max((n for n in self.n_layers if n <= min(total // 2, self._claimed)), default=0)

    def passes(self, n_layers: int) -> float:
        further = (len(self._arms) - 2) * len(self._of_verdicts(n_layers))
        return 1 + 1.5 * len(self.n_layers) + 0.6 * further

    def parts(self, material: Material) -> tuple[list[Part], dict[str, Any]]:
        """Give each group of prompts with the same demonstrations a prompt of the previous group (the first: next)."""
        parts, origin = super().parts(material)
        if all(mode != "exchange" for _, mode in self._arms.values()):
            return parts, origin
        return with_other_sets(parts), origin

    def for_material(self, material: Material) -> Study:
        """Drop the exchange mode if there is only one demonstration set, which decides nothing anyway."""
        sets = [part.material for part in self.parts(material)[0] if isinstance(part.material, PromptSet)]
        if "exchange" not in self.modes or all(map(donors, sets)):
            return self
        return replace(self, modes=tuple(mode for mode in self.modes if mode != "exchange") or (self.mode,))

    def patches(self, model: Any, prompts: PromptSet, condition: Condition) -> list[Patch]:
        if condition["isolated"] == "nothing":
            return []
        choose = isolate.first_layers if condition["where"] == "first" else isolate.last_layers
        layers = choose(condition["n_layers"], hooked(model).sizes.n_layers)
        tokens, mode = self._arms[condition["isolated"]]
        cut: Mode = self.mode if mode == "exchange" else mode
        if tokens == EDGES:
            return [isolate.CutRandomEdges(layers, mode=cut, seed=self.random_seed, span=self.span)]
        if tokens == RANDOM and self.protocol == "paper":
            return [isolate.IsolatePositions(layers, mode=cut, positions=authors_draws(prompts, len(layers)))]
        drawn: dict[str, Any] = {"pool": self.pool, "resample": self.resample}
        if mode == "exchange":  # text is exchanged with text, label words with label words
            drawn = {"pool": "demo_text", "resample": "per_seed"}
        isolation = (
            isolate.IsolateLabels(layers, span=self.span, mode=cut) if tokens == LABELS
            else isolate.IsolateRandom(layers, mode=cut, seed=self.random_seed, span=self.span, **drawn)
        )  # fmt: skip
        return [exchange(model, isolation, donors(prompts)) if mode == "exchange" else isolation]

    def measure(self, model: Any, prompts: PromptSet, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        rows = super().measure(model, prompts, condition, batch_size=batch_size)
        tokenizer = hooked(model).tokenizer
        words = [[token_text(tokenizer, token) for token in ids[:5]] if tokenizer else [] for ids in rows["top_tokens"]]
        return rows.assign(
            model_layers=hooked(model).sizes.n_layers, top_words=pd.Series(words, index=rows.index, dtype=object),
            **self._norms(model, prompts, condition),
        )  # fmt: skip

    def _norms(self, model: Any, prompts: PromptSet, condition: Condition) -> dict[str, float]:
        """Norms after the claimed number of layers, without isolation and with label words isolated there."""
        n, arm = condition["n_layers"], condition["isolated"]
        measured = arm == "nothing" or (
            self._arms[arm][0] == LABELS and condition["where"] == "first" and n == self._claimed
        )
        missing = dict.fromkeys(self.may_lack, np.nan)
        if not measured or self.protocol == "paper":
            return missing
        return missing | norms_after(model, prompts, self.patches(model, prompts, condition), self._claimed)

    def loyalty(self, table: pd.DataFrame) -> pd.DataFrame:
        """Rows with their agreement with the clean run; tables of earlier versions lack the probability."""
        rows = super().loyalty(table)
        return rows if "label_mass" in rows else rows.assign(label_mass=np.nan)

    def evidence(self, claim: Claim, table: pd.DataFrame) -> Evidence:
        metric, control = _MEASURED[claim]
        n_layers = self._claimed
        if control == _BY_LAST and "model_layers" in table:
            n_layers = self._apart(total := int(table["model_layers"].iloc[0]))
            if not n_layers:
                why = f"The first and the last layers overlap; isolate at most {total // 2} (n_layers)."
                return Evidence.nothing(why)
        rows = where(self.loyalty(table), n_layers=n_layers)
        names = ["seed", DEMONSTRATION_SET, "prompt"]
        change = 1 - rows.groupby([rows[name].map(str) for name in names] + ["isolated", "where"])[metric].mean()
        changes = change.unstack(["isolated", "where"])
        sets = set_names(changes.index)
        if metric == "label_loyalty" and 1 - (floor := self.floor(table)) < claim.least:
            why = (
                f"The clean model gives the same answer to {floor:.0%} of prompts, so few predicted labels can change."
            )
            return Evidence.nothing(why)
        if control == _BY_RANDOM:
            return Evidence(changes["label words", "first"].to_numpy(), changes[control].to_numpy(), sets)
        # Cuts in the last layers can change less by construction; random tokens share this.
        excess = {end: changes["label words", end] - changes["random tokens", end] for end in ("first", "last")}
        return Evidence(excess["first"].to_numpy(), excess["last"].to_numpy(), sets)

    def _verdict(self, claim: Claim, rows: pd.DataFrame, facts: Mapping[str, str], remarks: Sequence[str]) -> Verdict:
        """The verdict in `mode`, checked against the other modes and against random edges."""
        measured, found = set(rows["isolated"]), dict[str, Verdict]()
        comparisons = {
            mode: {arm: tokens for arm, (tokens, one) in self._arms.items() if one == mode and tokens != EDGES}
            for mode in dict.fromkeys(mode for _, mode in self._arms.values())
        } | {f"{self.mode} against random edges": {LABELS: LABELS, EDGES: RANDOM}}
        for name, arms in comparisons.items():
            if measured.issuperset(arms):
                common = self.is_clean(rows) | ((rows["isolated"] == RANDOM) & (rows["where"] == "last"))
                chosen = rows[common | rows["isolated"].isin(arms)]
                of_mode = chosen.assign(isolated=chosen["isolated"].replace(arms))
                found[name] = super()._verdict(claim, of_mode, facts, remarks)
        norms = rows[rows["label_norm"].notna()] if "label_norm" in rows else rows[:0]
        means = norms.groupby("isolated", sort=False)[list(self.may_lack)].mean() if len(norms) else None
        modes = {arm: mode for arm, (_, mode) in self._arms.items()}
        return in_every(found, "" if means is None else sinks(means, modes, self._claimed))

    def verdicts(self, result: Result) -> Verdicts:
        return Verdicts(replace(one, about={**one.about, "mode": self.mode}) for one in super().verdicts(result))

    @property
    def _claimed(self) -> int:
        return _CLAIMED if _CLAIMED in self.n_layers else max(self.n_layers)

    def floor(self, table: pd.DataFrame, metric: str = "label_loyalty") -> float:
        """Loyalty of always giving one answer, mean over tasks and seeds; for `label_mass`, the clean run's value."""
        clean = constant_answer(table[self.is_clean(table)])
        return float(clean.groupby(PROMPT[:-1], dropna=False)[metric].mean().mean()) if metric in clean else np.nan

    def drawing(self, result: Result) -> Drawing:
        means = self.over_tasks(result.table)
        metrics = [metric for metric in self.metrics if metric in set(means["metric"])]
        floors, what = {metric: self.floor(result.table, metric) for metric in metrics}, "agreement or probability"
        if len(self.n_layers) == 1:
            panels = [at_one_number(metric, means, floors[metric], self._arms, *self.n_layers) for metric in metrics]
            return Drawing(means, panels, x="", x_title=what, note=intervals(means), common=True, hover="closest")
        panels = [by_number(metric, means, floors[metric], self._arms, self._claimed) for metric in metrics]
        return Drawing(
            means, panels, x="n_layers", x_title="isolated layers", y_title=what, note=bands(means), common=True
        )

    def tables(self, result: Result) -> dict[str, pd.DataFrame]:
        if "top_words" not in result.table or not all(map(len, result.table["top_words"])):
            return {}  # saved by an earlier version, or a model without a tokenizer
        return {"Where isolation changes the most probable words most (Table 5)": isolation_examples(result)}

    def details(self, result: Result) -> list[str]:
        return [
            f"Isolated layers: {self._layers_in_words(result.table)}, mode {self.mode}.",
            f"A constant answer keeps {self.floor(result.table):.0%} of predicted labels.",
            *super().details(result),
        ]

    def _layers_in_words(self, table: pd.DataFrame) -> str:
        """Numbers of isolated layers that the claims rest on."""
        apart = self._apart(int(table["model_layers"].iloc[0])) if "model_layers" in table else self._claimed
        return f"{self._claimed} ({apart} for first against last)" if 0 < apart < self._claimed else f"{self._claimed}"


def authors_draws(prompts: Sequence[Prompt], n_layers: int) -> dict[Prompt, list[list[int]]]:
    """The random positions that the authors' code isolates: per prompt, then per layer, from one random stream.

    Python's generator is seeded with 42 whatever the experiment's seed; the pool is every position before the last one
    before q, except label words.
    """
    stream = random.Random(AUTHORS_SEED)
    return {
        prompt: [stream.sample(random_pool(prompt), len(prompt.anchors)) for _ in range(n_layers)] for prompt in prompts
    }
