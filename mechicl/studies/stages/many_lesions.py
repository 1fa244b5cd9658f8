"""Several layers at once: is a model an ensemble of shallow paths? (section 5.4 and discussion; our extension)

The paper reads the robustness of middle layers as ensembling, and cites residual networks: Veit et al. (2016) left out
more and more random blocks, and shuffled blocks, and error rose smoothly. It does not repeat their test. Here k random
middle layers (all but the first and the last) are left out, with k growing; k random pairs of neighbours are swapped,
one after the other; and the middle layers are shuffled. A disorder is measured by Kendall's tau of the order in which
layers are run.

If middle layers worked independently, leaving out k of them would cost about as much as each alone, summed: that sum is
drawn beside. All draws of a batch of text run in one sweep. There is no protocol "paper".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from math import comb
from typing import Annotated, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from mechicl.corpora import TokenCorpus
from mechicl.declared import Switch
from mechicl.errors import InputError
from mechicl.figures import BLUE, GREEN, GREY, VERMILION, add_curve, panels
from mechicl.models import hooked
from mechicl.patches.lesions import DropMany, Reorder
from mechicl.results import Result
from mechicl.studies.stages.drawing import titled, where
from mechicl.studies.stages.lesions import WEIGHTS, Lesions, with_differences
from mechicl.studies.study import Condition, Study
from mechicl.studies.summary import mean_with_interval

_COLOURS = {"drop": BLUE, "swaps": VERMILION, "shuffle": GREEN}
_NAMES = {"swaps": "neighbours swapped", "shuffle": "middle shuffled"}
_METRICS = ("kl", "agreement", "entropy_difference", "loss_difference", "accuracy")
_SIZES = 6
"""Numbers of layers, between one and all of the middle, that are left out."""


@dataclass(frozen=True)
class ManyLesions(Study):
    """Random sets of layers dropped, and random disorders: a row per draw and sequence.

    KL and losses in nats, agreement as a share, entropies in bits.
    """

    draws: Annotated[int, Switch("Random sets or orders of each size.", min=1)] = 8
    draw_seed: Annotated[int, Switch("Seed of these draws.", min=0)] = 0
    spare_ends: Annotated[bool, Switch("Never touch the first and the last layer.")] = True

    name = "many-lesions"
    title = "Several layers at once"
    shows = "More and more random middle layers left out or out of order."
    source = "Stages of Inference, section 5.4 (extension, after Veit et al. 2016)"
    claim = (
        "Middle layers act like an ensemble of shallow paths: the more of them are left out or out of order, the more "
        "predictions change, without a sudden break."
    )
    reads = "text"
    no_paper_protocol = "the paper did not do it"
    batch_size = 4
    renamed = {"seed": "draw_seed"}

    def lesions(self, n_layers: int) -> list[tuple[str, int, float, DropMany | Reorder]]:
        """(kind, size, Kendall's tau, lesion) of every draw: size counts layers dropped, or swaps.

        Raises:
            InputError: fewer than two layers to choose from.
        """
        middle = range(1, n_layers - 1) if self.spare_ends else range(n_layers)
        if len(middle) < 2:
            raise InputError(f"This model has {n_layers} layers, too few for several at once between first and last.")
        generator = np.random.default_rng(self.draw_seed)
        made: list[tuple[str, int, float, DropMany | Reorder]] = []
        for size in np.unique(np.linspace(1, len(middle), min(_SIZES, len(middle))).round().astype(int)).tolist():
            made += [("drop", size, 1.0, DropMany(dropped)) for dropped in self._sets(middle, size, generator)]
        most = len(middle) * (len(middle) - 1) // 2
        for swaps in (2**power for power in range(10) if 2**power <= most):
            orders = self._orders(n_layers, partial(_swapped, middle, swaps, generator))
            made += [("swaps", swaps, order.kendall_tau, order) for order in orders]
        orders = self._orders(n_layers, lambda: generator.permutation(middle).tolist())
        made += [("shuffle", len(middle), order.kendall_tau, order) for order in orders]
        return made

    def _orders(self, n_layers: int, draw: Callable[[], list[int]]) -> list[Reorder]:
        """Distinct orders with the middle as drawn; the intact order is drawn again."""
        intact, found = tuple(range(n_layers)), dict[tuple[int, ...], None]()
        for _ in range(self.draws):
            while True:
                middle = draw()
                order = (*range(min(middle)), *middle, *range(max(middle) + 1, n_layers))
                if order != intact:
                    break
            found[order] = None
        return [Reorder(order) for order in found]

    def _sets(self, middle: range, size: int, generator: np.random.Generator) -> Iterator[tuple[int, ...]]:
        """Every layer alone; else distinct random sets, or all that there are."""
        if size == 1 or comb(len(middle), size) <= self.draws:
            yield from combinations(middle, size)
            return
        found: dict[tuple[int, ...], None] = {}
        while len(found) < self.draws:
            found[tuple(sorted(generator.choice(middle, size, replace=False).tolist()))] = None
        yield from found

    def passes(self, n_layers: int) -> float:
        return 1 + len(self.lesions(n_layers))  # half of the blocks each, and logits to compare

    def measure(self, model: Any, corpus: TokenCorpus, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        chosen = self.lesions(hooked(model).sizes.n_layers)
        facts = []
        for kind, size, tau, lesion in chosen:
            layers = lesion.dropped if isinstance(lesion, DropMany) else lesion.to
            facts.append({"kind": kind, "size": size, "tau": tau, "layers": " ".join(map(str, layers))})
        return Lesions().swept(model, corpus, [lesion for *_, lesion in chosen], facts, batch_size)

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Mean over draws: model, kind, size, metric, mean, low, high, n (draws), seeds; intervals resample draws.

        Metrics as of `layer-lesions`; `kl if independent` sums what each layer of a set costs alone (nats), `tau` is
        the mean of Kendall's tau.
        """
        by_draw = draw_means(table)
        by = ["model", "kind", "size"]
        long = by_draw.melt(by, [*_METRICS, "kl if independent", "tau"], "metric").dropna()
        parts = [mean_with_interval(rows, "value", [*by, "metric"]) for _, rows in long.groupby("metric", sort=False)]
        return pd.concat(parts, ignore_index=True)

    def figure(self, result: Result) -> go.Figure:
        summary, draws = result.summary(), draw_means(result.table)
        figure = panels(["KL to the intact model (nats)", "same most probable token", "KL, layers out of order"],
                        common=False)  # fmt: skip
        dropped = where(summary, kind="drop")
        for column, metric in ((1, "kl"), (2, "agreement")):
            _add_draws(figure, draws, "size", metric, "drop", column)
            add_curve(figure, where(dropped, metric=metric), x="size", name="mean over draws", colour=BLUE,
                      legend=column == 1, column=column)  # fmt: skip
        alone = where(dropped, metric="kl if independent").assign(low=np.nan)
        add_curve(figure, alone, x="size", name="each alone, summed", colour=GREY, dash="dash")
        for kind in ("swaps", "shuffle"):
            _add_draws(figure, draws, "tau", "kl", kind, 3)
        told = f"{self.source}; a dot: one draw; band: 95 % bootstrap interval over draws"
        titled(figure, self, dropped, told, x="middle layers left out", counts="size")
        figure.update_yaxes(rangemode="tozero")
        figure.update_yaxes(range=[0, 1.02], col=2)
        name = "Kendall's tau of the order"
        figure.update_xaxes(title_text=name, autorange="reversed", tick0=None, dtick=None, col=3)
        return figure.update_layout(hovermode="closest")

    def finding(self, result: Result) -> str:
        summary = result.summary().set_index(["model", "kind", "metric", "size"])["mean"].sort_index()
        draws = draw_means(result.table)
        parts = []
        for model, rows in draws.groupby("model", sort=False):
            sizes = sorted(where(rows, kind="drop")["size"].unique())
            size = sizes[min(1, len(sizes) - 1)]
            drop = summary[model, "drop"]
            ratio = drop["kl", size] / max(drop["kl if independent", size], 1e-12)
            disorder = rows[rows["kind"] != "drop"]
            told = ""
            if disorder["tau"].nunique() > 2:
                correlation = disorder["kl"].corr(disorder["tau"], method="spearman")
                told = f"; over all disorders KL and Kendall's tau have a rank correlation of {correlation:.2f}"
            parts.append(
                f"{model}: with {size} middle layers left out KL is {drop['kl', size]:.2f} nats, {ratio:.1f} times "
                f"what each costs alone, summed; with all {sizes[-1]}, {drop['kl', sizes[-1]]:.2f} nats and "
                f"{drop['agreement', sizes[-1]]:.0%} of the most probable tokens stay. Shuffled middle layers: KL "
                f"{summary[model, 'shuffle', 'kl'].iloc[0]:.2f}{told}"
            )
        return ". ".join(parts) + "."


def draw_means(table: pd.DataFrame) -> pd.DataFrame:
    """One row per draw: means over all tokens, with `kl if independent`, the sum of its layers' own KL (drops)."""
    index = ["model", "kind", "size", "tau", "layers"]
    measured = with_differences(table).rename(columns={"correct": "accuracy"})
    products = {metric: measured[metric] * measured[WEIGHTS[metric]] for metric in _METRICS}
    tokens = measured[[*index, "positions", "targets"]]
    sums = tokens.assign(**products).groupby(index, sort=False, as_index=False).sum()
    for metric in _METRICS:
        sums[metric] /= sums[WEIGHTS[metric]]
    singles = where(sums, kind="drop", size=1).set_index(["model", "layers"])["kl"]
    sums["kl if independent"] = [
        sum(singles[row["model"], layer] for layer in row["layers"].split()) if row["kind"] == "drop" else np.nan
        for row in sums.to_dict("records")
    ]
    return sums


def _add_draws(figure: go.Figure, draws: pd.DataFrame, x: str, y: str, kind: str, column: int) -> None:
    rows = where(draws, kind=kind)
    figure.add_trace(
        go.Scatter(
            x=rows[x], y=rows[y], mode="markers", name=_NAMES.get(kind, "one draw"), legendgroup=kind,
            marker={"color": _COLOURS[kind], "size": 6, "opacity": 0.45}, showlegend=column != 2,
            customdata=rows["layers"], hovertemplate="%{y:.4f}<br>layers %{customdata}<extra></extra>",
        ),
        row=1, col=column,
    )  # fmt: skip


def _swapped(middle: range, swaps: int, generator: np.random.Generator) -> list[int]:
    """The middle after so many swaps of neighbours, each drawn anew."""
    order = list(middle)
    for place in generator.integers(0, len(order) - 1, size=swaps).tolist():
        order[place], order[place + 1] = order[place + 1], order[place]
    return order
