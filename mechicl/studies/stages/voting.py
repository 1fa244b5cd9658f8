"""Neurons that vote for a class of tokens (section 5.3, appendix I): does the next token end in -ing?

The paper ranks prediction and suppression neurons of GPT-2 XL by how far they move "-ing" tokens from all others, and
trains linear probes on their activations before a verb, 24 tokens into a text: on single neurons, and on ensembles of 1
to 32. Single suppression neurons are about as good as the model itself, ensembles of prediction neurons better.

Neurons are read where the context ends, one token before the one that is to be told; nothing else is kept. Data are
balanced: where the tokenizer has other forms of the same stems, contexts before " going" are set against as many before
" go" or " goes"; otherwise contexts that end in the same token are set against each other (see `ballots.py`).

`protocol="paper"` does what the authors' code and text say: the 32 neurons of largest effect, kinds as their code files
them, ranked by the same accuracy that is reported, ensembles in that order. `"corrected"` takes 32 of each kind, ranks
and chooses on one half of the text and judges on the other, adds greedy ensembles, both kinds mixed, and a control that
the paper lacks: as many random neurons of the same layers (several draws). Beside the probes stand votes without any
training: a neuron's activation times its effect on the class's logits against all others, added up; its sign is the
vote.

The class may be any: a suffix, words, or a test of a token's text. Effects assume a folded final norm
(`processing="fold"`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from mechicl.corpora import TokenCorpus
from mechicl.declared import Switch
from mechicl.errors import one_sentence
from mechicl.figures import BLUE, GREEN, GREY, INK, VERMILION, error_bars
from mechicl.hooks import run
from mechicl.mlp_neurons.token_classes import TokenClass, class_members, describe
from mechicl.models import hooked
from mechicl.probes.last_position import LastNeurons, LastPrediction
from mechicl.progress import progress
from mechicl.results import Result
from mechicl.studies.drawing import Curve, Drawing, Level, Panel, where
from mechicl.studies.stages.ballots import ballots, contexts_of
from mechicl.studies.stages.ensembles import Judged
from mechicl.studies.stages.sequences import accuracy_by_sequence, weighted_summary
from mechicl.studies.stages.voters import effects, find_neurons
from mechicl.studies.study import Condition, Study
from mechicl.studies.summary import TEXT_BAND

_COLOURS = {"prediction": BLUE, "suppression": VERMILION, "both kinds": GREEN, "random": GREY}
_ORDERS = {"ranked": "best neurons first", "greedy": "chosen one after the other"}
_DRAWS = 3
_MODEL, _SINGLE, _VOTE, _VOTES = "model's own prediction", "single probe", "single vote", "votes of "


@dataclass(frozen=True)
class Voting(Study):
    """Accuracy of probes on neurons, of votes, and of the model itself: a row per judged sequence and measure.

    The share of that sequence's contexts that are told right, between 0 and 1; by probes on single neurons and on
    ensembles, by votes without training, and by the model itself.
    """

    token_class: Annotated[
        TokenClass,
        Switch("A suffix (-ing), words (with commas), a file with a word on each line, token ids, or a test of words."),
    ] = "-ing"
    neurons: Annotated[int, Switch("Neurons of each kind.", min=1)] = 32
    pairs: Annotated[int, Switch("Pairs of contexts, at most.", min=1)] = 500
    context: Annotated[int, Switch("Tokens of each context.", min=1)] = 24
    kurtosis: Annotated[float, Switch("Above it a neuron is a candidate, if its variance is, too.")] = 10.0
    variance: Annotated[float, Switch("Above it a neuron is a candidate, if its kurtosis is, too.")] = 0.005
    draw_seed: Annotated[int, Switch("Seed of what is drawn.", min=0)] = 0

    name = "voting"
    title = "Neurons that vote for a class of tokens"
    shows = "Neurons that tell whether the next token is of a class, alone and in ensembles."
    source = "Stages of Inference, section 5.3 and appendix I"
    claim = (
        "The best single neurons, which are suppression neurons, tell whether the next token ends in -ing about as "
        "well as the model; ensembles of prediction neurons do better than both."
    )
    reads = "text"
    batch_size = 32
    renamed = {"seed": "draw_seed"}
    shared_options = {"processing": "fold"}

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "token_class", _named_class(self.token_class))

    def for_model(self, model: Any) -> Voting:
        """A test of words becomes the ids of the tokens that pass it."""
        if not callable(self.token_class):
            return self
        net = hooked(model)
        members = class_members(net.tokenizer, self.token_class, net.sizes.d_vocab)
        return replace(self, token_class=tuple(members.nonzero().flatten().tolist()))

    @property
    def sequences_a_cell(self) -> int:
        return sys.maxsize  # a probe learns from all of the text

    def measure(self, model: Any, corpus: TokenCorpus, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        net = hooked(model)
        cases = ballots(
            corpus, self.token_class, net.sizes.d_vocab, context=self.context, most=self.pairs, seed=self.draw_seed
        )  # fmt: skip
        ranking = find_neurons(
            model, self.token_class, kurtosis=self.kurtosis, variance=self.variance, protocol=self.protocol
        )  # fmt: skip
        groups = self._groups(ranking, effects(model, self.token_class).numpy())
        neurons = pd.concat(groups.values()).drop_duplicates(["layer", "neuron"]).reset_index(drop=True)
        probe, last = LastNeurons(_pairs(neurons)), LastPrediction()
        readings = run(model, contexts_of(corpus, cases, self.context), [probe, last], batch_size=batch_size)
        members = class_members(net.tokenizer, self.token_class, net.sizes.d_vocab)
        judged = self._judged(readings[probe].values.double().numpy(), cases)
        test = cases[judged.test]
        rows = _Rows(test["sequence"].to_numpy())
        rows.add((members[readings[last].values].numpy() == judged.label)[judged.test], what=_MODEL)
        self._single(rows, judged, neurons)
        column = {pair: i for i, pair in enumerate(_pairs(neurons))}
        with progress("ensembles", len(groups)) as advance:
            for group, members_of_group in groups.items():
                columns = [column[pair] for pair in _pairs(members_of_group)]
                self._ensembles(rows, judged, group, columns)
                votes = judged.activations[judged.test][:, columns] @ neurons["effect"].to_numpy()[columns]
                rows.add((votes > 0) == judged.label[judged.test], what=_VOTES + _kind(group), k=len(columns))
                advance(1)
        return rows.table().assign(matched_by=cases["matched_by"].iloc[0])

    def _groups(self, ranking: pd.DataFrame, effect: np.ndarray) -> dict[str, pd.DataFrame]:
        """Neurons of each ensemble: of both kinds, and, in the corrected protocol, of each and at random."""
        if self.protocol == "paper":
            first = ranking.head(self.neurons)
            return _by_kind(first) | {"both kinds": first}
        groups = {kind: rows.head(self.neurons) for kind, rows in _by_kind(ranking).items()}
        groups["both kinds"] = ranking.head(self.neurons)
        generator = np.random.default_rng(self.draw_seed)
        layers = pd.concat([groups[kind] for kind in groups if kind != "both kinds"])["layer"].to_numpy()
        taken = {pair for rows in groups.values() for pair in _pairs(rows)}
        for draw in range(_DRAWS):
            chosen = generator.choice(layers, min(self.neurons, len(layers)), replace=False)
            groups[f"random {draw}"] = _random_neurons(chosen, effect, taken, generator)
        return groups

    def _judged(self, activations: np.ndarray, cases: pd.DataFrame) -> Judged:
        """The folds, and the halves of the selection fold: a sequence of the text lies in one of them."""
        test = cases["fold"].to_numpy() == 1
        sequences = np.random.default_rng(self.draw_seed).permutation(cases["sequence"][~test].unique())
        learn = cases["sequence"].isin(sequences[::2]).to_numpy() & ~test
        return Judged(activations, cases["label"].to_numpy(), test, learn, ~test & ~learn)

    def _single(self, rows: _Rows, judged: Judged, table: pd.DataFrame) -> None:
        for i, neuron in enumerate(table.itertuples()):
            if neuron.kind == "random":
                continue
            vote = judged.activations[judged.test, i] * neuron.effect > 0
            facts = {name: getattr(neuron, name) for name in ("layer", "neuron", "kind", "effect")}
            rows.add(judged.correct([i], ~judged.test, judged.test), what=_SINGLE, **facts)
            rows.add(vote == judged.label[judged.test], what=_VOTE, **facts)

    def _ensembles(self, rows: _Rows, judged: Judged, group: str, columns: list[int]) -> None:
        ranked = judged.ranked(columns, on_test=self.protocol == "paper")
        orders = {"ranked": ranked}
        if self.protocol == "corrected":
            orders["greedy"] = judged.greedy(ranked, self.neurons)
        for order, neurons in orders.items():
            for k, right in enumerate(judged.growing(neurons), start=1):
                rows.add(right, what=f"{_kind(group)}, {order}", k=k)

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Accuracies: model, metric, k, layer, neuron, kind, effect, mean, low, high, n (sequences), seeds.

        Metrics: "prediction, ranked" and the like by number k of neurons; votes; the model's own; and for each neuron
        that of its single probe and, as "single vote", how often the sign of its vote is right. Numbers of layer,
        neuron and k are -1 where there is none.
        """
        by = ["model", "what", "layer", "neuron", "kind", "effect"]
        means = weighted_summary(table, {"accuracy": "contexts"}, by, "k")
        return means.drop(columns="metric").rename(columns={"what": "metric"})

    def drawing(self, result: Result) -> Drawing:
        summary = result.summary()
        levels = [Level(where(summary, metric=_MODEL)["mean"].iloc[0], INK), Level(0.5, GREY)]
        panels = []
        for order, title in _ORDERS.items():
            if summary["metric"].str.endswith(f", {order}").any():
                curves = [Curve(f"{group}, {order}", group, colour) for group, colour in _COLOURS.items()]
                panels.append(Panel(f"ensembles, {title}", [*curves, *levels]))
        dots = [_dots(where(summary, metric=_SINGLE, kind=kind), kind) for kind in ("prediction", "suppression")]
        axis = {"title_text": "effect on the class's logits", "dtick": None}
        panels.append(Panel("single neurons", [*dots, *levels], x_axis=axis))
        return Drawing(
            summary, panels, x="k", x_title="neurons", y_title="accuracy", common=True,
            about=f" ({describe(self.token_class)})",
            note=f"matched by {result.table['matched_by'].iloc[0]}; dotted: the model itself, and chance; {TEXT_BAND}",
        )  # fmt: skip

    def finding(self, result: Result) -> str:
        summary = result.summary()
        mean = summary.groupby("metric")["mean"].first()
        singles = where(summary, metric=_SINGLE)
        best = singles.nlargest(1, "mean").iloc[0]
        parts = [
            f"The model itself predicts the class {describe(self.token_class)} in {mean[_MODEL]:.0%} of the contexts; "
            f"the best of {len(singles)} single neurons, {best['kind']} neuron {best['layer']}.{best['neuron']}, in "
            f"{best['mean']:.0%}"
        ]
        for group in _COLOURS:
            curve = where(summary, metric=f"{group}, ranked").set_index("k")
            if len(curve):
                last = curve.loc[curve.index.max()]
                interval = f"[{last['low']:.0%}, {last['high']:.0%}]"
                parts.append(f"{curve.index.max()} neurons ({group}) in {last['mean']:.0%} {interval}")
        return "; ".join(parts) + "."


