"""Right, then wrong: do late layers spoil correct predictions? (section 5.4; a question of our own)

*Stages of Inference* says that the last layers calibrate. If they do more than that, the logit lens predicts some
tokens correctly in the middle of the model and wrongly at its end. We count these, and the reverse: tokens that no
layer before the last predicts correctly. Both are split by the entropy of the clean prediction.

To see whether the end does more harm than good, we look at one place: before the last quarter of the layers, how many
tokens are right that end up wrong, and how many the other way round?

That a token is right at some layer is weaker evidence: it has one chance per layer, and frequent tokens are often right
by accident. *By chance* is the same count with another token's target: among all tokens of the sequence that end up
wrong, how often is one of a token's intermediate predictions the correct one of another token? The excess over chance
is tested against untrained twins.

Then we intervene: we drop each late layer, and each of the same number of middle layers. How many of the tokens that
late layers turn wrong become right again, and what happens to all others? The last layer is left out here: dropping it
is the same as reading the lens before it, where some of these tokens are right by definition. A late layer that is
dropped also undoes changes in a model that knows nothing, so the null is how often this happens in untrained twins.
Twins hardly ever predict the correct token, so for them we count every token whose prediction late layers change.

Reading the lens before layer i is dropping all layers from i on, so one sweep gives all of it. Predictions from
position 0 do not count. The experiment is our own, so there is no `protocol="paper"`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Float, Int

from mechicl.claims import Claim, Evidence
from mechicl.corpora import TokenCorpus
from mechicl.engines.comparison import Compared
from mechicl.engines.wavefront import lesion_sweep
from mechicl.errors import NumericalError
from mechicl.figures import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, SKY, VERMILION, error_bars
from mechicl.models import blockwise
from mechicl.patches.lesions import Drop, DropMany
from mechicl.results import Result
from mechicl.studies.drawing import Curve, Drawing, Level, Panel, where
from mechicl.studies.stages.lesion_claims import middle
from mechicl.studies.stages.lesions import scored_positions
from mechicl.studies.summary import TEXT_BAND, mean_with_interval, plateau_in_words
from mechicl.studies.twins import TWINS, AgainstTwins, against_twins, by_document, by_layer, given

_SOURCE = "Stages of Inference, section 5.4; a test of our own"
SPOILT = Claim(
    "right-then-wrong", "The lens predicts some tokens correctly after a layer that the model predicts wrongly.",
    _SOURCE, "tokens predicted correctly after some layer and wrongly at the end, minus the share expected by chance",
    "of tokens", TWINS, 0.02,
)  # fmt: skip
SPOIL_MORE = Claim(
    "late-layers-spoil", "Late layers spoil more predictions than they repair.", _SOURCE,
    "tokens that the lens predicts correctly before the last quarter of the layers and the model at the end does not, "
    "minus those of which the reverse is true", "of tokens", TWINS, 0.02,
)  # fmt: skip
RESTORED = Claim(
    "late-drops-restore", "Dropping a late layer restores predictions that late layers turn wrong.", _SOURCE,
    "share of the tokens that late layers turn wrong that is correct again with a late layer dropped, minus that with "
    "a middle layer dropped", "of these tokens",
    "the same share of all tokens whose prediction late layers change, in untrained models", 0.02,
)  # fmt: skip
_BITS = (0, 1, 2, 4, 8)
_ALL = "all tokens"
_GROUPS = (*(f"{low}-{high} bits" for low, high in pairwise(_BITS)), f"{_BITS[-1]} bits or more")
_COLOURS = {_ALL: INK, **dict(zip(_GROUPS, (BLUE, SKY, GREEN, ORANGE, VERMILION), strict=True))}
_EITHER = ("right, then wrong", "wrong, then right")
_FEW = 20
"""With fewer tokens that late layers turn wrong, the claim about restoring them is undecided."""


@dataclass(frozen=True)
class RightThenWrong(AgainstTwins):
    """Shares of each sequence's tokens, by the entropy of the clean prediction: a row per quantity and place.

    `arm` is lens (at the residual before `layer`), any (over all layers), or drop (with `layer` dropped). `value` is a
    share of `tokens` tokens; for `restored`, of those that late layers turn wrong; for `returned`, of all those whose
    prediction late layers change, the share that has the earlier prediction again.
    """

    name = "right-then-wrong"
    title = "Right, then wrong"
    shows = "Tokens that the lens predicts correctly in the middle and the model wrongly at the end, and the reverse."
    source = _SOURCE
    claim = "The last layers calibrate the prediction."
    claims = (SPOILT, SPOIL_MORE, RESTORED)
    reads = "text"
    no_paper_protocol = "the authors do not measure it"
    batch_size = 4
    sweeps = True
    shared_options = {"processing": "fold"}

    def passes(self, n_layers: int) -> float:
        return 1 + n_layers + 2 * len(late(n_layers))  # decoding takes as long as the blocks

    def read(self, model: Any, corpus: TokenCorpus, batch_size: int) -> pd.DataFrame:
        n_layers = blockwise(model, self.name).sizes.n_layers
        dropped = [*some_of_middle(n_layers), *late(n_layers)]
        points = [DropMany(range(point, n_layers)) for point in range(n_layers)]
        tables: list[pd.DataFrame] = []
        for indices, batch in corpus.batches(batch_size):
            compared = lesion_sweep(
                model, batch.tokens, [*points, *map(Drop, dropped)], lengths=batch.lengths, top_k=0
            )  # fmt: skip
            for row, sequence in enumerate(indices):
                one = _Sequence.of(compared, row, n_layers)
                if len(one.targets):
                    parts = [*one.shares(), *one.with_dropped(dropped, late(n_layers)[0])]
                    tables.append(pd.concat(parts).assign(sequence=sequence))
        columns = pd.DataFrame(columns=["arm", "layer", "entropy", "quantity", "value", "tokens", "sequence"])
        return pd.concat(tables, ignore_index=True) if tables else columns

    def evidence(self, claim: Claim, table: pd.DataFrame) -> Evidence:
        rows = given(table)
        n_layers = int(where(rows, arm="lens")["layer"].max())
        if n_layers < 4:
            return Evidence.nothing("This claim needs a model of four layers or more.")
        if claim is SPOILT:
            return against_twins(_beyond_chance, where(table, arm="any", entropy=_ALL), note=_told(rows))
        if claim is SPOIL_MORE:
            at = where(table, arm="lens", entropy=_ALL, layer=late(n_layers)[0])
            lost, gained = (_mean(where(given(at), quantity=name)) for name in _EITHER)
            note = f"From layer {late(n_layers)[0]} on, {lost:.1%} of tokens are spoilt and {gained:.1%} repaired."
            return against_twins(_lost_less_gained, at, note=note)
        restored = where(rows, arm="drop", quantity="restored", layer=late(n_layers)[0])
        if (n := int(restored["tokens"].sum())) < _FEW:
            return Evidence.nothing(f"Late layers spoil {n} predictions of this text; use more text.")
        drops = where(table, arm="drop", entropy=_ALL)
        if "returned" not in set(drops["quantity"]):
            return Evidence.nothing(
                "An earlier version saved the table without what the claim is compared with; run again."
            )
        return against_twins(lambda one: _late_less_middle(one, n_layers), drops, note=_told_drops(rows, n_layers))

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Shares of tokens: model, arm, metric, entropy, layer, mean, low, high, n (sequences), seeds."""
        rows = given(table).rename(columns={"quantity": "metric"})
        by = ["model", "arm", "metric", "entropy", "layer"]
        return mean_with_interval(rows[rows["tokens"] > 0], "value", by, weight="tokens")

    def drawing(self, result: Result) -> Drawing:
        summary = result.summary()
        any_layer = where(summary, arm="any", entropy=_ALL).set_index("metric")["mean"]
        lens = {"arm": "lens", "entropy": _ALL}
        panels = [
            Panel("lens is right", [
                Curve("accuracy", name, colour, where={"arm": "lens", "entropy": name})
                for name, colour in _COLOURS.items()
            ]),
            Panel("right here, wrong at the end", [
                Curve("right, then wrong", "right, then wrong", PURPLE, where=lens),
                Level(any_layer["right, then wrong"], PURPLE, "after any layer"),
                Level(any_layer["by chance"], GREY, "by chance"),
            ]),
            Panel("over all layers", _bars(where(summary, arm="any")),
                  {"title_text": "share of tokens"}, {"title_text": "clean entropy"}),
            Panel("right with a layer dropped", [
                Curve("accuracy", "all tokens", INK, where={"arm": "drop"}),
                Curve("restored", "those that late layers turn wrong", PURPLE, where={"arm": "drop"}),
            ], {"title_text": "layer dropped"}),
        ]  # fmt: skip
        return Drawing(
            summary, panels, x_title="residual before layer", y_title="share of tokens", note=TEXT_BAND,
            y_axis={"rangemode": "tozero"},
        )  # fmt: skip


