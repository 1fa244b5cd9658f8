"""Neurons that vote for a class of tokens (section 5.3, appendix I): does the next token end in -ing?

The paper ranks prediction and suppression neurons of GPT-2 XL by how far they move "-ing" tokens from all others, and
trains linear probes on their activations before a verb, 24 tokens into a text: on single neurons, and on ensembles of 1
to 32. Single suppression neurons are about as good as the model itself, ensembles of prediction neurons better.

Activations are read where the context ends, one token before the one to predict; nothing else is kept. Data are
balanced: if the tokenizer has other forms of the same stems, contexts before " going" are paired with contexts before "
go" or " goes"; otherwise contexts that end in the same token are paired.

`protocol="paper"` follows the authors' code and text: the 32 neurons of largest effect, kinds as in their code, ranked
by the same accuracy that is reported, ensembles in that order. `"corrected"` takes 32 of each kind, ranks and selects
on one half of the text and tests on the other, and adds greedy ensembles, both kinds mixed, and a control that the
paper lacks: the same number of random neurons of the prediction neurons' layers (several draws). In addition to the
linear probes there are votes without any training: the sum of each neuron's activation times its effect on the class's
logits against all others; its sign is the vote.

The class may be a suffix, words, or a test of a token's text. Effects assume a folded final norm
(`processing="fold"`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from mechicl.claims import Claim, Evidence
from mechicl.corpora import TokenCorpus
from mechicl.declared import Switch
from mechicl.figures import BLUE, GREEN, GREY, INK, VERMILION, error_bars
from mechicl.hooks import run
from mechicl.mlp_neurons.token_classes import class_members, describe
from mechicl.models import hooked
from mechicl.probes.last_position import LastNeurons, LastPrediction
from mechicl.progress import progress
from mechicl.results import Result
from mechicl.studies.drawing import Curve, Drawing, Level, Panel, where
from mechicl.studies.stages.ballots import ballots, contexts_of
from mechicl.studies.stages.ensembles import BoolArray, Judged
from mechicl.studies.stages.sequences import accuracy_by_sequence, weighted_summary
from mechicl.studies.stages.voters import OfTokenClass, effects, find_neurons, neuron_groups, pairs_of
from mechicl.studies.study import Condition
from mechicl.studies.summary import TEXT_BAND
from mechicl.studies.twins import against_draws, by_layer, of_documents

_SOURCE, _QUANTITY = "Stages of Inference, section 5.3 and appendix I", "accuracy of the ensemble of most neurons"
VOTES = Claim(
    "neurons-vote", "Ensembles of prediction neurons predict the class better than ensembles of random neurons.",
    _SOURCE, _QUANTITY, "of contexts", "the same number of random neurons of the same layers", 0.05,
)  # fmt: skip
BEYOND = Claim(
    "neurons-beat-the-model", "Ensembles of prediction neurons predict the class better than the model itself.",
    _SOURCE, _QUANTITY, "of contexts", "the model's own prediction", 0.02,
)  # fmt: skip
_COLOURS = {"prediction": BLUE, "suppression": VERMILION, "both kinds": GREEN, "random": GREY}
_ORDERS = {"ranked": "best neurons first", "greedy": "chosen one after the other"}
Answers = tuple[dict[str, Any], BoolArray]
"""Each measure, and whether it is right in each test context."""
_MODEL, _SINGLE, _VOTE, _VOTES = "model's own prediction", "single probe", "single vote", "votes of "


@dataclass(frozen=True)
class Voting(OfTokenClass):
    """Accuracy of linear probes on neurons, of votes, and of the model itself: a row per test sequence and measure.

    Accuracy over that sequence's contexts, between 0 and 1: for probes on single neurons and on ensembles, for votes
    without training, and for the model itself.
    """

    neurons: Annotated[int, Switch("Number of neurons of each kind.", min=1)] = 32
    pairs: Annotated[int, Switch("Maximum number of context pairs.", min=1)] = 500
    context: Annotated[int, Switch("Tokens per context.", min=1)] = 24
    draw_seed: Annotated[int, Switch("Seed of all draws.", min=0)] = 0

    name = "voting"
    title = "Neurons that vote for a class of tokens"
    shows = "Neurons that predict whether the next token is of a class, alone and in ensembles."
    source = "Stages of Inference, section 5.3 and appendix I"
    claim = (
        "The best single neurons, which are suppression neurons, predict whether the next token ends in -ing about as "
        "well as the model does. Ensembles of prediction neurons do better than both."
    )
    claims = (VOTES, BEYOND)
    reads = "text"
    batch_size = 32
    renamed = {"seed": "draw_seed"}
    shared_options = {"processing": "fold"}

    @property
    def sequences_a_cell(self) -> int:
        return sys.maxsize  # a probe learns from the whole text

    def measure(self, model: Any, corpus: TokenCorpus, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        net = hooked(model)
        cases = ballots(
            corpus, self.token_class, net.sizes.d_vocab, context=self.context, most=self.pairs, seed=self.draw_seed
        )  # fmt: skip
        ranking = find_neurons(
            model, self.token_class, kurtosis=self.kurtosis, variance=self.variance, protocol=self.protocol
        )  # fmt: skip
        groups = neuron_groups(
            ranking, effects(model, self.token_class).numpy(), self.neurons, self.protocol, self.draw_seed
        )  # fmt: skip
        neurons = pd.concat(groups.values()).drop_duplicates(["layer", "neuron"]).reset_index(drop=True)
        probe, last = LastNeurons(pairs_of(neurons)), LastPrediction()
        readings = run(model, contexts_of(corpus, cases, self.context), [probe, last], batch_size=batch_size)
        members = class_members(net.tokenizer, self.token_class, net.sizes.d_vocab)
        judged = self._judged(readings[probe].values.double().numpy(), cases)
        by_model = members[readings[last].values].numpy() == judged.label
        answers = [({"what": _MODEL}, by_model[judged.test]), *_singles(judged, neurons)]
        column = {pair: i for i, pair in enumerate(pairs_of(neurons))}
        with progress("ensembles", len(groups)) as advance:
            for group, chosen in groups.items():
                columns = [column[pair] for pair in pairs_of(chosen)]
                kind, _, draw = group.partition(" ") if group.startswith("random") else (group, "", -1)
                ensembles = list(self._ensembles(judged, kind, columns))
                votes = judged.activations[judged.test][:, columns] @ neurons["effect"].to_numpy()[columns]
                right = (votes > 0) == judged.label[judged.test]
                ensembles.append(({"what": _VOTES + kind, "k": len(columns)}, right))
                answers += [(facts | {"draw": int(draw)}, right) for facts, right in ensembles]
                advance(1)
        return _means(cases["sequence"][judged.test], answers).assign(matched_by=cases["matched_by"].iloc[0])

    def _judged(self, activations: np.ndarray, cases: pd.DataFrame) -> Judged:
        """The folds, and the halves of the selection fold; each document, or sequence, is in exactly one."""
        test = cases["fold"].to_numpy() == 1
        units = np.random.default_rng(self.draw_seed).permutation(cases["apart"][~test].unique())
        learn = cases["apart"].isin(units[::2]).to_numpy() & ~test
        return Judged(activations, cases["label"].to_numpy(), test, learn, ~test & ~learn)

    def _ensembles(self, judged: Judged, kind: str, columns: list[int]) -> Iterator[Answers]:
        ranked = judged.ranked(columns, on_test=self.protocol == "paper")
        orders = {"ranked": ranked}
        if self.protocol == "corrected":
            orders["greedy"] = judged.greedy(ranked, self.neurons)
        for order, neurons in orders.items():
            for k, right in enumerate(judged.growing(neurons), start=1):
                yield {"what": f"{kind}, {order}", "k": k}, right

    def evidence(self, claim: Claim, table: pd.DataFrame) -> Evidence:
        ensembles = where(table, what="prediction, ranked")
        others = where(table, what="random, ranked" if claim is VOTES else _MODEL)
        if ensembles.empty or others.empty:
            return Evidence.nothing(
                "This claim needs prediction neurons, and those of the same layers to compare them with."
            )
        if claim is VOTES:
            if "draw" not in table:
                return Evidence.nothing("An earlier version saved the table without draws; run the study again.")
            k = min(int(ensembles["k"].max()), int(others["k"].max()))  # of as many neurons
            curves = by_layer(where(pd.concat([ensembles, others]), k=k), "accuracy", "draw")
            return against_draws(curves, note=_size(k))
        k = int(ensembles["k"].max())
        both = [by_layer(rows, "accuracy", "what").iloc[:, 0] for rows in (where(ensembles, k=k), others)]
        return of_documents(both[0], both[1].to_numpy(), note=_size(k))

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Accuracies: model, metric, k, layer, neuron, kind, effect, mean, low, high, n (sequences), seeds.

        Metrics: "prediction, ranked" and the like by number k of neurons; votes; the model's own prediction; and for
        each neuron its single probe and, as "single vote", how often its vote has the right sign. Layer, neuron and k
        are -1 if they do not apply.
        """
        by = ["model", "what", "layer", "neuron", "kind", "effect"]
        if "draw" in table:
            drawn = [name for name in table.columns if name not in ("draw", "accuracy")]
            table = table.groupby(drawn, sort=False, as_index=False, dropna=False)[["accuracy"]].mean()
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
        axis = {"title_text": "effect on the class's logits"}
        panels.append(Panel("single neurons", [*dots, *levels], x_axis=axis))
        return Drawing(
            summary, panels, x="k", x_title="neurons", y_title="accuracy", common=True, y_axis={"range": [0, 1.02]},
            about=f" ({describe(self.token_class)})",
            note=f"matched by {result.table['matched_by'].iloc[0]}; dotted: the model itself, and chance; {TEXT_BAND}",
        )  # fmt: skip

    def details(self, result: Result) -> list[str]:
        summary = result.summary()
        mean, singles = summary.groupby("metric")["mean"].first(), where(summary, metric=_SINGLE)
        best = singles.nlargest(1, "mean").iloc[0]
        parts = [
            f"Accuracy for the class {describe(self.token_class)}: the model itself {mean[_MODEL]:.0%}; the best of "
            f"{len(singles)} single neurons, picked by these contexts ({best['kind']}, "
            f"{best['layer']}.{best['neuron']}), {best['mean']:.0%}"
        ]
        for group in _COLOURS:
            for last in where(summary, metric=f"{group}, ranked").nlargest(1, "k").itertuples():
                parts.append(f"{last.k} neurons ({group}) {last.mean:.0%} [{last.low:.0%}, {last.high:.0%}]")
        return [*super().details(result), f"{'; '.join(parts)}."]


