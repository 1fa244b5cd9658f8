"""Deep layers read the prediction off the label words (section 2.3, Fig. 5; with two shots Fig. 11).

The paper sums the attention from the target position q to each class's label words over heads, and uses it as a score
for the class: AUCROC_l (the paper's name for the AUROC of layer l) measures how well this predicts the model's label.
R_l is the share of the total (AUCROC - 1/2) over all layers that is accumulated up to layer l. Both are low in shallow
layers and rise in the middle. The claim is tested against permuted predictions: its effect is the mean AUROC of the
last third of the layers less 1/2.

The authors' score for two classes is the raw attention to the second (`protocol="paper"`); `"corrected"` uses its
share, which a factor common to both does not change. Classes that are never predicted drop out; if only one is left
there is no AUROC, and the seed is left out of the average and named. R_l is not clipped: a layer below one half
subtracts (`R_clipped` leaves such layers out). If the interval of its denominator contains 0, R is undetermined: it has
no interval and is not drawn. The average of tasks uses the R of the averaged curve, as in the paper's figure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from mechicl.claims import Claim, Evidence
from mechicl.declared import Switch
from mechicl.engines.prefix import run_shared
from mechicl.errors import InputError
from mechicl.figures import BLUE, GREY, INK, ORANGE, SKY
from mechicl.metrics import auroc_by_layer, bootstrap_auroc, cumulative_contribution, permuted_auroc
from mechicl.metrics.resampling import FEW_SETS, max_statistic_p, mean_over_sets
from mechicl.probes.label_attention import LabelAttention, Weight
from mechicl.prompts import PromptSet
from mechicl.results import Result
from mechicl.studies.drawing import Curve, Drawing, Level, Panel, head_grids, where
from mechicl.studies.parts import DEMONSTRATION_SET
from mechicl.studies.study import Condition, Protocol, Study
from mechicl.studies.summary import bands, by_task

AVERAGE = "average of tasks"
_TARGETS = {"AUCROC": "predicted", "AUCROC_gold": "gold"}
_CURVES = {
    "AUCROC": ("AUROC, predicted label", BLUE, "solid"),
    "AUCROC_gold": ("AUROC, gold label", SKY, "dot"),
    "R": ("R, share gathered up to here", ORANGE, "solid"),
    "R_clipped": ("R without layers below one half", ORANGE, "dot"),
}
_CLAIM = Claim(
    "deep-layers", "In deep layers, attention to the label words predicts the model's output.",
    "Label Words are Anchors, section 2.3, Fig. 5", "mean AUROC of the last third of the layers", "AUROC",
    "permuted predictions", 0.1, "AUROC approaches 0.8 in deep layers (GPT2-XL, GPT-J)",
)  # fmt: skip
_BOUNDS = torch.tensor([0.025, 0.975], dtype=torch.float64)
_PUBLISHED = 0.8
"""The AUROC that deep layers of GPT2-XL and GPT-J approach (section 2.3.2; the curves' values are not printed)."""


@dataclass(frozen=True)
class DeepLayers(Study):
    """A row per prompt and layer: attention from q to each class's label words, summed over heads.

    Also gold and predicted class, and the attention of every head, which `attention_by_head` extracts.
    """

    weight: Annotated[
        Weight, Switch("attention (the paper), or norm: attention times the norm of the value vector.")
    ] = "attention"

    name = "deep-layers"
    title = "Deep layers read the label words"
    shows = "How well attention to the label words predicts the output, by layer."
    source = "Label Words are Anchors, section 2.3, Fig. 5"
    claim = (
        "In deep layers the attention to the label words predicts the output: the AUROC approaches 0.8, and nearly all "
        "of R accumulates in middle and deep layers."
    )
    claims = (_CLAIM,)
    not_measured = ("protocol",)

    def measure(self, model: Any, prompts: PromptSet, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        probe = LabelAttention(self.weight)
        if not all(len(set(prompt.anchor_classes)) == len(prompts.label_ids) for prompt in prompts):
            raise InputError("Every class needs a demonstration in every prompt; use shots=1 or more.")
        readings = run_shared(model, prompts, [probe], batch_size=batch_size)
        by_head = readings[probe].values
        attention = by_head.double().sum(2)  # over heads: [prompt layer class]
        n, layers, _ = attention.shape
        columns = {"prompt": np.arange(n), "gold": prompts.gold.numpy(), "predicted": readings.predicted.numpy()}
        return pd.DataFrame({name: np.repeat(values, layers) for name, values in columns.items()}).assign(
            layer=np.tile(np.arange(layers), n),
            attention=attention.flatten(0, 1).tolist(),
            attention_by_head=list(by_head.flatten(2).flatten(0, 1).numpy()),  # one row each: [head * class]
        )

    def evidence(self, claim: Claim, table: pd.DataFrame) -> Evidence:
        """Resampled over demonstration sets: a seed with several sets is resampled by whole sets."""
        seeds = list(_scores(table, "predicted", self.protocol))
        note, limits = _predictions(table)
        if not seeds:
            why = "The model predicts a single class, so no AUROC is defined; use more prompts or another task."
            return Evidence.nothing(why, limits=limits)
        deep, generator = slice(-max(1, seeds[0][1].shape[1] // 3), None), np.random.default_rng(0)
        options: dict[str, Any] = {"generator": generator, "protocol": self.protocol}
        curves = torch.stack([auroc_by_layer(*one, protocol=self.protocol).values for _, *one in seeds])
        null = torch.stack([permuted_auroc(*one, **options) for _, *one in seeds]).mean(0)
        values, p = curves[:, deep].mean(1).numpy(), max_statistic_p(curves.mean(0).numpy(), null.numpy())
        interval = mean_over_sets(values - 0.5, np.arange(len(values)), generator=generator)
        sets = [where(rows, layer=0).sort_values("prompt")[DEMONSTRATION_SET].factorize()[0] for rows, *_ in seeds]
        if min(of_seed.max() + 1 for of_seed in sets) >= FEW_SETS:
            pairs = zip(seeds, sets, strict=True)
            draws = torch.stack([bootstrap_auroc(*one, **options, sets=of_seed) for (_, *one), of_seed in pairs])
            low, high = draws[..., deep].mean((0, 2)).sub(0.5).nanquantile(_BOUNDS)
            interval = interval._replace(low=float(low), high=float(high))
        counted = interval._replace(sets=int(sum(one.max() + 1 for one in sets)), n=sum(map(len, sets)))
        single = "There is a single seed, and an AUROC is a number per seed; use more." if np.isnan(counted.low) else ""
        least = float(p[deep].min())
        which = np.arange(len(values))
        return Evidence(values, 0.5, which, "prompts", counted, least, undecided=single, note=note, limits=limits)

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Per layer: model, task, shots, metric, layer, mean, low, high, n, seeds, seed_sd.

        Metrics: AUCROC, R and R_clipped of the predicted label; AUCROC_gold, R_gold and R_gold_clipped of the true one.
        Intervals are over seeds, each with its own demonstrations, then prompts; for a single seed, over its prompts.
        Intervals of R are over the R of resampled curves; if the interval of R's denominator contains 0, R is
        undetermined and they are NaN. `smallest_class` counts the prompts of the rarest target in any seed, `sets` and
        `seeds` the seeds that have an AUROC; `seed_sd` is the standard deviation of these seeds' values. With several
        tasks, "average of tasks" is the mean of their curves, and has no seed_sd.
        """
        tables: list[pd.DataFrame] = []
        for (model, shots), group in table.groupby(["model", "shots"], sort=False):
            for metric in _TARGETS:
                tasks = {task: self._curve(of_task, metric) for task, of_task in group.groupby("task", sort=False)}
                curves = {task: curve for task, curve in tasks.items() if curve is not None}
                if len(curves) > 1:
                    curves[AVERAGE] = _Curve.mean(list(curves.values()), min(curve.seeds for curve in curves.values()))
                for task, curve in curves.items():
                    tables += curve.tables(metric, {"model": model, "task": task, "shots": shots})
        if not tables:
            raise InputError(
                "The model predicts one class for all prompts, and no gold labels of several classes are known, so no "
                "AUROC is defined; use more prompts or another task."
            )
        return pd.concat(tables, ignore_index=True)

    def _curve(self, table: pd.DataFrame, metric: str) -> _Curve | None:
        """One task's curve, averaged over the seeds that have one; None if none has."""
        curves = []
        for _, attention, target in _scores(table, _TARGETS[metric], self.protocol):
            auroc = auroc_by_layer(attention, target, protocol=self.protocol)
            draws = bootstrap_auroc(attention, target, generator=np.random.default_rng(0), protocol=self.protocol)
            curves.append(_Curve(auroc.values, draws, auroc.n, 1, int(np.unique(target, return_counts=True)[1].min())))
        if not curves:
            return None
        of_seeds, draws = (torch.stack([getattr(one, name) for one in curves]) for name in ("values", "draws"))
        return replace(_Curve.mean(curves, len(curves)), of_seeds=of_seeds, draws=_over_seeds(draws))

    def drawing(self, result: Result) -> Drawing:
        """Per task, the AUROC of every layer and, if its denominator is above 0, R; and AUROC by head."""
        summary = result.summary()
        summary = summary.sort_values("task", key=lambda task: task == AVERAGE, kind="stable", ignore_index=True)
        panels, undetermined, grids = [], [], dict[str, np.ndarray]()
        for title, task in by_task(summary).items():
            rows = where(summary, **task)
            paper = Level(_PUBLISHED, INK, "paper: deep layers approach 0.8", "dashdot")
            curves, shares = (
                [Curve(metric, *style, where=task) for metric, style in _CURVES.items() if metric.startswith(start)]
                for start in ("AUCROC", "R")
            )
            panels.append(
                Panel(f"AUROC: {title}", [*curves, paper, Level(0.5, GREY, dash="dash")], {}, {"title_text": "AUROC"})
            )
            if where(rows, metric="R")["low"].notna().any():
                panels.append(Panel(f"R: {title}", shares, {}, {"title_text": "R"}))
            else:
                undetermined.append(title)
            if "attention_by_head" in result.table and task["task"] != AVERAGE:
                grids |= _by_head(title, where(result.table, **task), self.protocol)
        panels += head_grids(grids, "AUROC", zmin=0, zmax=1)
        score = "attention" if self.weight == "attention" else "attention times norm of value"
        note = f"score: {score}; smallest class: {summary['smallest_class'].min()} or more prompts; {bands(summary)}"
        if undetermined:
            note += f"; R undetermined ({'; '.join(undetermined)}): the layers together may be at chance"
        return Drawing(summary, panels, note=note)


def _scores(table: pd.DataFrame, target: str, protocol: Protocol) -> Iterator[tuple[pd.DataFrame, Tensor, Tensor]]:
    """Rows, attention and target of each seed that has an AUROC."""
    for _, rows in table.groupby("seed", sort=False, dropna=False):
        attention, classes = attention_and_target(rows, target)
        if len(classes) and not auroc_by_layer(attention, classes, protocol=protocol).reason:
            yield rows, attention, classes


def _predictions(table: pd.DataFrame) -> tuple[str, list[str]]:
    """Number of predictions of the rarest class; and the seeds that predict few classes."""
    single, missing, rarest, tasks = [], [], len(table), " and ".join(table["task"].unique())
    for (task, seed), rows in table.groupby(["task", "seed"], sort=False, dropna=False):
        counts, classes = where(rows, layer=0)["predicted"].value_counts(), len(rows["attention"].iloc[0])
        if len(counts) == 1:
            single.append(f"{task}, seed {seed}")
            continue
        rarest = min(rarest, counts.min())
        if len(counts) < classes:
            missing.append(f"{classes - len(counts)} of {classes} in {task}, seed {seed}")
    n = f"{rarest} prompt{'s' * (int(rarest) != 1)}"
    every = f"On {tasks}, in every seed with an AUROC, the rarest predicted class has at least {n}."
    limits = [f"No AUROC, because a single class is predicted: {'; '.join(single)}."] if single else []
    limits += [f"Classes never predicted are left out: {'; '.join(missing)}."] if missing else []
    return every if rarest < len(table) else "", limits


def _by_head(title: str, table: pd.DataFrame, protocol: Protocol) -> dict[str, np.ndarray]:
    """AUROC of every head's attention [layer head], mean over seeds, by title; empty where undefined.

    The title gives the bound that the largest of all heads does not exceed in 95 % of permuted predictions.
    """
    values, null, generator = [], [], np.random.default_rng(0)
    for rows, _, classes in _scores(table, "predicted", protocol):
        by_head = attention_by_head(rows.sort_values(["prompt", "layer"]))
        places = torch.tensor(by_head).view(len(classes), -1, by_head.shape[-1])  # [prompt layer*head class]
        values.append(auroc_by_layer(places, classes, protocol=protocol).values)
        null.append(permuted_auroc(places, classes, generator=generator, protocol=protocol, permutations=100))
    if not values:
        return {}
    chance = float(torch.stack(null).mean(0).amax(1).quantile(0.95))
    shown = torch.stack(values).mean(0).view(table["layer"].nunique(), -1).numpy()
    return {f"AUROC by head: {title} (largest by chance: below {chance:.2f})": shown}


@dataclass(frozen=True)
class _Curve:
    """An AUROC per layer, the same for resampled prompts, and the sample behind it."""

    values: Tensor
    draws: Tensor
    n: int
    seeds: int
    smallest_class: int
    """Number of prompts of the rarest class in any seed, which limits an AUROC's precision."""
    of_seeds: Tensor = torch.empty(0)  # noqa: RUF009  # never written to
    """A task's curves per seed, [seed layer]."""

    @classmethod
    def mean(cls, curves: Sequence[_Curve], seeds: int) -> _Curve:
        values = torch.stack([curve.values for curve in curves]).mean(0)
        draws = torch.stack([curve.draws for curve in curves]).mean(0)  # NaN where a curve has none: not in quantiles
        return cls(values, draws, sum(curve.n for curve in curves), seeds, min(one.smallest_class for one in curves))

    def tables(self, metric: str, labels: Mapping[str, Any]) -> Iterator[pd.DataFrame]:
        """Rows by layer: of AUCROC, of R, and of R without layers below one half."""
        share = metric.replace("AUCROC", "R")
        clipped = partial(cumulative_contribution, clipped=True)
        undetermined = (self.draws - 0.5).sum(1).nanquantile(_BOUNDS[0]) <= 0
        for name, measure in ((metric, Tensor.double), (share, cumulative_contribution), (f"{share}_clipped", clipped)):
            low, high = measure(self.draws).nanquantile(_BOUNDS, 0)
            if name == metric and self.seeds > 1:  # widened by Student's t for so few seeds
                wider = stats.t.ppf(0.975, self.seeds - 1) / stats.norm.ppf(0.975) * (1 - 1 / self.seeds) ** -0.5
                low, high = ((self.values + wider * (one - self.values)).clamp(0, 1) for one in (low, high))
            if undetermined and name != metric:
                low = high = torch.full_like(low, torch.nan)
            spread = measure(self.of_seeds).std(0) if len(self.of_seeds) > 1 else torch.full_like(low, torch.nan)
            columns = {"mean": measure(self.values), "low": low, "high": high}
            yield pd.DataFrame(
                {**labels, "metric": name, "layer": range(len(low)), **{k: v.numpy() for k, v in columns.items()},
                 "n": self.n, "sets": self.seeds, "seeds": self.seeds, "seed_sd": spread.numpy(),
                 "smallest_class": self.smallest_class}
            )  # fmt: skip


def _over_seeds(draws: Float[Tensor, "seed draw layer"]) -> Float[Tensor, "draw layer"]:
    """Mean curves of resampled seeds, each with resampled prompts."""
    n, count, _ = draws.shape
    chosen = torch.tensor(np.random.default_rng(0).integers(n, size=(n, count)))
    return draws[chosen, torch.arange(count)].nanmean(0)


def attention_and_target(table: pd.DataFrame, target: str) -> tuple[Tensor, Tensor]:
    """Attention [prompt layer class] and target class [prompt] of the rows of one seed whose target is known."""
    known = table[table[target] >= 0].sort_values(["prompt", "layer"], kind="stable")
    layers = table["layer"].nunique()
    attention = torch.tensor(np.stack(known["attention"].to_list())) if len(known) else torch.zeros(0, 1)
    classes = torch.tensor(known[target].to_numpy()[::layers].copy())
    return attention.reshape(-1, layers, attention.shape[-1]), classes


def attention_by_head(table: pd.DataFrame) -> Float[np.ndarray, "row head class_"]:
    """Attention from q to each class's label words by head, of each row (prompt and layer) of a task's results.

    Raises:
        InputError: the result was saved by a version that kept only the sum over heads.
    """
    if "attention_by_head" not in table:
        raise InputError("This result was saved without heads; run deep-layers again.")
    values = np.stack(table["attention_by_head"].to_list())
    return values.reshape(len(table), -1, len(table["attention"].iloc[0]))