def _dots(rows: pd.DataFrame, kind: str) -> go.Scatter:
    """Single neurons by their effect."""
    return go.Scatter(
        x=rows["effect"], y=rows["mean"], mode="markers", showlegend=False,
        marker={"color": _COLOURS[kind], "size": 7}, error_y=error_bars(rows, thickness=0.7, width=0),
        text=[f"{layer}.{neuron}" for layer, neuron in rows[["layer", "neuron"]].to_numpy()],
        hovertemplate=kind + " neuron %{text}: %{y:.3f}",
    )  # fmt: skip


class _Rows:
    """Means over the contexts of each sequence, a row per sequence and measure."""

    def __init__(self, sequences: np.ndarray) -> None:
        self._sequences = sequences
        self._parts: list[pd.DataFrame] = []

    def add(self, right: np.ndarray, **what: Any) -> None:
        facts: dict[str, Any] = {"what": "", "k": -1, "layer": -1, "neuron": -1, "kind": "", "effect": 0.0} | what
        self._parts.append(accuracy_by_sequence(self._sequences, right).assign(**facts))

    def table(self) -> pd.DataFrame:
        """All rows; what several random draws measured alike is averaged."""
        table = pd.concat(self._parts, ignore_index=True)
        keys = [name for name in table.columns if name != "accuracy"]
        return table.groupby(keys, sort=False, as_index=False)[["accuracy"]].mean()


