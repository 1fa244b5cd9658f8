"""Ablating several layers at once: is a model an ensemble of shallow paths? (section 5.4 and discussion; our extension)

The paper interprets the robustness of middle layers as ensembling, and cites residual networks: Veit et al. (2016)
dropped more and more random blocks, and shuffled blocks, and error rose smoothly. The paper does not repeat their test.
Here we drop an increasing number k of random middle layers (all except the first and last), swap k random pairs of
neighbours one after the other, and shuffle the middle layers. Kendall's tau of the order in which layers run measures
disorder.

If middle layers worked independently, dropping k of them would cost about the sum of their single costs, which the
figure shows. All draws for a batch of text run in one sweep. There is no protocol "paper".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from math import comb
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from mechicl.corpora import TokenCorpus
from mechicl.declared import Switch
from mechicl.errors import InputError
from mechicl.figures import BLUE, GREEN, GREY, VERMILION
from mechicl.models import hooked
from mechicl.patches.lesions import DropMany, Reorder
from mechicl.results import Result
from mechicl.studies.drawing import Curve, Drawing, Panel, where
from mechicl.studies.stages.lesions import IN_WORDS, WEIGHTS, Lesions, with_differences
from mechicl.studies.stages.sequences import weighted_means
from mechicl.studies.study import Condition, Study
from mechicl.studies.summary import mean_with_interval

_METRICS = ("kl", "agreement", "entropy_difference", "loss_difference", "accuracy")
_SIZES = 6
"""Numbers of layers to drop, from one to all middle layers."""


@dataclass(frozen=True)
class ManyLesions(Study):
    """Random sets of dropped layers, and random orders: a row per draw and sequence.

    KL and losses in nats, agreement as a share, entropies in bits.
    """

    draws: Annotated[int, Switch("Random sets or orders per size.", min=1)] = 8
    draw_seed: Annotated[int, Switch("Seed of the draws.", min=0)] = 0
    positions: Annotated[
        Literal["all", "rest"], Switch("Where sets of layers are dropped: everywhere, or everywhere but at position 0.")
    ] = "all"
    spare_ends: Annotated[bool, Switch("Leave the first and the last layer unchanged.")] = True

    name = "many-lesions"
    title = "Several layers at once"
    shows = "Predictions with more and more random middle layers dropped or shuffled."
    source = "Stages of Inference, section 5.4 (extension, after Veit et al. 2016)"
    claim = (
        "Middle layers act like an ensemble of shallow paths: as more of them are dropped or shuffled, predictions "
        "change gradually."
    )
    reads = "text"
    no_paper_protocol = "the paper did not do it"
    batch_size = 4
    sweeps = True
    renamed = {"seed": "draw_seed"}

    def lesions(self, n_layers: int) -> list[tuple[str, int, float, DropMany | Reorder]]:
        """(kind, size, Kendall's tau, ablation) of every draw; size counts dropped layers, or swaps.

        Raises:
            InputError: there are fewer than two layers to choose from.
        """
        middle = range(1, n_layers - 1) if self.spare_ends else range(n_layers)
        if len(middle) < 2:
            raise InputError(f"This model has {n_layers} layers, too few for several at once between first and last.")
        generator = np.random.default_rng(self.draw_seed)
        draws: list[tuple[str, int, float, DropMany | Reorder]] = []
        for size in np.unique(np.linspace(1, len(middle), min(_SIZES, len(middle))).round().astype(int)).tolist():
            draws += [
                ("drop", size, 1.0, DropMany(dropped, positions=self.positions))
                for dropped in self._sets(middle, size, generator)
            ]
        most = len(middle) * (len(middle) - 1) // 2
        for swaps in (2**power for power in range(10) if 2**power <= most):
            orders = self._orders(n_layers, partial(_swapped, middle, swaps, generator))
            draws += [("swaps", swaps, order.kendall_tau, order) for order in orders]
        orders = self._orders(n_layers, lambda: generator.permutation(middle).tolist())
        return draws + [("shuffle", len(middle), order.kendall_tau, order) for order in orders]

    def _orders(self, n_layers: int, draw: Callable[[], list[int]]) -> list[Reorder]:
        """Distinct random orders of the middle; a draw of the original order is repeated."""
        original, orders = tuple(range(n_layers)), dict[tuple[int, ...], None]()
        for _ in range(self.draws):
            order = original
            while order == original:
                middle = draw()
                order = (*range(min(middle)), *middle, *range(max(middle) + 1, n_layers))
            orders[order] = None
        return [Reorder(order) for order in orders]

    def _sets(self, middle: range, size: int, generator: np.random.Generator) -> Iterator[tuple[int, ...]]:
        """For size 1, every layer; otherwise distinct random sets, or all sets if they are few."""
        if size == 1 or comb(len(middle), size) <= self.draws:
            yield from combinations(middle, size)
            return
        sets: dict[tuple[int, ...], None] = {}
        while len(sets) < self.draws:
            sets[tuple(sorted(generator.choice(middle, size, replace=False).tolist()))] = None
        yield from sets

    def passes(self, n_layers: int) -> float:
        return 1 + len(self.lesions(n_layers))  # each runs half of the blocks on average, plus logits

    def measure(self, model: Any, corpus: TokenCorpus, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        chosen = self.lesions(hooked(model).sizes.n_layers)
        lesions = [lesion for *_, lesion in chosen]
        facts = pd.DataFrame([facts for *facts, _ in chosen], columns=["kind", "size", "tau"])
        orders = [lesion.dropped if isinstance(lesion, DropMany) else lesion.to for lesion in lesions]
        facts["layers"] = [" ".join(map(str, layers)) for layers in orders]
        return Lesions().swept(model, corpus, lesions, facts, batch_size)

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Mean over draws: model, kind, size, metric, mean, low, high, n (draws), seeds; intervals resample draws.

        Metrics are those of `layer-lesions`; `kl if independent` sums the cost of each layer of a set alone (nats),
        `tau` is the mean of Kendall's tau.
        """
        by = ["model", "kind", "size"]
        long = draw_means(table).melt(by, [*_METRICS, "kl if independent", "tau"], "metric").dropna()
        parts = [mean_with_interval(rows, "value", [*by, "metric"]) for _, rows in long.groupby("metric", sort=False)]
        return pd.concat(parts, ignore_index=True)

    def drawing(self, result: Result) -> Drawing:
        summary, draws = result.summary(), draw_means(result.table)
        rows = where(summary, kind="drop")
        rows = rows.assign(low=rows["low"].where(rows["metric"] != "kl if independent"))  # without a band
        drops = where(draws, kind="drop")
        disorders = [
            _dots(where(draws, kind=kind), "tau", "kl", name, colour)
            for kind, name, colour in (
                ("swaps", "neighbours swapped", VERMILION),
                ("shuffle", "middle shuffled", GREEN),
            )
        ]
        panels = [
            Panel("KL to the clean model (nats)",
                  [_dots(drops, "size", "kl", "one draw", BLUE), Curve("kl", "mean over draws", BLUE),
                   Curve("kl if independent", "each alone, summed", GREY, "dash")]),
            Panel("top-1 agreement",
                  [_dots(drops, "size", "agreement", "one draw", BLUE), Curve("agreement", "mean over draws", BLUE)],
                  y_axis={"range": [0, 1.02]}),
            Panel("KL, layers out of order", disorders,
                  x_axis={"title_text": "Kendall's tau of the order", "autorange": "reversed"}),
        ]  # fmt: skip
        return Drawing(
            rows, panels, x="size", x_title=f"middle layers dropped{IN_WORDS[self.positions]}",
            y_axis={"rangemode": "tozero"}, hover="closest", note="a dot: one draw; band: 95 % interval over draws",
        )  # fmt: skip

    def finding(self, result: Result) -> str:
        parts = []
        for dropped, means in self._by_model(result):
            kl, alone = means["drop", "kl"], means["drop", "kl if independent"]
            size = kl.index[min(1, len(kl) - 1)]
            parts.append(
                f"With {size} {dropped}, the KL is {kl[size]:.2f} nats, {kl[size] / max(alone[size], 1e-12):.1f} times "
                "what each costs alone, summed."
            )
        return " ".join(parts)

    def details(self, result: Result) -> list[str]:
        parts = []
        for dropped, means in self._by_model(result):
            kl, shuffled = means["drop", "kl"], means["shuffle", "kl"].iloc[0]
            parts.append(
                f"With all {kl.index[-1]} {dropped}, the KL is {kl.iloc[-1]:.2f} nats; with them shuffled, "
                f"{shuffled:.2f} nats."
            )
        return parts

    def _by_model(self, result: Result) -> Iterator[tuple[str, Any]]:
        """Per model (earlier versions saved several in a table): what is dropped, and means [kind metric size]."""
        summary = result.summary()
        for model, rows in summary.groupby("model", sort=False):
            of_model = f" of {model}" if summary["model"].nunique() > 1 else ""
            means = rows.set_index(["kind", "metric", "size"])["mean"].sort_index()
            yield f"middle layers{of_model} dropped{IN_WORDS[self.positions]}", means


def draw_means(table: pd.DataFrame) -> pd.DataFrame:
    """One row per draw: means over all tokens, with `kl if independent`, the sum of its layers' own KL (drops)."""
    measured = with_differences(table).rename(columns={"correct": "accuracy"})
    by = ["model", "kind", "size", "tau", "layers"]
    means = weighted_means(measured, {metric: WEIGHTS[metric] for metric in _METRICS}, by)
    alone = where(means, kind="drop", size=1).set_index(["model", "layers"])["kl"]
    means["kl if independent"] = [
        sum(alone[model, layer] for layer in layers.split()) if kind == "drop" else np.nan
        for model, kind, layers in means[["model", "kind", "layers"]].itertuples(index=False)
    ]
    return means


def _dots(draws: pd.DataFrame, x: str, y: str, name: str, colour: str) -> go.Scatter:
    return go.Scatter(
        x=draws[x], y=draws[y], mode="markers", name=name, marker={"color": colour, "size": 6, "opacity": 0.45},
        customdata=draws["layers"], hovertemplate="%{y:.4f}<br>layers %{customdata}<extra></extra>",
    )  # fmt: skip


def _swapped(middle: range, swaps: int, generator: np.random.Generator) -> list[int]:
    """The middle layers after a number of random swaps of neighbours."""
    order = list(middle)
    for place in generator.integers(0, len(order) - 1, size=swaps).tolist():
        order[place], order[place + 1] = order[place + 1], order[place]
    return order
