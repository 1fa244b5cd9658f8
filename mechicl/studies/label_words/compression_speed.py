"""How much faster a compressed context is (section 3.2, Tables 3 and 6), and re-weighted anchors on top of it.

The paper times the whole prompt, demonstrations read again for every query, against queries asked on the cached keys
and values of label words and template, and reports the ratio. That is not the alternative: a cache of the whole context
is exact, and saves the demonstrations just as well. So there are four arms here: everything recomputed, the full prefix
cached, its anchors alone cached, and the anchors' tokens read as text. Two more join compression with re-weighting,
which the paper could not: with accuracy beside the time, they show whether both rise at once.

`protocol="paper"` times a loop over the queries as a whole, without warm-up, of the paper's two arms.
`"corrected"` reads a few queries first, waits for the device before and after every pass, takes the arms in turn for
each query so that all see the same machine, and reports the median over queries with the quartiles. Both read one query
at a time, as the paper does; all arms go through the same blocks of the same implementation.

Times belong to a machine and a moment. All arms of a task and seed are measured together in one cell, and the machine
(device, processor, threads) is part of the cell's key: a run that goes on elsewhere measures again.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch

from mechicl.declared import Switch
from mechicl.engines.compression import anchors_of, without_the_rest
from mechicl.engines.context import read_context
from mechicl.engines.prefix import shared_demonstrations
from mechicl.engines.reweighting import Variant, fit_together
from mechicl.engines.timing import Ready, in_turn, timed, whole_loop
from mechicl.figures import BLUE, GREY, ORANGE, SKY
from mechicl.models import blockwise, hooked
from mechicl.prompts import Prompt, PromptSet
from mechicl.results import Result
from mechicl.studies.drawing import Drawing, Panel, bars, marks, where
from mechicl.studies.label_words.predictions import PROMPT, accuracy_context, is_right
from mechicl.studies.label_words.tables import PAPER_MODELS, TABLE_3
from mechicl.studies.study import Condition, Study
from mechicl.studies.summary import spread
from mechicl.tasks import Task

FULL, PREFIX, ANCHORS, TEXT = "full recompute", "full prefix cache", "anchor cache", "text anchor"
PREFIX_REWEIGHTED, ANCHORS_REWEIGHTED = "full prefix cache, re-weighted", "anchor cache, re-weighted"
ARMS = (FULL, TEXT, PREFIX, ANCHORS, PREFIX_REWEIGHTED, ANCHORS_REWEIGHTED)


@dataclass(frozen=True)
class CompressionSpeed(Study):
    """A row per prompt and arm (what is kept of the context): seconds, operations and memory of the query.

    Gold and predicted class, tokens read, tokens and bytes in the cache, seconds of the one pass that fills the cache,
    and the words of demonstrations and query.
    """

    warm_up: Annotated[int, Switch("Queries that are asked before the clock runs.", min=0)] = 3
    repeats: Annotated[int, Switch("Times that every query is timed; the median counts.", min=1)] = 3
    lr: Annotated[float, Switch("Learning rate of the re-weighted arms.", above=0)] = 0.01
    per_class: Annotated[int, Switch("Training items per class of the re-weighted arms; 0: without them.", min=0)] = 4

    name = "compression-speed"
    title = "How fast a compressed context is"
    shows = "Time, operations and memory of queries on whole and on compressed contexts."
    source = "Label Words are Anchors, section 3.2, Tables 3 and 6"
    claim = (
        "Queries on the hidden states of label words and template are 1.1 to 2.9 times as fast as whole prompts, the "
        "more so the longer the demonstrations."
    )
    batch_size = None
    shared_options = {"demonstrations": None}

    def prompts(self, task: Task, tokenizer: Any, **options: Any) -> PromptSet:
        """A task's prompts, with `per_class` training items of every class for the re-weighted arms; 0: without."""
        prompts = task.prompts(tokenizer, **options)
        if not self.per_class or self.protocol == "paper":
            return prompts
        common = {name: value for name, value in options.items() if name not in ("samples", "demonstrations", "rows")}
        training = task.auxiliary_prompts(tokenizer, per_class=self.per_class, **common)
        return replace(prompts, companions={"training": training})

    def surroundings(self, model: Any) -> dict[str, Any]:
        device = hooked(model).device
        return {
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
            "processor": platform.processor() or platform.machine(),
            "system": platform.platform(),
            "threads": torch.get_num_threads(),
        }

    def passes(self, n_layers: int) -> float:
        return 5 * (1 if self.protocol == "paper" else self.repeats + 1)  # one query at a time

    def measure(self, model: Any, prompts: PromptSet, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        training, parts = prompts.companions.get("training"), []
        for indices in shared_demonstrations(prompts):
            members = prompts.select(indices)
            words = {"demonstration_words": [_words(prompt, prompt.w) for prompt in members],
                     "query_words": [_words(prompt, prompt.query_text) for prompt in members]}  # fmt: skip
            for rows in self._arms(model, members, training):
                parts.append(rows.assign(prompt=list(indices), gold=members.gold.numpy(), **words))
        return pd.concat(parts, ignore_index=True)

    def _arms(self, model: Any, prompts: PromptSet, training: PromptSet | None) -> Iterator[pd.DataFrame]:
        """Rows of each arm, for prompts with the same demonstrations; caches are read, and timed, here."""
        net, first = blockwise(model, self.name), prompts[0]
        read_context(model, first)  # a first pass takes longer than those after it
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
            seconds = in_turn(model, list(ways.values()), warm_up=self.warm_up, repeats=self.repeats)
        else:
            seconds = np.array([[whole_loop(model, way)] * len(prompts) for way in ways.values()])
        for (name, way), of_way in zip(ways.items(), seconds, strict=True):
            cache, caching = caches.get(name, (None, 0.0))
            yield pd.DataFrame({
                "arm": name, "seconds": of_way, "predicted": way.predicted(net).numpy(),
                "tokens": [batch.tokens.shape[1] for batch in way.batches],
                "cached_tokens": 0 if cache is None else len(cache), "flops": way.flops(net),
                "cache_bytes": 0 if cache is None else cache.n_bytes, "caching_seconds": caching,
            })  # fmt: skip

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """By model, task, shots, metric and arm: mean, low, high, n, seeds, and seed_sd, the standard deviation of the
        seeds' own.

        Of ms_per_query and times_as_fast (as everything recomputed, the same query) `mean` is the median over queries,
        `low` and `high` are the quartiles; under the paper's protocol the ratio of mean times, without quartiles. The
        other metrics are means: gflops, cached_tokens, cache_kib, caching_ms (the one pass that reads the context),
        accuracy, macro_f1, of everything recomputed majority_rate, and label_loyalty (the same answer as everything
        recomputed).
        """
        full = where(table, arm=FULL)[[*PROMPT, "seconds", "predicted"]]
        rows = table.merge(full, on=PROMPT, suffixes=("", "_full"))
        rows = rows.assign(
            ms_per_query=1e3 * rows["seconds"],
            times_as_fast=rows["seconds_full"] / rows["seconds"],
            gflops=rows["flops"] / 1e9,
            cache_kib=rows["cache_bytes"] / 2**10,
            caching_ms=1e3 * rows["caching_seconds"],
            accuracy=is_right(rows),
            label_loyalty=(rows["predicted"] == rows["predicted_full"]).astype(float),
        )
        by, means = ["model", "task", "shots", "arm"], []
        for key, group in rows.groupby(by, sort=False):
            counts = {"n": len(group), "seeds": group["seed"].nunique(dropna=False)}
            for metric in _METRICS:
                if group[metric].notna().any():
                    of_seeds = [self._numbers(part, metric)["mean"] for _, part in group.groupby("seed", dropna=False)]
                    numbers = self._numbers(group, metric) | counts | {"seed_sd": spread(of_seeds)}
                    means.append(dict(zip(by, key, strict=True)) | {"metric": metric} | numbers)
        return pd.concat([pd.DataFrame(means), accuracy_context(rows, by, rows["arm"] == FULL)], ignore_index=True)

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
        summary = result.summary()
        arms = [arm for arm in ARMS if arm in set(summary["arm"])][::-1]
        tasks = list(dict.fromkeys(summary["task"]))
        published = [task for task in tasks if task in TABLE_3]
        panels = []
        for metric, title in _TITLES.items():
            rows = where(summary, metric=metric).groupby("arm")[["mean", "low", "high"]].mean()
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

    def finding(self, result: Result) -> str:
        mean = result.summary().groupby(["metric", "arm"])["mean"].mean()
        fast, flops, kib = mean["times_as_fast"], mean["gflops"], mean["cache_kib"]
        anchors = (
            f"On the cached anchors a query is {fast[ANCHORS]:.1f} times as fast as with everything recomputed, with "
            f"{flops[ANCHORS] / flops[FULL]:.0%} of the operations."
        )
        if PREFIX not in fast:
            return anchors
        return (
            f"{anchors} On a cache of the whole context, which is exact, it is {fast[PREFIX]:.1f} times as fast; the "
            f"anchors' cache has {kib[ANCHORS] / kib[PREFIX]:.0%} of its size."
        )


_TIMES = {"ms_per_query": "ms per query", "times_as_fast": "times as fast as full recompute"}
_TITLES = _TIMES | {"gflops": "GFLOP per query", "cache_kib": "cache, KiB", "accuracy": "accuracy"}
_METRICS = (*_TITLES, "tokens", "cached_tokens", "caching_ms", "label_loyalty")
_COLOURS = {FULL: GREY, PREFIX: SKY, ANCHORS: BLUE, TEXT: ORANGE, PREFIX_REWEIGHTED: SKY, ANCHORS_REWEIGHTED: BLUE}


def _words(prompt: Prompt, positions: Sequence[int]) -> int:
    """Words between spaces of the texts at these tokens, template left out: as L_demo and L_x seem to be counted."""
    text = ""
    for before, position in pairwise([-2, *positions]):
        start, end = prompt.offsets[position] if prompt.offsets else (0, 0)
        text += ("" if position == before + 1 else " ") + prompt.string[start:end]
    return len(text.split())