def _pairs(table: pd.DataFrame) -> tuple[tuple[int, int], ...]:
    return tuple(zip(table["layer"].tolist(), table["neuron"].tolist(), strict=True))


def _by_kind(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {str(kind): rows for kind, rows in table.groupby("kind")}


def _random_neurons(
    layers: Iterable[int], effect: np.ndarray, taken: set[tuple[int, int]], generator: np.random.Generator
) -> pd.DataFrame:
    """A random neuron for each of these layers, none twice and none of those taken."""
    chosen: list[tuple[int, int]] = []
    for layer in layers:
        free = sorted(set(range(effect.shape[1])) - {n for at, n in (*taken, *chosen) if at == layer})
        if free:
            chosen.append((int(layer), int(generator.choice(free))))
    return pd.DataFrame(chosen, columns=["layer", "neuron"]).assign(
        kind="random", effect=[effect[pair] for pair in chosen]
    )


def _kind(group: str) -> str:
    return "random" if group.startswith("random") else group


def _named_class(token_class: TokenClass | Path) -> TokenClass:
    """A class as it is kept: a suffix, a tuple of words or of token ids, or a test."""
    if callable(token_class) or (isinstance(token_class, str) and token_class.startswith("-")):
        return token_class
    if not isinstance(token_class, str | Path):
        return tuple(token_class)
    words = str(token_class).split(",")
    if isinstance(token_class, Path) or Path(token_class).is_file():
        with one_sentence(token_class):
            words = Path(token_class).read_text(encoding="utf-8-sig").split("\n")
    return tuple(word.strip() for word in words if word.strip())
