"""When the answer is decided: the margin between label words by layer, next to the layers in which they are read.

*Label Words are Anchors* says that deep layers read the answer off the label words (section 2.3). If so, the answer
cannot be decided before they are read. We apply the logit lens to the residual at the target position before every
layer and after the last, and measure how far the final answer is ahead of the other label words (margin), from which
point on it remains ahead, and the total probability of all label words.

A lens that prefers one class for every prompt agrees with many final answers before anything is decided. The claims
therefore rest on the prompt's *own margin*: the label words' lens logits, minus their mean over prompts at the same
point, projected on their final direction. It is 0 where the lens gives the same logits for all prompts, and 1 at the
end. The *decision* is the first point from which the own margin remains at least one half.

Saliency from the same pass shows where label words are read: the saliency per edge from label words to the target
(S_pq), minus that of random text at matched positions. Half of the *reading* is done where the cumulative sum of this
excess over layers reaches half. The figure shows reading as enrichment, relative to an average edge to the target.

In an early residual the lens finds only what is written in the final layers' directions. The lens therefore gives an
upper bound: the answer may be present earlier in another form. Random weights have such an order, too, so both claims
compare the model with untrained twins, each of which reads a part of the prompts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from mechicl.claims import Claim, Evidence
from mechicl.figures import BLUE, GREY, LABEL_COLOUR, TARGET_COLOUR
from mechicl.hooks import run
from mechicl.metrics.objective import Objective
from mechicl.probes import Enrichment, LabelLens, SaliencyFlow
from mechicl.prompts import PromptSet
from mechicl.results import Result
from mechicl.studies.drawing import Curve, Drawing, Level, Panel
from mechicl.studies.parts import DEMONSTRATION_SET
from mechicl.studies.summary import bands, by_metric, by_task, mean_with_interval
from mechicl.studies.twins import TWINS, AgainstTwins, against_twins, given

_SOURCE = "beyond Label Words are Anchors, section 2.3"
AFTER = Claim(
    "decision-after-reading", "The answer is decided after the label words are read.", _SOURCE,
    "share of the final logit margin that is added after half of the reading, minus the share of layers that these are",
    "of the margin", TWINS, 0.1,
)  # fmt: skip
FORMAT = Claim(
    "decision-after-format", "Label words become probable before the answer among them is decided.", _SOURCE,
    "depth of the decision minus the depth from which label words keep half of their final probability",
    "of the model's depth", TWINS, 0.05,
)  # fmt: skip
_SETS = {"reading": "label words", "reading_random_text": "random text"}
"""Columns of the table, and the set of tokens whose reading each holds."""
_GIVEN, _UNTRAINED = "as given", "untrained"
_METRICS = ("final_answer", "stays", "margin", "own_margin", "label_mass", *_SETS)
_MODEL = ("model", "task", "shots", "weights")
_ALL = (*_MODEL, "seed", DEMONSTRATION_SET, "prompt")
_LEAST = 1e-12
"""Squared logits below this count as no difference from the mean over prompts."""


@dataclass(frozen=True)
class DecisionLayer(AgainstTwins):
    """A row per prompt and point: the residual before each layer (0 to L - 1) and after the last (L).

    Gold and predicted class; from the lens at the target, the label words' log-probabilities and the predicted class's
    margin over the next, in nats; from the layer before the point (none for point 0), reading of label words and of
    random text, times an average token, and S_pq, in logits per edge.
    """

    name = "decision-layer"
    title = "When the answer is decided"
    shows = "Margin and probability of label words by layer, next to the layers that read them."
    source = _SOURCE
    claim = "Does the answer appear after the label words are read, as the paper's account implies?"
    claims = (AFTER, FORMAT)
    no_paper_protocol = "the paper does not ask this"
    gradients = True
    shared_options = {"samples": 32, "demonstrations": "per_prompt"}
    may_lack = (*_SETS, "S_pq")
    each_twin_reads = 8
    least_read = 2

    def passes(self, n_layers: int) -> float:
        return 6 if self.untrained else 3

    def is_clean(self, table: pd.DataFrame) -> pd.Series[bool]:
        return table["weights"] == _GIVEN

    def read(self, model: Any, material: PromptSet, batch_size: int) -> pd.DataFrame:
        loss = Objective("logit_difference", "predicted")
        lens, enrichment, flow = LabelLens(), Enrichment(loss=loss), SaliencyFlow(loss=loss)
        readings = run(model, material, [lens, enrichment, flow], batch_size=batch_size)
        log_prob, predicted = readings[lens].values.double(), readings.predicted
        n, points, n_classes = log_prob.shape
        final = torch.nn.functional.one_hot(predicted, n_classes).bool()[:, None]
        others = log_prob.masked_fill(final, -torch.inf).amax(-1)
        of_set, sets = readings[enrichment]["reading"].double(), list(readings[enrichment].along("set"))
        of_layers = {name: of_set[:, :, sets.index(tokens)] for name, tokens in _SETS.items()}
        of_layers["S_pq"] = readings[flow]["S_pq"].double()
        none = torch.full((n, 1), torch.nan, dtype=torch.float64)
        columns = {
            "margin": log_prob.masked_fill(~final, -torch.inf).amax(-1) - others,
            **{name: torch.cat([none, values], 1) for name, values in of_layers.items()},
        }  # fmt: skip
        return pd.DataFrame({
            "prompt": np.arange(n).repeat(points), "point": np.tile(np.arange(points), n),
            "gold": material.gold.numpy().repeat(points), "predicted": predicted.numpy().repeat(points),
            **{name: values.flatten().numpy() for name, values in columns.items()},
            "log_probs": log_prob.flatten(0, 1).tolist(),
        })  # fmt: skip

    def evidence(self, claim: Claim, table: pd.DataFrame) -> Evidence:
        contrast = _added_behind_reading if claim is AFTER else _behind_format
        if contrast(given(table)).empty:
            return Evidence.nothing("No prompt has an own margin, or none reads label words more than random text.")
        depths = depths_of(given(table)).mean()
        note = "Mean depths: half of the reading at {reading:.2f}, decision at {decision:.2f}, format at {format:.2f}."
        return against_twins(contrast, table, note=note.format(**depths))

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Means per point: model, task, shots, weights, metric, point, mean, low, high, n (prompts), seeds.

        `final_answer`: share of prompts whose lens prefers the final answer; `stays`: and prefers it at all later
        points; own_margin: the prompts' own margin, 1 at the end, as a ratio of sums over prompts, so that those with
        hardly any do not decide it; label_mass: probability of all label words; margin, reading and reading_random_text
        as in the table. For the model and its untrained twins.
        """
        table = with_margins(table)
        rows = by_metric(table, _METRICS, ("weights", "point", "own_size"))
        rows["weights"] = rows["weights"].where(rows["weights"] == _GIVEN, _UNTRAINED)
        rows["weight"] = rows["own_size"].where(rows["metric"] == "own_margin", 1.0)
        by = ["model", "task", "shots", "weights", "metric", "point"]
        return mean_with_interval(rows, "value", by, weight="weight")

    def drawing(self, result: Result) -> Drawing:
        summary = result.summary()
        panels = [panel for title, task in by_task(summary).items() for panel in _panels(title, task)]
        return Drawing(
            summary, panels, x="point", x_title="layers run", note=f"dotted: untrained twins; {bands(summary)}",
            widths=(1, 1, 1, 1),
        )  # fmt: skip

    def remarks(self, result: Result, rows: pd.DataFrame) -> list[str]:
        return [*super().remarks(result, rows), "The answer may be present before the lens shows it."]

    def tables(self, result: Result) -> dict[str, pd.DataFrame]:
        by = ["model", "task", "shots", "weights"]
        means = depths_of(result.table).groupby(by, sort=False).mean().reset_index()
        return {"Mean depth, between 0 and 1": means}


