"""How much faster a compressed context is (section 3.2, Tables 3 and 6), with re-weighted anchors, too.

The paper times the whole prompt, with demonstrations read again for every query, against queries on the cached keys and
values of label words and template, and reports the ratio. That is not the real alternative: a cache of the whole
context is exact, and also avoids reading the demonstrations again. So we time four arms: everything recomputed, the
full prefix cached, only its anchors cached, and the anchors' tokens read as text. Two more arms combine compression
with re-weighting, which the paper could not do: they show whether speed and accuracy rise together.

Times depend on sizes and on the machine, not on what a model has learned: untrained weights are just as fast. So the
claims about speed alone say what compression saves, against the whole prompt and against the alternative, the exact
cache; the claim about speed and accuracy holds where both rise, and the weaker of the two decides it.

`protocol="paper"` times a loop over the queries as a whole, without warm-up, of the paper's two arms. `"corrected"`
warms up with a few queries, synchronizes the device before and after every pass, alternates the arms within each query
so that all see the same machine, and reports the median over queries with the quartiles. Both read one query at a time,
as the paper does; all arms go through the same blocks of the same implementation.

Times hold for one machine at one moment. All arms of a task and seed are measured together in one cell, and the machine
(device, processor, threads) is part of the cell's key: a run resumed elsewhere measures again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch

from mechicl.claims import Claim, Evidence
from mechicl.declared import Switch
from mechicl.engines.compression import anchors_of, without_the_rest
from mechicl.engines.context import read_context
from mechicl.engines.prefix import shared_demonstrations
from mechicl.engines.reweighting import Variant, fit_together
from mechicl.engines.timing import Ready, in_turn, timed, whole_loop
from mechicl.figures import BLUE, GREY, ORANGE, SKY
from mechicl.metrics.resampling import SetInterval, mean_over_sets
from mechicl.models import blockwise, hooked
from mechicl.prompts import Prompt, PromptSet
from mechicl.results import Result
from mechicl.studies.drawing import Drawing, Panel, bars, marks, where
from mechicl.studies.label_words.predictions import PROMPT, accuracy_context, by_prompt, is_right
from mechicl.studies.label_words.tables import PAPER_MODELS, TABLE_3
from mechicl.studies.parts import set_names
from mechicl.studies.study import Condition, Study
from mechicl.studies.summary import mean_over_tasks, mean_with_interval, spread
from mechicl.tasks import Task
from mechicl.versions import machine

FULL, PREFIX, ANCHORS, TEXT = "full recompute", "full prefix cache", "anchor cache", "text anchor"
PREFIX_REWEIGHTED, ANCHORS_REWEIGHTED = "full prefix cache, re-weighted", "anchor cache, re-weighted"
ARMS = (FULL, TEXT, PREFIX, ANCHORS, PREFIX_REWEIGHTED, ANCHORS_REWEIGHTED)
_LEAST_FASTER, _LEAST_BETTER = 0.1, 0.05
"""The smallest gains that matter: in speed, that of the paper's slowest task; in accuracy, that of re-weighting."""


def _claim(id: str, sentence: str, null: str, published: str = "") -> Claim:
    source, unit = "Label Words are Anchors, section 3.2, Table 3", "relative to the speed of what it is compared with"
    quantity = "speed of a query on the cached anchors"
    return Claim(id, sentence, source, quantity, unit, null, _LEAST_FASTER, published)


_OF_SPEED = {
    _claim("compression-speed", "Queries on the cached anchors are faster than whole prompts.", "the whole prompt",
           "+0.1 to +1.9 (1.1 to 2.9 times as fast)"): FULL,
    _claim("compression-speed-prefix", "Queries on the cached anchors are faster than on an exact cache of the whole "
           "context.", "the exact cache of the whole context"): PREFIX,
}  # fmt: skip
"""Each claim about speed, with the arm that it compares the cached anchors with."""
_OF_BOTH = Claim(
    "compression-speed-accuracy", "Re-weighted anchors alone are faster and more accurate than the whole prompt.",
    "beyond Label Words are Anchors, section 3",
    "the smaller of the gains in speed and in accuracy, each over the smallest gain that matters",
    f"times the smallest that matters (speed {_LEAST_FASTER:.0%}, accuracy {_LEAST_BETTER:.0%})", "the whole prompt", 1,
)  # fmt: skip