def late(n_layers: int) -> range:
    """The last quarter of the layers without the last one, at least one layer."""
    return range(n_layers - max(2, n_layers // 4), n_layers - 1)


def some_of_middle(n_layers: int) -> list[int]:
    """The same number of layers of the middle half, evenly spaced; none of them is late."""
    layers = [layer for layer in middle(n_layers) if layer not in late(n_layers)]
    n = min(len(layers), len(late(n_layers)))
    return sorted({layers[int(place)] for place in np.linspace(0, len(layers) - 1, n).round()})


@dataclass(frozen=True)
class _Sequence:
    """Predictions at the tokens of one sequence that have a next token: of the clean model and with layers left out."""

    targets: Int[np.ndarray, " token"]
    final: Int[np.ndarray, " token"]
    on_the_way: Int[np.ndarray, "point token"]
    """Most probable token at each lens point, from the embedding to the residual before the last layer."""
    dropped: Int[np.ndarray, "layer token"]
    groups: dict[str, Bool[np.ndarray, " token"]]

    @classmethod
    def of(cls, compared: Compared, row: int, n_layers: int) -> _Sequence:
        chosen = scored_positions(compared, "corrected")[1][row].nonzero()[:, 0]
        entropy = compared.base_entropy[row, chosen]
        bad = ~torch.cat([entropy[None], compared.kl[:, row, chosen]]).isfinite().all(0)
        if bad.any():  # only tokens are counted from here on, and argmax of NaN is a token, too
            raise NumericalError(
                f"The prediction is nan or infinite at position {int(chosen[bad.nonzero()[0, 0]])}; try "
                "dtype='float32', or leave that text out."
            )
        bounds = zip(_GROUPS, pairwise((*_BITS, torch.inf)), strict=True)
        groups = {name: ((entropy >= low) & (entropy < high)).numpy() for name, (low, high) in bounds}
        tops = compared.top_token[:, row, chosen].numpy()
        return cls(
            compared.tokens[row, chosen + 1].numpy(), compared.base_top_token[row, chosen].numpy(), tops[:n_layers],
            tops[n_layers:], {_ALL: np.ones(len(chosen), dtype=bool), **groups},
        )  # fmt: skip

    @property
    def end(self) -> Bool[np.ndarray, " token"]:
        return np.asarray(self.final == self.targets)

    def spoilt(self) -> Bool[np.ndarray, " token"]:
        """Right after some layer, wrong at the end; the embedding does not count, because no layer has run."""
        return np.asarray((self.on_the_way[1:] == self.targets).any(0) & ~self.end)

    def by_chance(self) -> Float[np.ndarray, " token"]:
        """Per token that ends up wrong, the probability that another such token's target is among its predictions."""
        wrong, chance = ~self.end, np.zeros(len(self.targets))
        targets, final, tops = self.targets[wrong], self.final[wrong], self.on_the_way[1:, wrong]
        others = (final[:, None] != targets) & ~np.eye(len(targets), dtype=bool)
        hit = (tops[:, :, None] == targets).any(0) & others
        chance[wrong] = hit.sum(1) / np.maximum(others.sum(1), 1)
        return chance

    def shares(self) -> Iterator[pd.DataFrame]:
        """Quantities at each lens point, and over all points, by entropy."""
        right = np.concatenate([self.on_the_way == self.targets, self.end[None]])
        n_layers = len(self.on_the_way)
        at_points = {
            "accuracy": right, "right, then wrong": right[1:-1] & ~self.end,
            "wrong, then right": ~right[1:-1] & self.end,
        }  # fmt: skip
        over_all = {
            "right, then wrong": self.spoilt(), "by chance": self.by_chance(),
            "right at the end alone": self.end & ~right[1:-1].any(0),
        }  # fmt: skip
        for entropy, group in self.groups.items():
            if not (n := int(group.sum())):
                continue
            facts: dict[str, Any] = {"entropy": entropy, "tokens": n}
            for quantity, values in at_points.items():
                layers = np.arange(len(values)) + (quantity != "accuracy")
                rows = {"layer": layers, "quantity": quantity, "value": values[:, group].mean(1)}
                yield pd.DataFrame({"arm": "lens", **rows, **facts})
            for quantity, of_token in over_all.items():
                rows = {"layer": [n_layers], "quantity": quantity, "value": float(of_token[group].mean())}
                yield pd.DataFrame({"arm": "any", **rows, **facts})

    def with_dropped(self, layers: list[int], first_late: int) -> Iterator[pd.DataFrame]:
        """With each layer dropped, accuracy on all tokens, and whether what late layers change is undone."""
        before = self.on_the_way[first_late]
        for quantity, group, sought in (
            ("accuracy", self.groups[_ALL], self.targets),
            ("restored", (before == self.targets) & ~self.end, self.targets),
            ("returned", before != self.final, before),
        ):
            if group.any():
                facts: dict[str, Any] = {"entropy": _ALL, "tokens": int(group.sum()), "quantity": quantity}
                shares = (self.dropped == sought)[:, group].mean(1)
                yield pd.DataFrame({"arm": "drop", "layer": layers, "value": shares, **facts})


def _beyond_chance(rows: pd.DataFrame) -> pd.Series[float]:
    shares = by_layer(rows, "value", "quantity")
    return shares["right, then wrong"] - shares["by chance"]


def _lost_less_gained(rows: pd.DataFrame) -> pd.Series[float]:
    shares = by_layer(rows, "value", "quantity")
    return shares[_EITHER[0]] - shares[_EITHER[1]]


def _late_less_middle(rows: pd.DataFrame, n_layers: int) -> pd.Series[float]:
    untrained = "weights" in rows  # `given` drops the column
    restored = by_layer(where(rows, quantity="returned" if untrained else "restored"), "value")
    groups = (late(n_layers), some_of_middle(n_layers))
    of_late, of_middle = (restored.reindex(columns=list(layers)).mean(axis=1) for layers in groups)
    return (of_late - of_middle).dropna()


def _mean(rows: pd.DataFrame) -> float:
    return float(np.average(rows["value"], weights=rows["tokens"]))


def _told(rows: pd.DataFrame) -> str:
    """The shares over all layers, and the best lens point compared with the end."""
    of_any = {str(name): _mean(one) for name, one in where(rows, arm="any", entropy=_ALL).groupby("quantity")}
    accuracy = where(rows, arm="lens", entropy=_ALL, quantity="accuracy")
    curve = accuracy.groupby("layer")[["value", "tokens"]].apply(_mean)
    on_the_way = by_document(by_layer(accuracy, "value")).to_numpy()[:, :-1]
    best = plateau_in_words(on_the_way, range(on_the_way.shape[1]))
    one_layer = _mean(where(rows, arm="lens", entropy=_ALL, quantity="right, then wrong"))
    return (
        f"{of_any['right, then wrong']:.1%} of tokens are right after some layer and wrong at the end "
        f"({of_any['by chance']:.1%} by chance; {one_layer:.1%} after one layer chosen at random); "
        f"{of_any['right at the end alone']:.1%} are right at the end alone. The model is right on {curve.iloc[-1]:.1%}"
        f", the lens at most on {curve.iloc[:-1].max():.1%} ({best})."
    )


def _told_drops(rows: pd.DataFrame, n_layers: int) -> str:
    """Effect of dropping late and middle layers on the tokens that late layers turn wrong, and on all."""
    drops = where(rows, arm="drop")
    parts = []
    for name, layers in (("late", late(n_layers)), ("middle", some_of_middle(n_layers))):
        chosen = drops[drops["layer"].isin(list(layers))]
        restored, accuracy = (_mean(where(chosen, quantity=name)) for name in ("restored", "accuracy"))
        returned = _mean(where(chosen, quantity="returned"))
        parts.append(
            f"Dropping a {name} layer restores on average {restored:.1%} of the tokens that late layers turn wrong and "
            f"{returned:.1%} of all predictions that they change; accuracy over all tokens is then {accuracy:.1%}"
        )
    clean = _mean(where(rows, arm="lens", entropy=_ALL, quantity="accuracy", layer=n_layers))
    return f"{'. '.join(parts)} (clean {clean:.1%})."


def _bars(rows: pd.DataFrame) -> list[go.Bar]:
    """Shares over all layers, for each group of entropy."""
    bars = []
    for metric, colour in (("right at the end alone", GREEN), ("by chance", GREY), ("right, then wrong", PURPLE)):
        of_metric = (
            where(rows, metric=metric).set_index("entropy").reindex([*_GROUPS[::-1], _ALL]).dropna(subset="mean")
        )
        bars.append(go.Bar(
            y=list(of_metric.index), x=of_metric["mean"], orientation="h", marker_color=colour, name=metric,
            error_x=error_bars(of_metric), hovertemplate="%{y}: %{x:.4f}",
            showlegend=metric != "right, then wrong",  # its curve has an entry already
        ))  # fmt: skip
    return bars