def with_margins(table: pd.DataFrame) -> pd.DataFrame:
    """The rows with columns label_mass, own_margin, own_size, final_answer and stays; a prompt's points are in order.

    `own_size` is the squared size of the label words' final logits less their mean over prompts; if it is 0, the own
    margin is NaN.
    """
    groups = [name for name in _MODEL if name in table]
    alike = [rows for _, rows in table.groupby(groups, sort=False)] if groups else [table]
    return pd.concat([_of_one_task(rows) for rows in alike])


def _of_one_task(rows: pd.DataFrame) -> pd.DataFrame:
    log_probs, of_prompt = np.stack(rows["log_probs"].to_list()), _prompt(rows)
    logits = pd.DataFrame(log_probs - log_probs.mean(1, keepdims=True), rows.index)
    own = logits - logits.groupby(rows["point"]).transform("mean")
    final = own.groupby(of_prompt, sort=False).transform("last")
    size = (final**2).sum(axis=1)
    same = pd.Series(log_probs.argmax(1) == rows["predicted"], rows.index)
    return rows.assign(
        label_mass=np.exp(log_probs).sum(1), own_margin=(own * final).sum(axis=1) / size.where(size > _LEAST),
        own_size=size,
        final_answer=same.astype(float), stays=_to_the_end(same, of_prompt).astype(float),
    )  # fmt: skip