@dataclass(frozen=True)
class CompressionSpeed(Study):
    """A row per prompt and arm (the kept part of the context): seconds, operations and memory of the query.

    Gold and predicted class, tokens read, tokens and bytes in the cache, seconds of the one pass that fills the cache,
    and the words of demonstrations and query.
    """

    warm_up: Annotated[int, Switch("Untimed queries before the measurement.", min=0)] = 3
    repeats: Annotated[int, Switch("Repetitions of each query; the median is reported.", min=1)] = 3
    lr: Annotated[float, Switch("Learning rate of the re-weighted methods.", above=0)] = 0.01
    per_class: Annotated[
        int, Switch("Training prompts per class of the re-weighted methods; 0 leaves them out.", min=0)
    ] = 4

    name = "compression-speed"
    title = "How fast a compressed context is"
    shows = "Time, operations and memory of queries on whole and on compressed contexts."
    source = "Label Words are Anchors, section 3.2, Tables 3 and 6"
    claim = (
        "Queries on the hidden states of label words and template are 1.1 to 2.9 times as fast as whole prompts, the "
        "more so the longer the demonstrations."
    )
    claims = (*_OF_SPEED, _OF_BOTH)
    batch_size = None
    measures_time = True
    shared_options = {"demonstrations": None}

    def prompts(self, task: Task, tokenizer: Any, **options: Any) -> PromptSet:
        """A task's prompts, with `per_class` training prompts of every class for the re-weighted arms; 0: none."""
        prompts = task.prompts(tokenizer, **options)
        if not self.per_class or self.protocol == "paper":
            return prompts
        common = {name: value for name, value in options.items() if name not in ("samples", "demonstrations", "rows")}
        training = task.auxiliary_prompts(tokenizer, per_class=self.per_class, **common)
        return replace(prompts, auxiliary={"training": training})

    def surroundings(self, model: Any) -> dict[str, Any]:
        device = hooked(model).device
        return {"device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device), **machine()}

    def passes(self, n_layers: int) -> float:
        return 5 * (1 if self.protocol == "paper" else self.repeats + 1)  # one query at a time

    def measure(self, model: Any, prompts: PromptSet, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        training, parts = prompts.auxiliary.get("training"), []
        for indices in shared_demonstrations(prompts):
            members = prompts.select(indices)
            words = {"demonstration_words": [_words(prompt, prompt.w) for prompt in members],
                     "query_words": [_words(prompt, prompt.query_text) for prompt in members]}  # fmt: skip
            for rows in self._arms(model, members, training):
                parts.append(rows.assign(prompt=list(indices), gold=members.gold.numpy(), **words))
        return pd.concat(parts, ignore_index=True)

    def _arms(self, model: Any, prompts: PromptSet, training: PromptSet | None) -> Iterator[pd.DataFrame]:
        """Rows of each arm, for prompts with the same demonstrations; this also fills and times the caches."""
        net, first = blockwise(model, self.name), prompts[0]
        read_context(model, first)  # the first pass takes longer than later ones
        whole, reading = timed(net, lambda: read_context(model, first))
        anchors, gathering = timed(net, lambda: anchors_of(whole, first))
        caches = {PREFIX: (whole, reading), ANCHORS: (anchors, reading + gathering)}
        ways = {FULL: Ready.whole(net, prompts), ANCHORS: Ready.on(net, anchors, prompts)}
        if self.protocol == "corrected":
            short = replace(prompts, prompts=tuple(without_the_rest(prompt) for prompt in prompts))
            ways |= {PREFIX: Ready.on(net, whole, prompts), TEXT: Ready.whole(net, short)}
            if training is not None:
                variants = [Variant(training), Variant(training, keep=anchors_of)]
                seed = 42 if training.seed is None else training.seed
                on_whole, on_anchors = fit_together(model, variants, lr=self.lr, seed=seed)
                caches |= {PREFIX_REWEIGHTED: caches[PREFIX], ANCHORS_REWEIGHTED: caches[ANCHORS]}
                ways[PREFIX_REWEIGHTED] = Ready.on(net, whole, prompts, [on_whole.patch])
                ways[ANCHORS_REWEIGHTED] = Ready.on(net, anchors, prompts, [on_anchors.patch])
            timed_ways = in_turn(model, list(ways.values()), warm_up=self.warm_up, repeats=self.repeats)
            measured = list(zip(*timed_ways, strict=True))
        else:
            measured = [whole_loop(model, way) for way in ways.values()]
        for (name, way), (seconds, predicted) in zip(ways.items(), measured, strict=True):
            cache, caching = caches.get(name, (None, 0.0))
            yield pd.DataFrame({
                "arm": name, "seconds": seconds, "predicted": predicted,
                "tokens": [batch.tokens.shape[1] for batch in way.batches],
                "cached_tokens": 0 if cache is None else len(cache), "flops": way.flops(net),
                "cache_bytes": 0 if cache is None else cache.n_bytes, "caching_seconds": caching,
            })  # fmt: skip

    def evidence(self, claim: Claim, table: pd.DataFrame) -> Evidence:
        """Paired by query; speeds are compared by their ratio."""
        rows = table.assign(speed=-np.log(table["seconds"]), right=is_right(table))
        speed, arm = by_prompt(rows, "speed", "arm"), ANCHORS_REWEIGHTED if claim == _OF_BOTH else ANCHORS
        rival = _OF_SPEED.get(claim, FULL)
        if not {arm, rival} <= set(speed):
            why = "This claim is not measured with protocol paper, nor on prompts without training prompts (per_class)."
            return Evidence.nothing(why)
        faster = _over_sets(speed[arm] - speed[rival])
        if claim != _OF_BOTH:
            mean, low, high = map(float, np.expm1(faster[:3]))
            ratios, times = (
                np.exp((speed[arm] - speed[rival]).to_numpy()),
                faster._replace(mean=mean, low=low, high=high),
            )
            return Evidence(ratios, 1.0, set_names(speed.index), interval=times, limits=[_SIZES])
        right = by_prompt(rows, "right", "arm")
        if right.empty or 1 - right[FULL].mean() < _LEAST_BETTER:
            why = "Accuracy has no room to rise: whole prompts are all answered correctly, or gold classes are unknown."
            return Evidence.nothing(why)
        better = _over_sets(right[arm] - right[FULL])
        in_speed, in_accuracy = np.array(faster[:3]) / np.log1p(_LEAST_FASTER), np.array(better[:3]) / _LEAST_BETTER
        mean, low, high = map(float, np.minimum(in_speed, in_accuracy))
        both = better._replace(mean=mean, low=low, high=high)
        values = (right[arm] - right[FULL]).to_numpy()
        note = f"Anchors, re-weighted: {np.exp(faster.mean):.2f} times as fast, accuracy {better.mean:+.1%} "
        note += f"{_bounds(better)}."
        if PREFIX_REWEIGHTED in speed:  # the rival has both, too
            exact, of_exact = (by[arm] - by[PREFIX_REWEIGHTED] for by in (speed, right))
            note += (
                f" Against the exact cache of the whole context, re-weighted: {np.exp(exact.mean()):.2f} times as fast,"
                f" accuracy {of_exact.mean():+.1%} {_bounds(_over_sets(of_exact))}."
            )
        return Evidence(values, 0.0, set_names(right.index), interval=both, note=note)

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """By model, task, shots, metric and arm: mean, low, high, n, seeds, and seed_sd, the seeds' standard deviation.

        For ms_per_query and times_as_fast (relative to recomputing everything for the same query) `mean` is the median
        over queries, and `low` and `high` are the quartiles; under the paper's protocol it is the ratio of mean times,
        without quartiles. The other metrics are means: gflops, cached_tokens, cache_kib, caching_ms (the one pass that
        reads the context); and, with intervals as in every summary, accuracy, macro_f1, majority_rate (of the full
        recompute alone), and label_loyalty (same answer as the full recompute).
        """
        rows, by = self._compared(table), ["model", "task", "shots", "arm"]
        context = accuracy_context(rows, by, rows["arm"] == FULL)
        return pd.concat([self._means(rows, by, mean_with_interval), context], ignore_index=True)

    def _compared(self, table: pd.DataFrame) -> pd.DataFrame:
        """Every row with its metrics, compared with recomputing everything for the same query."""
        full = where(table, arm=FULL)[[*PROMPT, "seconds", "predicted"]]
        rows = table.merge(full, on=PROMPT, suffixes=("", "_full"))
        return rows.assign(
            ms_per_query=1e3 * rows["seconds"],
            times_as_fast=rows["seconds_full"] / rows["seconds"],
            gflops=rows["flops"] / 1e9,
            cache_kib=rows["cache_bytes"] / 2**10,
            caching_ms=1e3 * rows["caching_seconds"],
            accuracy=is_right(rows),
            label_loyalty=(rows["predicted"] == rows["predicted_full"]).astype(float),
        )

    def _means(self, rows: pd.DataFrame, by: list[str], mean: Callable[..., pd.DataFrame]) -> pd.DataFrame:
        """Means of each metric; `mean` takes those of shares."""
        means = []
        for key, group in rows.groupby(by, sort=False):
            counts = {"n": len(group), "seeds": group["seed"].nunique(dropna=False)}
            for metric in _METRICS:
                if group[metric].notna().any():
                    of_seeds = [self._numbers(part, metric)["mean"] for _, part in group.groupby("seed", dropna=False)]
                    numbers = self._numbers(group, metric) | counts | {"seed_sd": spread(of_seeds)}
                    means.append(dict(zip(by, key, strict=True)) | {"metric": metric} | numbers)
        shares = [
            mean(rows[rows[metric].notna()].assign(metric=metric), metric, [*by, "metric"])
            for metric in ("accuracy", "label_loyalty") if rows[metric].notna().any()
        ]  # fmt: skip
        return pd.concat([pd.DataFrame(means), *shares], ignore_index=True)

    def _numbers(self, group: pd.DataFrame, metric: str) -> dict[str, float]:
        if metric in _TIMES and self.protocol == "corrected":
            low, middle, high = group[metric].quantile([0.25, 0.5, 0.75])
            return {"mean": middle, "low": low, "high": high}
        mean = group[metric].mean()
        if metric == "times_as_fast":  # the paper divides the seeds' mean times
            mean = group["seconds_full"].mean() / group["seconds"].mean()
        return {"mean": float(mean), "low": np.nan, "high": np.nan}

    def drawing(self, result: Result) -> Drawing:
        """Bars by arm, with the paper's ratios as marks."""
        summary, of_all = result.summary(), self._means(self._compared(result.table), ["arm"], mean_over_tasks)
        arms = [arm for arm in ARMS if arm in set(summary["arm"])][::-1]
        tasks = list(dict.fromkeys(summary["task"]))
        published = [task for task in tasks if task in TABLE_3]
        panels = []
        for metric, title in _TITLES.items():
            rows = where(of_all, metric=metric).set_index("arm")
            if rows.empty:
                continue
            arm_bars = bars(
                rows.loc[arms], arms, [_COLOURS[arm] for arm in arms],
                marker_pattern_shape=["/" if "re-weighted" in arm else "" for arm in arms],
                hovertemplate="%{y}: %{x:.4g}<extra>" + title + "</extra>",
            )  # fmt: skip
            ratios = [
                marks([ANCHORS] * len(published), [TABLE_3[task][number] for task in published], symbol, name,
                      text=published, hovertemplate="%{text}: %{x}", marker_size=10, marker_line_width=1)
                for number, (name, symbol) in enumerate(PAPER_MODELS.items())
            ]  # fmt: skip
            items = [arm_bars, *(ratios if metric == "times_as_fast" and published else [])]
            panels.append(Panel(title, items, {"rangemode": "tozero", "nticks": 5}))
        machine = result.provenance.get("surroundings", {})
        device = f"{machine.get('device', 'unknown device')}, threads: {machine.get('threads', '?')}"
        times = "median over queries, with quartiles" if self.protocol == "corrected" else "mean of the whole loop"
        note = f"{', '.join(tasks)}; one query at a time on {device}; times: {times}"
        return Drawing(summary, panels, x_title="", note=note, common=True, height=34 * len(arms), hover="closest")

    def details(self, result: Result) -> list[str]:
        mean = result.summary().groupby(["metric", "arm"])["mean"].mean()
        flops, kib = mean["gflops"], mean["cache_kib"]
        size = f", in a cache of {kib[ANCHORS] / kib[PREFIX]:.0%} of the exact one's size" if PREFIX in kib else ""
        return [
            *super().details(result),
            f"A query on the cached anchors takes {flops[ANCHORS] / flops[FULL]:.0%} of the operations of a whole "
            f"prompt{size}.",
        ]


_TIMES = {"ms_per_query": "ms per query", "times_as_fast": "times as fast as full recompute"}
_TITLES = _TIMES | {"gflops": "GFLOP per query", "cache_kib": "cache, KiB", "accuracy": "accuracy"}
_METRICS = (*_TIMES, "gflops", "cache_kib", "tokens", "cached_tokens", "caching_ms")
_SIZES = "Times are of one machine, and follow from sizes, not from what the model has learned."
_COLOURS = {FULL: GREY, PREFIX: SKY, ANCHORS: BLUE, TEXT: ORANGE, PREFIX_REWEIGHTED: SKY, ANCHORS_REWEIGHTED: BLUE}


def _words(prompt: Prompt, positions: Sequence[int]) -> int:
    """Space-separated words of the texts at these tokens, without the template, as L_demo and L_x seem to count."""
    text = ""
    for before, position in pairwise([-2, *positions]):
        start, end = prompt.offsets[position] if prompt.offsets else (0, 0)
        text += ("" if position == before + 1 else " ") + prompt.string[start:end]
    return len(text.split())


def _over_sets(gain: pd.Series[float]) -> SetInterval:
    """Mean gain over demonstration sets, of a column of `by_prompt`."""
    return mean_over_sets(gain.to_numpy(), set_names(gain.index), generator=np.random.default_rng(0))


def _bounds(of: SetInterval) -> str:
    return "(no interval)" if np.isnan(of.low) else f"[{of.low:+.1%}, {of.high:+.1%}]"
