"""Stages by intervention: what prediction and suppression neurons, attention and MLPs do, by depth (section 5.3).

*Stages of Inference* locates its stages by observation: where prediction neurons are, where the lens's KL falls. Here
we ablate parts of one band of layers at a time, and compare the prediction with the clean model's (KL, entropy,
accuracy on the next token):

- all its *prediction* neurons, or all its *suppression* neurons. Controls are the same number of other neurons of the
  same layers, each matched in what it writes on this text beyond its mean (standard deviation of its activation times
  the norm of w_out), drawn several times. Neurons of a kind may be many and active; only effects beyond these controls
  are specific to the kind.
- all its *attention*, or all its *MLPs*.

Ablated parts are set to zero, or to their mean over the text, which removes only what depends on the context. Position
0 is not ablated, because many models make it the attention sink that all later tokens need.

If suppression neurons sharpen predictions in the last stage, ablating them raises entropy. Kinds are those of
`neurons` (kurtosis > 10, on folded weights). There is no `protocol="paper"`: the authors ablate none.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from mechicl.claims import Claim, Evidence
from mechicl.corpora import TokenCorpus
from mechicl.declared import Switch
from mechicl.figures import BLUE, GREEN, ORANGE, VERMILION
from mechicl.hooks import Patch
from mechicl.mlp_neurons import classify, vocabulary_moments
from mechicl.models import Blockwise, blockwise
from mechicl.patches.ablate_parts import AblateParts, part_means
from mechicl.patches.fix_neurons import FixNeurons, neuron_means
from mechicl.patches.means import site_means
from mechicl.results import Result
from mechicl.studies.drawing import Curve, Drawing, Level, Panel, where
from mechicl.studies.stages.lesions import Lesions, with_differences
from mechicl.studies.stages.sequences import weighted_summary
from mechicl.studies.study import Condition, Study
from mechicl.studies.summary import TEXT_BAND
from mechicl.studies.twins import against_draws, by_layer

_SOURCE = "Stages of Inference, section 5.3 and 5.4; a test of our own"
_NULL = "matched control neurons of the same layers"
PREDICT = Claim(
    "prediction-neurons-decide", "Prediction neurons decide the prediction more than other neurons do.", _SOURCE,
    "KL to the clean model after mean-ablating the prediction neurons of the band that has most of them", "nats", _NULL,
    0.01,
)  # fmt: skip
SHARPEN = Claim(
    "suppression-sharpens", "Suppression neurons of the last layers sharpen the prediction.", _SOURCE,
    "rise of entropy after mean-ablating the suppression neurons of the last band", "bits", _NULL, 0.02,
)  # fmt: skip
_KINDS = {"prediction": BLUE, "suppression": VERMILION}
_PARTS = {"attn": ("attention", GREEN), "mlp": ("MLPs", ORANGE)}
_HOW = {"mean": "solid", "zero": "dash"}
_NEAREST = 10
"""Number of neurons that write nearly as much, from which a control is drawn."""
_ALIKE = 0.8
"""Controls that write less than this share of what the neurons do are none."""
_FEW = 5
"""Below this number of neurons in a band, a kind is undecided."""
_LEAST = 1e-4
"""Smallest KL drawn, in nats, because a log axis has no 0."""
_WEIGHTS = {
    "kl": "positions", "agreement": "positions", "entropy_difference": "positions", "accuracy_difference": "targets",
    "loss_difference": "targets",
}  # fmt: skip


@dataclass(frozen=True)
class CausalStages(Study):
    """Predictions with a part of a band of layers ablated: a row per ablation and sequence.

    `kind` is prediction or suppression (neurons), attention or MLPs; `draw` is -1 for the part itself and numbers its
    controls; `how` is zero or mean; `neurons` counts ablated neurons, and `written` sums what they write beyond their
    means (L2 norms over d_model). KL and losses in nats, entropies in bits.
    """

    bands: Annotated[int, Switch("Number of bands of depth, each with the same number of layers.", min=2)] = 4
    draws: Annotated[int, Switch("Random draws of matched control neurons.", min=2)] = 4
    draw_seed: Annotated[int, Switch("Seed of the draws.", min=0)] = 0

    name = "causal-stages"
    title = "Stages by intervention"
    shows = "Ablation of prediction and suppression neurons, attention and MLPs, by band of depth."
    source = _SOURCE
    claim = (
        "Prediction neurons make the prediction in the second half of the model; suppression neurons of the last "
        "layers sharpen it."
    )
    claims = (PREDICT, SHARPEN)
    reads = "text"
    no_paper_protocol = "the authors ablate no neurons"
    batch_size = 4
    sweeps = True
    shared_options = {"processing": "fold"}

    @property
    def sequences_a_cell(self) -> int:
        return sys.maxsize  # means, and what controls are matched on, are those of the whole text

    def passes(self, n_layers: int) -> float:
        return 3 + min(self.bands, n_layers) * len(_HOW) * (len(_KINDS) * (1 + self.draws) + len(_PARTS))

    def measure(self, model: Any, corpus: TokenCorpus, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        net = blockwise(model, self.name)
        chosen = [*self._neurons(net, corpus, batch_size), *self._parts(net, corpus, batch_size)]
        facts = pd.DataFrame([facts for facts, _ in chosen])
        return Lesions().swept(model, corpus, [patch for _, patch in chosen], facts, batch_size)

    def layers(self, n_layers: int) -> list[range]:
        """The bands; if the layers do not divide evenly, the first ones have one more."""
        parts = np.array_split(np.arange(n_layers), min(self.bands, n_layers))
        return [range(int(part[0]), int(part[-1]) + 1) for part in parts]

    def _neurons(self, net: Blockwise, corpus: TokenCorpus, size: int) -> Iterator[tuple[dict[str, Any], Patch]]:
        """Neurons of each kind and band, and their controls."""
        n_layers = net.sizes.n_layers
        moments = vocabulary_moments(net.W_U, (net.W_out(layer) for layer in range(n_layers)), top=1)
        kinds = classify(moments)
        square = site_means(net.raw, corpus, "mlp.hook_post", "neuron", square=True, batch_size=size)
        means = neuron_means(net.raw, corpus, batch_size=size)
        written = ((square - means**2).clamp(min=0).sqrt() * moments.norm).numpy()
        of_either = (kinds.prediction | kinds.suppression).numpy()
        for number, kind in enumerate(_KINDS):
            mask = getattr(kinds, kind).numpy()
            for band, layers in enumerate(self.layers(n_layers)):
                places = [(layer, int(i)) for layer in layers for i in np.flatnonzero(mask[layer])]
                if not places:
                    continue
                sets = {-1: places}
                for draw in range(self.draws):
                    generator = np.random.default_rng([self.draw_seed, number, band, draw])
                    sets[draw] = controls(places, written, ~of_either, generator)
                for draw, neurons in sets.items():
                    amount = float(sum(written[place] for place in neurons))
                    facts = _facts(kind, band, layers) | {"draw": draw, "neurons": len(neurons), "written": amount}
                    yield facts | {"how": "zero"}, FixNeurons(tuple(neurons), positions="rest")
                    yield facts | {"how": "mean"}, FixNeurons(tuple(neurons), means=means, positions="rest")

    def _parts(self, net: Blockwise, corpus: TokenCorpus, size: int) -> Iterator[tuple[dict[str, Any], Patch]]:
        """All attention, and all MLPs, in each band."""
        for part, (name, _) in _PARTS.items():
            if part == "mlp" and not net.sizes.d_mlp:
                continue
            means = part_means(net.raw, corpus, part, batch_size=size)  # type: ignore[arg-type]
            for band, layers in enumerate(self.layers(net.sizes.n_layers)):
                facts = _facts(name, band, layers) | {"draw": -1, "neurons": 0, "written": 0.0}
                for how, of in (("zero", None), ("mean", means)):
                    patch = AblateParts(part, tuple(layers), of, positions="rest")  # type: ignore[arg-type]
                    yield facts | {"how": how}, patch

    def evidence(self, claim: Claim, table: pd.DataFrame) -> Evidence:
        kind = "prediction" if claim is PREDICT else "suppression"
        rows = where(with_differences(table), kind=kind, how="mean")
        counts = where(rows, draw=-1).groupby("band")["neurons"].first()
        last = int(table["band"].max())
        fullest = int(counts.index.to_numpy()[counts.to_numpy().argmax()]) if len(counts) else last
        band = fullest if claim is PREDICT else last
        if (n := int(counts.get(band, 0))) < _FEW:
            return Evidence.nothing(f"Number of {kind} neurons there: {n}; at least {_FEW} are needed.")
        rows = where(rows, band=band)
        quantity = "kl" if claim is PREDICT else "entropy_difference"
        curves = by_layer(rows, quantity, "draw")
        own, drawn = curves[-1], curves.drop(columns=-1)
        zero = by_layer(where(with_differences(table), kind=kind, how="zero", band=band), quantity, "draw").mean()
        layers = _span(int(rows["layer"].iloc[0]), int(rows["last"].iloc[0]))
        note = (
            f"{n} {kind} neurons of {layers} at their means: {own.mean():.3g} {claim.unit}, controls "
            f"{float(drawn.to_numpy().mean()):.3g}; at zero {float(zero[-1]):.3g} and {zero.drop(-1).mean():.3g}."
        )
        alike = _written(rows)
        if alike is not None and alike < _ALIKE:
            return Evidence.nothing(
                f"Control neurons write only {alike:.0%} of what these neurons write, too little for a comparison.",
                note,
            )
        return against_draws(curves, note=note)

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Means: model, kind, of (itself or control), how, neurons, metric, band, mean, low, high, n, seeds.

        KL and loss in nats, entropy in bits, agreement and accuracy as shares; differences are ablated minus clean.
        """
        measured = with_differences(table)
        measured = measured.assign(
            accuracy_difference=measured["correct"] - measured["base_correct"],
            of=np.where(measured["draw"] < 0, "itself", "control"),
        )
        by = ["model", "kind", "of", "how", "neurons"]
        rows = measured.groupby([*by, "band", "layer", "last", "sequence"], as_index=False).mean(numeric_only=True)
        return weighted_summary(rows, _WEIGHTS, by, "band")

    def drawing(self, result: Result) -> Drawing:
        bands = result.table.drop_duplicates("band").sort_values("band")
        labels = [_span(*pair) for pair in bands[["layer", "last"]].to_numpy().tolist()]
        axis = {"tickmode": "array", "tickvals": bands["band"], "ticktext": labels}
        summary = result.summary()
        of_kl, bounds = summary["metric"] == "kl", ["mean", "low", "high"]
        summary.loc[of_kl, bounds] = summary.loc[of_kl, bounds].clip(lower=_LEAST)
        titles = {
            "kl": "KL to the clean model (nats)", "entropy_difference": "entropy, ablated − clean (bits)",
            "accuracy_difference": "accuracy, ablated − clean",
        }  # fmt: skip
        of_neurons = [
            (f"{kind} neurons", colour, dash, {"kind": kind, "of": "itself", "how": how})
            for kind, colour in _KINDS.items()
            for how, dash in _HOW.items()
        ]
        of_controls = [
            (f"controls of {kind} neurons", colour, "dot", {"kind": kind, "of": "control", "how": "mean"})
            for kind, colour in _KINDS.items()
        ]
        of_parts = [
            (name, colour, dash, {"kind": name, "how": how})
            for name, colour in _PARTS.values()
            for how, dash in _HOW.items()
        ]
        panels = []
        there = set(summary["kind"])
        for styles in ([*of_neurons, *of_controls], of_parts):
            if not there & {at["kind"] for *_, at in styles}:
                continue
            for metric, title in titles.items():
                curves = [Curve(metric, _named(name, at), colour, dash, at) for name, colour, dash, at in styles]
                y_axis = {"type": "log", "title_text": f"log; least {_LEAST:g}"} if metric == "kl" else {}
                panels.append(Panel(title, [*curves, *([] if metric == "kl" else [Level(0, "grey")])], axis, y_axis))
        return Drawing(
            summary, panels, x="band", x_title="ablated", widths=(1, 1, 1), height=260,
            note=f"ablated everywhere but at position 0, to the mean or to zero; {TEXT_BAND}",
        )  # fmt: skip