def _prompt(rows: pd.DataFrame) -> list[pd.Series[Any]]:
    """Columns that identify a prompt; seeds as strings, because prompts made by hand have none."""
    return [rows[name].map(str) if name == "seed" else rows[name] for name in _ALL if name in rows]


def depths_of(table: pd.DataFrame) -> pd.DataFrame:
    """Per prompt the depths, between 0 and 1, of half the reading, of the decision, and of half the final mass.

    Depth is the share of layers that have run; `left` is the share of the own margin still missing where half of the
    reading is done. NaN where label words are not read more than random text, or a prompt has no own margin.
    """
    table = with_margins(table)
    of_prompt = _prompt(table)
    excess = table["S_pq"] * (1 - table["reading_random_text"] / table["reading"].where(table["reading"] > 0))
    excess = excess.clip(lower=0).fillna(0)
    reading = excess.groupby(of_prompt, sort=False)
    read = (reading.cumsum() >= reading.transform("sum") / 2) & (reading.transform("sum") > 0)
    mass = table["label_mass"]
    final_mass = mass.groupby(of_prompt, sort=False).transform("last")
    there = {
        "reading": read, "decision": _to_the_end(table["own_margin"] >= 0.5, of_prompt),
        "format": _to_the_end(mass >= final_mass / 2, of_prompt),
    }  # fmt: skip
    depth = table["point"] / table["point"].max()
    left = (1 - table["own_margin"].clip(0, 1)).where(read)
    columns = {name: depth.where(holds) for name, holds in there.items()}
    firsts = pd.DataFrame({**columns, "left": left}).groupby(of_prompt, sort=False)
    return firsts.first()  # the first that is not NaN


def _added_behind_reading(rows: pd.DataFrame) -> pd.Series[float]:
    depths = _by_prompt(depths_of(rows))
    return (depths["left"] - (1 - depths["reading"])).dropna()


def _behind_format(rows: pd.DataFrame) -> pd.Series[float]:
    depths = _by_prompt(depths_of(rows))
    return (depths["decision"] - depths["format"]).dropna()


def _by_prompt(depths: pd.DataFrame) -> pd.DataFrame:
    """The depths of one model and task, by seed, demonstration set and prompt."""
    return depths.droplevel([name for name in depths.index.names if name in _MODEL])


def _to_the_end(holds: pd.Series[bool], of_prompt: list[pd.Series[Any]]) -> pd.Series[bool]:
    """Whether a condition holds at a point and at all later points of the prompt."""
    backwards = holds.astype(int)[::-1]
    return backwards.groupby([one[::-1] for one in of_prompt], sort=False).cummin()[::-1].astype(bool)


def _panels(title: str, task: Mapping[str, Any]) -> list[Panel]:
    def curves(metric: str, name: str, colour: str, **untrained: str) -> list[Curve]:
        twins = {"weights": _UNTRAINED, **task}
        return [
            Curve(metric, name, colour, where={"weights": _GIVEN, **task}),
            Curve(metric, f"{name}, untrained", colour, "dot", twins),
        ]

    return [
        Panel(f"{title}: answer", [*curves("final_answer", "lens gives the final answer", BLUE),
              *curves("stays", "and keeps it to the end", TARGET_COLOUR)],
              y_axis={"range": [0, 1.02], "title_text": "share of prompts"}),
        Panel("the prompt's own margin", [*curves("own_margin", "own margin", BLUE), Level(0.5, GREY)],
              y_axis={"title_text": "of the final"}),
        Panel("probability of label words", curves("label_mass", "label words", LABEL_COLOUR),
              y_axis={"range": [0, 1.02], "title_text": "probability"}),
        Panel("reading in the layer before", [*curves("reading", "reading, label words", LABEL_COLOUR),
              Curve("reading_random_text", "reading, random text", GREY, where={"weights": _GIVEN, **task})],
              y_axis={"title_text": "times an average token's saliency"}),
    ]  # fmt: skip