def _dots(rows: pd.DataFrame, kind: str) -> go.Scatter:
    """Single neurons by their effect."""
    return go.Scatter(
        x=rows["effect"], y=rows["mean"], mode="markers", showlegend=False,
        marker={"color": _COLOURS[kind], "size": 7}, error_y=error_bars(rows, thickness=0.7, width=0),
        text=[f"{layer}.{neuron}" for layer, neuron in rows[["layer", "neuron"]].to_numpy()],
        hovertemplate=kind + " neuron %{text}: %{y:.3f}",
    )  # fmt: skip


def _singles(judged: Judged, neurons: pd.DataFrame) -> Iterator[Answers]:
    """Probes on single neurons, and the signs of their votes."""
    for i, neuron in enumerate(neurons.itertuples()):
        if neuron.kind != "random":
            vote = judged.activations[judged.test, i] * neuron.effect > 0
            facts = {name: getattr(neuron, name) for name in ("layer", "neuron", "kind", "effect")}
            yield {"what": _SINGLE, **facts}, judged.correct([i], ~judged.test, judged.test)
            yield {"what": _VOTE, **facts}, vote == judged.label[judged.test]


def _means(sequences: pd.Series[int], answers: Iterable[Answers]) -> pd.DataFrame:
    """Accuracy over the contexts of each sequence, a row per sequence and measure; random neurons have a `draw`."""
    unknown: dict[str, Any] = {"what": "", "k": -1, "draw": -1, "layer": -1, "neuron": -1, "kind": "", "effect": 0.0}
    parts = [accuracy_by_sequence(sequences.to_numpy(), right).assign(**(unknown | facts)) for facts, right in answers]
    return pd.concat(parts, ignore_index=True)


def _size(k: int) -> str:
    return f"Neurons of an ensemble: {k}."
