"""Information flow (section 2.1, Fig. 3; with two shots Fig. 9).

The paper multiplies each attention weight by the loss's gradient with respect to it and sums over heads. The result,
per layer, is averaged over three sets of edges: from all earlier tokens to label words (S_wp), from label words to the
target position (S_pq), and all others (S_ww). In shallow layers S_wp dominates, in deep layers S_pq: label words gather
the demonstrations' information, and the prediction reads it there.

The authors average the raw values over prompts and then divide by the sum of the three in each layer, so uncertain
prompts, whose gradients are large, dominate (`protocol="paper"`). `"corrected"` computes each prompt's shares first, so
every prompt counts the same. The table keeps the raw values.

A share has no null: S_pq dominates deep layers in an untrained model, too. The claims are therefore decided by
enrichment: how much more saliency goes into label words (gathering) and from them to the
target (reading) than for text tokens at matched positions, and how much this exceeds the same difference in untrained
twins. Each twin reads a part of the prompts, so all twins together cost one more pass over them; the spread among twins
is part of the interval.

The authors draw new demonstrations for every prompt; so do the command and `InformationFlow().prompts(task, ...)`.
With `task.prompts(...)` all prompts of a seed share theirs unless `demonstrations="per_prompt"` is given.

The same pass also gives variants: shares of the sum of absolute values over heads (the paper's footnote 3), and S_wp
without the edges from position 0 and from other label words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd

from mechicl.claims import Claim, Evidence, decide
from mechicl.declared import Switch
from mechicl.figures import FLOW_COLOURS, GREY
from mechicl.hooks import run
from mechicl.metrics.objective import Objective
from mechicl.models import has_twin, untrained_twin
from mechicl.probes import Enrichment, HeadEnrichment, SaliencyFlow
from mechicl.probes.enrichment import TOKEN_SETS
from mechicl.probes.saliency import FLOWS, HeadReduce
from mechicl.prompts import PromptSet
from mechicl.results import Result
from mechicl.studies.drawing import Curve, Drawing, Level, Panel, head_grids, where
from mechicl.studies.label_words.handover import handover
from mechicl.studies.parts import DEMONSTRATION_SET
from mechicl.studies.study import Condition, Study
from mechicl.studies.summary import bands, by_metric, by_task, mean_with_interval
from mechicl.studies.twins import GIVEN, TWINS, UNTRAINED, against_twins, given, seed_of

_SOURCE = "Label Words are Anchors, section 2.1, Fig. 3"
_AVERAGE = "times an average token's saliency"
GATHERING = Claim(
    "flow-gathering", "In shallow layers, information gathers in the label words.", _SOURCE,
    "excess gathering of label words over random text in the first half of the layers", _AVERAGE, TWINS, 0.5,
)  # fmt: skip
READING = Claim(
    "flow-reading", "In deep layers, the prediction reads information from the label words.", _SOURCE,
    "excess reading of label words over random text in the second half of the layers, the last left out", _AVERAGE,
    TWINS, 2.0,
)  # fmt: skip
_KINDS = {GATHERING.id: "gathering", READING.id: "reading"}
_TEXT = "S_wp_text"
_NAMES = {"S_wp": "S_wp: into label words", "S_pq": "S_pq: label words → target", "S_ww": "S_ww: all other edges"}
_SAID: dict[HeadReduce, str] = {"abs_of_sum": "absolute sum over heads", "sum_of_abs": "sum of absolute heads"}
_OTHER: dict[HeadReduce, HeadReduce] = {"abs_of_sum": "sum_of_abs", "sum_of_abs": "abs_of_sum"}


@dataclass(frozen=True)
class InformationFlow(Study):
    """A row per prompt and layer, of the model and of its untrained twins.

    Raw S_wp, S_pq and S_ww, in units of the loss per edge, with heads reduced in both ways, and S_wp_text, without
    edges from position 0 and from other label words; reading and gathering of label words, random text, colons and
    line breaks, times an average token's.
    """

    head_reduce: Annotated[
        HeadReduce,
        Switch("How saliency is summed over heads: abs_of_sum (the authors' code) or sum_of_abs (footnote 3)."),
    ] = "abs_of_sum"
    loss: Annotated[
        Literal["cross_entropy", "logit_difference"],
        Switch("cross_entropy over the label words (the paper), in nats, or logit_difference."),
    ] = "cross_entropy"
    target: Annotated[
        Literal["gold", "predicted"], Switch("Class whose loss is differentiated: gold (the paper) or predicted.")
    ] = "gold"
    untrained: Annotated[
        int,
        Switch("Number of untrained twins, each run on part of the prompts; 0 leaves every claim undecided.", min=0),
    ] = 4
    by_head: Annotated[bool, Switch("Also measure reading and gathering of every head.")] = False

    name = "information-flow"
    title = "Information flow through label words"
    shows = "Saliency flow into and out of label words, by layer."
    source = _SOURCE
    claim = (
        "In shallow layers information flows from the demonstrations' text into the label words (S_wp); "
        "in deep layers it flows from the label words to the target position (S_pq)."
    )
    claims = (GATHERING, READING)
    gradients = True
    twins_at_once = 1
    not_measured = ("protocol",)
    shared_options = {"demonstrations": "per_prompt"}

    def conditions(self, model: Any) -> list[Condition]:
        seeds = range(self.untrained if has_twin(model) else 0)
        return [{"weights": GIVEN}, *({"weights": f"{UNTRAINED} {seed}"} for seed in seeds)]

    def passes(self, n_layers: int) -> float:
        return 6 if self.untrained else 3

    def measure(self, model: Any, prompts: PromptSet, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        seed = seed_of(condition)
        if seed is None:
            return self._read(model, prompts, batch_size)
        share = range(seed % len(prompts), len(prompts), self.untrained)
        with untrained_twin(model, seed) as twin:
            rows = self._read(twin, prompts.select(share), batch_size)
        return rows.assign(prompt=np.take(share, rows["prompt"]))

    def _read(self, model: Any, prompts: PromptSet, batch_size: int) -> pd.DataFrame:
        loss, other = Objective(self.loss, self.target), _OTHER[self.head_reduce]
        flow, enrichment = SaliencyFlow(self.head_reduce, loss), Enrichment(self.head_reduce, loss)
        text, others, heads = replace(flow, text_only=True), replace(flow, head_reduce=other), HeadEnrichment(loss)
        probes = [flow, enrichment, text, others, *([heads] if self.by_head else [])]
        readings = run(model, prompts, probes, batch_size=batch_size)
        table = readings[flow].frame()
        table[_TEXT] = readings[text]["S_wp"].flatten().double().numpy()
        for name in FLOWS:
            table[f"{name}_{other}"] = readings[others][name].flatten().double().numpy()
        for kind in _KINDS.values():
            for place, name in enumerate(readings[enrichment].along("set")):
                table[_column(kind, name)] = readings[enrichment][kind][:, :, place].flatten().double().numpy()
            if self.by_head:
                table[_column(kind, "by head")] = list(readings[heads][kind].flatten(0, 1).numpy())
        return table

    def evidence(self, claim: Claim, table: pd.DataFrame) -> Evidence:
        kind, n_layers = _KINDS[claim.id], int(table["layer"].max()) + 1
        layers = range(n_layers // 2) if claim is GATHERING else range(n_layers // 2, n_layers - 1)
        if not layers or _column(kind, "label words") not in table:
            why = (
                "This claim needs a model of three layers or more."
                if not layers
                else "The result was saved without enrichment."
            )
            return Evidence.nothing(why)
        found = against_twins(lambda rows: _excess(rows[rows["layer"].isin(layers)], kind), table)
        if claim is READING and decide(claim, found).outcome == "supported":
            found = replace(found, note=self._handover(table))
        return found

    def _handover(self, table: pd.DataFrame) -> str:
        """Where reading takes over from gathering, in one sentence; empty unless information gathers."""
        if decide(GATHERING, self.evidence(GATHERING, table)).outcome != "supported":
            return ""
        rows = table[(table["weights"] == GIVEN) & (table["layer"] < table["layer"].max())]
        kinds = [_column(kind, "label words") for kind in ("gathering", "reading")]
        means = rows.groupby([rows[name].map(str) for name in ("seed", DEMONSTRATION_SET)] + ["layer"])[kinds].mean()
        taken_over = handover(*(means[kind].unstack("layer").to_numpy() for kind in kinds))
        if taken_over is None:
            return "The data do not determine the layer in which reading takes over from gathering."
        return f"Reading takes over from gathering in {taken_over}."

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Share of each metric per layer: model, task, shots, layer, metric, mean, low, high, n, seeds.

        Only for the model as given. Prompts whose saliency is exactly zero in a layer (the gradient underflows) have no
        shares and are left out; `n` counts the rest.
        """
        return self._shares(table, FLOWS, FLOWS)

    def other_shares(self, table: pd.DataFrame) -> pd.DataFrame:
        """Like `summary`: S_wp_text in place of S_wp, and all three with heads reduced the other way."""
        others = tuple(f"{name}_{_OTHER[self.head_reduce]}" for name in FLOWS)
        pairs = {(_TEXT, *FLOWS[1:]): (_TEXT,), others: others}
        return pd.concat([self._shares(table, of, metrics) for of, metrics in pairs.items()], ignore_index=True)

    def _shares(self, table: pd.DataFrame, of: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
        table = given(table)
        total = table[list(of)].sum(axis=1)
        shares = table.assign(total=total, **{name: table[name] / total for name in metrics})[total > 0]
        long = by_metric(shares, metrics, ("layer", "total"))
        weight = "total" if self.protocol == "paper" else None
        return mean_with_interval(long, "value", ["model", "task", "shots", "metric", "layer"], weight=weight)

    def enrichment(self, table: pd.DataFrame) -> pd.DataFrame:
        """Mean reading and gathering per layer, of the model and its untrained twins; columns of `summary`, weights."""
        columns = [_column(kind, tokens) for kind in _KINDS.values() for tokens in TOKEN_SETS]
        table = table.assign(weights=table["weights"].where(table["weights"] == GIVEN, UNTRAINED))
        rows = by_metric(table, columns, ("weights", "layer"))
        return mean_with_interval(rows, "value", ["model", "task", "shots", "weights", "metric", "layer"])

    def drawing(self, result: Result) -> Drawing:
        table, summary = result.table, result.summary().assign(weights=GIVEN)
        tasks, rows = by_task(summary), [summary]
        panels = [
            Panel(f"Flow: {title}", self._curves(task), y_axis={"range": [0, 1.02]}) for title, task in tasks.items()
        ]
        if _TEXT in table:
            rows.append(self.other_shares(table))
        if "weights" in table:
            enrichment = self.enrichment(table)
            enrichment = enrichment[enrichment["mean"] > 0].copy()  # nothing gathers in the last layer
            bounds = enrichment[["mean", "low", "high"]]
            enrichment[bounds.columns] = bounds.clip(lower=_LEAST_DRAWN)
            rows.append(enrichment)
            panels += [Panel(f"Enrichment: {title}", _enrichment(task), y_axis=_LOG) for title, task in tasks.items()]
        if self.by_head:
            heads = [_heads(title, where(table, **task)).items() for title, task in tasks.items()]
            grids = dict(one for of_kind in zip(*heads, strict=True) for one in of_kind)
            panels += head_grids(grids, _AVERAGE, logarithm=True)
        return Drawing(
            pd.concat(rows), panels, y_title="share of mean saliency per edge", note=bands(summary),
            widths=(1.0,) * len(tasks) if len(tasks) in (2, 3) else (),
        )  # fmt: skip

    def _curves(self, task: Mapping[str, Any]) -> list[Curve]:
        """The three shares of a task; dotted: heads reduced the other way; dashed: S_wp with fewer edges."""
        other = _OTHER[self.head_reduce]
        ways = {"": ("", "solid"), f"_{other}": (f", {_SAID[other]}", "dot")}
        curves = [Curve(f"{flow}{way}", _NAMES[flow] + name, FLOW_COLOURS[flow], dash, task)
                  for way, (name, dash) in ways.items() for flow in FLOWS]  # fmt: skip
        return [*curves, Curve(_TEXT, "S_wp without position 0 and label words", FLOW_COLOURS["S_wp"], "dash", task)]

    def tables(self, result: Result) -> dict[str, pd.DataFrame]:
        if _TEXT not in result.table:  # saved by an earlier version
            return {}
        return {"Enrichment": self.enrichment(result.table), "Other shares": self.other_shares(result.table)}


_LEAST_DRAWN = 0.01
_LOG = {"type": "log", "title": f"{_AVERAGE} (log; least {_LEAST_DRAWN})"}


def _column(kind: str, tokens: str) -> str:
    return f"{kind}_{tokens.replace(' ', '_')}"


def _excess(rows: pd.DataFrame, kind: str) -> pd.Series[float]:
    """Reading or gathering of label words beyond random text, mean over layers, for each prompt."""
    labels, text = rows[_column(kind, "label words")], rows[_column(kind, "random text")]
    excess = (labels - text)[(labels > 0) | (text > 0)]  # without a gradient of the loss there is no observation
    by_prompt: pd.Series[float] = excess.groupby(
        [rows[name].map(str) for name in ("seed", DEMONSTRATION_SET, "prompt")]
    ).mean()
    return by_prompt


def _enrichment(task: Mapping[str, Any]) -> list[Curve | Level]:
    """Gathering and reading of label words, of random text, and of label words in untrained twins."""
    curves: list[Curve | Level] = [Level(1, GREY)]
    for kind, flow in (("gathering", "S_wp"), ("reading", "S_pq")):
        for tokens, weights, dash in (
            ("label words", GIVEN, "solid"), ("random text", GIVEN, "dash"), ("label words", UNTRAINED, "dot"),
        ):  # fmt: skip
            name = f"{kind}, {tokens}" + (f", {weights}" if weights == UNTRAINED else "")
            where = {**task, "weights": weights}
            curves.append(Curve(_column(kind, tokens), name, FLOW_COLOURS[flow], dash, where))
    return curves


def _heads(title: str, table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Mean gathering and reading of every head [layer head], by a title that gives an untrained model's largest."""
    grids = {}
    for kind in _KINDS.values():
        by_layer = table.groupby(["weights", "layer"], sort=False)[_column(kind, "by head")]
        means = by_layer.apply(lambda rows: np.stack(list(rows)).mean(0)).unstack("layer")
        twins = [np.max(np.stack(list(row))) for weights, row in means.iterrows() if weights != GIVEN]
        beyond = f" (untrained: at most {max(twins):.2g})" if twins else ""
        grids[f"{kind.capitalize()} by head: {title}{beyond}"] = np.stack(means.T[GIVEN].to_list())
    return grids