def _written(rows: pd.DataFrame) -> float | None:
    """What controls write on this text, as a share of what the neurons do; earlier versions did not save it."""
    if "written" not in rows:
        return None
    of_draw = rows.groupby("draw")["written"].first()
    return float(of_draw.drop(-1).mean() / of_draw[-1])


def controls(
    places: list[tuple[int, int]], written: Float[np.ndarray, "layer neuron"], free: Bool[np.ndarray, "layer neuron"],
    generator: np.random.Generator,
) -> list[tuple[int, int]]:  # fmt: skip
    """For each neuron another of its layer, drawn from the ten free ones that write nearly as much; none twice.

    A layer with too few free neurons gives all that it has.
    """
    free, drawn = free.copy(), list[tuple[int, int]]()
    for place in generator.permutation(len(places)):
        layer, neuron = places[place]
        left = np.flatnonzero(free[layer])
        if not len(left):
            continue
        nearest = left[np.argsort(np.abs(written[layer, left] - written[layer, neuron]), kind="stable")[:_NEAREST]]
        other = int(generator.choice(nearest))
        free[layer, other] = False
        drawn.append((layer, other))
    return sorted(drawn)


def _facts(kind: str, band: int, layers: range) -> dict[str, Any]:
    return {"kind": kind, "band": band, "layer": layers[0], "last": layers[-1]}


def _span(first: int, last: int) -> str:
    return f"layer {first}" if first == last else f"layers {first}-{last}"


def _named(name: str, at: dict[str, str]) -> str:
    return f"{name}, {at['how']}"
