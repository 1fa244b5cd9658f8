"""The atlas: every signature of the four stages of one model on a common relative depth (Fig. 1, Table 1).

The paper's first figure overlays four curves, each scaled to its own range: what dropping a layer costs (KL), attention
to the previous five tokens, and the densities of prediction and suppression neurons. We add the logit lens (KL to the
final prediction, entropy), the MLPs' norm and block influence. One pass over the text gives attention, norms and block
influence; one sweep runs all ablations and the lens, which is an ablation too: reading the residual before layer i as
if it were the last drops all layers from i on. Neurons are read from weights.

Position 0 has two curves of its own, where a layer makes an attention sink there: its residual's norm over the median
of all others, and the attention that it receives.

Depth runs from 0 (first layer) to 1 (last); lens points lie at i / L. Boundaries between stages are a proposal of
ours, with its rules, in `boundaries.py`. There is no `protocol="paper"`. `in_context_atlas.py` adds the curves of
in-context learning.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch

from mechicl.claims import Claim, Evidence, Verdicts, decide
from mechicl.corpora import TokenCorpus
from mechicl.doors import door
from mechicl.engines.wavefront import lesion_sweep
from mechicl.errors import InputError
from mechicl.figures import GREY, INK, SKY, STAGE_COLOURS
from mechicl.hooks import run
from mechicl.metrics.resampling import SetInterval
from mechicl.mlp_neurons import classify, vocabulary_moments
from mechicl.models import blockwise, hooked
from mechicl.patches.lesions import Drop, DropMany
from mechicl.probes import LocalAttention, Norms
from mechicl.results import Result
from mechicl.studies.drawing import Drawing, Panel, where
from mechicl.studies.parts import Material, Part
from mechicl.studies.stages.boundaries import FEW_NEURONS, stage_boundaries
from mechicl.studies.stages.in_context_atlas import IN_CONTEXT, gathered_and_read
from mechicl.studies.stages.lesion_claims import middle
from mechicl.studies.stages.lesions import scored_positions
from mechicl.studies.stages.norms import SINK
from mechicl.studies.stages.sequences import sequence_means, weighted_summary
from mechicl.studies.stages.twins import by_layer
from mechicl.studies.study import Condition, Study
from mechicl.studies.summary import TEXT_BAND

SIGNATURES = {
    "drop KL": (INK, "solid"),
    "local attention": (STAGE_COLOURS["detokenization"], "solid"),
    "block influence": (STAGE_COLOURS["feature engineering"], "solid"),
    "lens KL": (STAGE_COLOURS["prediction ensembling"], "solid"),
    "prediction neurons": (STAGE_COLOURS["prediction ensembling"], "dot"),
    "suppression neurons": (STAGE_COLOURS["calibration"], "dot"),
    "MLP norm": (STAGE_COLOURS["calibration"], "solid"),
    "lens entropy": (GREY, "solid"),
    "norm at position 0": (SKY, "dot"),
    "attention to position 0": (SKY, "solid"),
}
"""Each in the colour of the stage that it marks."""
_WINDOW = 5
_RESAMPLES = 500
_FEW_LAYERS = 20
"""With fewer, one shift in 20 is the original itself."""
DENSER = Claim(
    "denser-as-lens-falls", "Prediction neurons are densest where the lens's KL to the final prediction is low.",
    "Stages of Inference, section 5.3, Fig. 8", "Spearman correlation of density and −KL over layers", "correlation",
    "the densities shifted along the layers", 0.3,
)  # fmt: skip
DEEPER = Claim(
    "deeper-robust", "Deeper models are more robust to dropping a middle layer.",
    "Stages of Inference, section 4.1 and abstract",
    "Spearman correlation, over models, of their layers and −KL with a middle layer dropped", "correlation",
    "no correlation", 0.3,
)  # fmt: skip
_FEW_MODELS = 5


@dataclass(frozen=True)
class Atlas(Study):
    """All signatures of the stages: a row per signature, layer and sequence.

    KL in nats, entropies in bits, attention and densities as shares. `result.study.boundaries(result.table)` proposes
    stages.
    """

    name = "stages-atlas"
    title = "The stages of inference"
    shows = "All signatures of the four stages on relative depth, with proposed boundaries."
    source = "Stages of Inference, Fig. 1 and Table 1"
    claim = (
        "Four stages, each with its signature: detokenization (local attention), feature engineering (little "
        "progress), prediction ensembling (prediction neurons, falling lens KL), calibration (suppression neurons, "
        "large MLP norms)."
    )
    claims = (DENSER, DEEPER)
    reads = "text"
    no_paper_protocol = "it puts curves together that the studies of each have in the authors' protocol"
    batch_size = 4
    shared_options = {"processing": "fold"}

    def parts(self, material: Material) -> tuple[list[Part], dict[str, Any]]:
        parts, origin = super().parts(material)
        return [*parts, Part(None)], origin  # the last is measured on weights alone

    def passes(self, n_layers: int) -> float:
        return 2 * n_layers

    def measure(self, model: Any, corpus: TokenCorpus | None, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        if corpus is None:
            return _neurons(model)
        probes = attention, norms = LocalAttention((_WINDOW,)), Norms()
        readings = run(model, corpus, probes, batch_size=batch_size)
        local, sizes = readings[attention].mean("head").frame(), readings[norms].frame()
        parts = [
            _signature("local attention", local, local[f"mass_{_WINDOW}"], local[f"queries_{_WINDOW}"]),
            _signature("MLP norm", sizes, sizes["mlp_norm"], sizes["positions"]),
            _signature("block influence", sizes, 1 - sizes["cosine"], sizes["positions"]),
            _signature("norm at position 0", sizes, sizes["resid_post_at_0"] / sizes["resid_post_median"], 1.0),
            _signature("attention to position 0", local, local["sink"], local["queries"]),
            _drops_and_lens(model, corpus, batch_size),
        ]
        return pd.concat(parts, ignore_index=True)

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Means per layer: model, metric (signature), layer, mean, low, high, n, seeds, depth.

        KL in nats, entropy in bits, attention and densities as shares. Neurons have no interval.
        """
        parts = []
        for signature, rows in table.groupby("signature", sort=False):
            if signature in IN_CONTEXT:
                part = rows.rename(columns={"value": "mean", "signature": "metric"})
                part = part[["model", "metric", "layer", "mean", "low", "high"]].assign(n=1, seeds=1)
            else:
                named = rows.rename(columns={"value": str(signature)})
                part = weighted_summary(named, {str(signature): "weight"})
            last = part.groupby("model")["layer"].transform("max").clip(lower=1)
            parts.append(part.assign(depth=part["layer"] / last))
        return pd.concat(parts, ignore_index=True)

    def verdicts(self, result: Result) -> Verdicts:
        """Of each model, and of all of them together."""
        facts = {"study": self.name, "protocol": self.protocol}
        own = [one for one in super().verdicts(result) if one.claim is not DEEPER]
        return Verdicts([*own, decide(DEEPER, _deeper(result.table), facts)])

    def evidence(self, claim: Claim, table: pd.DataFrame) -> Evidence:
        if claim is DEEPER:
            return _deeper(table)
        neurons = where(table, signature="prediction neurons").sort_values("layer")["value"].to_numpy(float)
        lens = where(table, signature="lens KL")
        if lens.empty or neurons.sum() * where(table, signature="prediction neurons")["weight"].max() < FEW_NEURONS:
            return Evidence.nothing(f"The model has fewer than {FEW_NEURONS} prediction neurons.")
        if len(neurons) < _FEW_LAYERS:
            return Evidence.nothing(
                f"The model has too few layers, {len(neurons)}, to tell a common trend from a coincidence."
            )
        kl = -by_layer(lens, "value").loc[:, 1:]  # point i + 1 is the residual after layer i
        return _correlated(neurons, kl)

    def boundaries(self, table: pd.DataFrame) -> pd.DataFrame:
        """The proposed first layer of each later stage, for every model: model, stage, layer, low, high, by."""
        return pd.concat(
            [stage_boundaries(rows).assign(model=model) for model, rows in table.groupby("model", sort=False)],
            ignore_index=True,
        )

    def drawing(self, result: Result) -> Drawing:
        summary = result.summary()
        kinds = {"": SIGNATURES} | ({", in context": IN_CONTEXT} if set(IN_CONTEXT) & set(summary["metric"]) else {})
        panels = []
        for model, rows in summary.groupby("model", sort=False):
            rows = rows[~rows["metric"].isin(_too_few(result.table, str(model)))]
            for suffix, styles in kinds.items():
                curves = [_scaled(where(rows, metric=name), name, *style) for name, style in styles.items()]
                panels.append(Panel(f"{model}{suffix}", [curve for curve in curves if len(curve.x)]))
        return Drawing(
            summary, panels, x="depth", x_title="depth (0 first layer, 1 last)", y_title="scaled to 0..1", common=True,
            y_axis={"range": [-0.02, 1.12]},
            note=f"each curve scaled to its own range; dotted: proposed boundaries, shaded: their {TEXT_BAND[6:]}",
        )  # fmt: skip

    def figure(self, result: Result) -> go.Figure:
        figure, boundaries = super().figure(result), self.boundaries(result.table)
        n_layers = where(result.table, signature="drop KL").groupby("model")["layer"].max() + 1
        for column, title in enumerate(figure.layout.meta["panels"], start=1):
            model = title.removesuffix(", in context")
            for row in where(boundaries, model=model).to_dict("records"):
                if row["layer"] < n_layers[model]:
                    _add_boundary(figure, row, n_layers[model] - 1, column)
        return figure

    def finding(self, result: Result) -> str:
        n_layers = where(result.table, signature="drop KL").groupby("model")["layer"].max() + 1
        summary, parts = result.summary(), []
        for model, rows in self.boundaries(result.table).groupby("model", sort=False):
            stages = [_boundary_in_words(row, n_layers[model]) for row in rows.to_dict("records")]
            parts.append(f"{model}: {'; '.join(stages)}")
            parts += gathered_and_read(where(summary, model=model), rows.set_index("stage")["layer"].to_dict())
            parts += _sink_in_words(where(summary, model=model))
        return " ".join(["Proposed boundaries. " + ". ".join(parts) + ".", super().finding(result)])


def _sink_in_words(summary: pd.DataFrame) -> list[str]:
    """The layer that makes position 0 an attention sink; nothing without one."""
    norm, attention = (
        where(summary, metric=name).set_index("layer")["mean"]
        for name in ("norm at position 0", "attention to position 0")
    )
    if norm.empty or norm.max() < SINK:
        return []
    layer = int((norm / norm.shift(fill_value=1.0)).to_numpy().argmax())
    after = attention[attention.index > layer]
    return [
        f"Layer {layer} makes position 0 an attention sink: the residual's norm there is {norm[layer]:.3g} times the "
        f"median of all others, and it receives {after.mean():.0%} of attention in later layers "
        f"({attention[attention.index <= layer].mean():.0%} until then)"
    ]


def _correlated(density: np.ndarray, kl: pd.DataFrame) -> Evidence:
    """Rank correlation of a curve of layers with the mean of curves of sequences.

    Neighbouring layers are alike, so permuted layers would be too easy a null: it is all shifts along the layers,
    around their end. The interval resamples documents.
    """
    from scipy.stats import rankdata

    def correlation(curves: np.ndarray, of: np.ndarray) -> np.ndarray:
        ranks = rankdata(curves, axis=-1), rankdata(of, axis=-1)
        first, second = (rank - rank.mean(-1, keepdims=True) for rank in ranks)
        norms = np.sqrt((first**2).sum(-1) * (second**2).sum(-1))
        return np.asarray((first * second).sum(-1) / np.maximum(norms, 1e-12))

    means = kl.groupby(level=0).mean().to_numpy()
    n, found = len(means), float(correlation(means.mean(0), density))
    low = high = np.nan
    if n > 1:
        drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=_RESAMPLES) / n
        low, high = np.quantile(correlation(drawn @ means, density), [0.025, 0.975])
    shifted = correlation(means.mean(0), np.stack([np.roll(density, shift) for shift in range(len(density))]))
    interval = SetInterval(found, float(low), float(high), n, len(kl))
    p = float((shifted >= found - 1e-12).mean())
    return Evidence(np.array([found]), 0.0, np.zeros(1), "documents", interval=interval, p=p)


def _deeper(table: pd.DataFrame) -> Evidence:
    """Models are what is sampled; the interval of their rank correlation is Fisher's."""
    drops = where(table, signature="drop KL")
    n_layers = drops.groupby("model")["layer"].max() + 1
    if len(n_layers) < _FEW_MODELS:
        return Evidence.nothing(f"It compares models; give {_FEW_MODELS} or more of different depths.")
    of_middle = [rows[rows["layer"].isin(middle(int(n_layers[model])))] for model, rows in drops.groupby("model")]
    kl = np.array([np.average(rows["value"], weights=rows["weight"]) for rows in of_middle])
    found = float(pd.Series(n_layers.to_numpy()).corr(pd.Series(-kl), method="spearman"))
    half = 1.96 / np.sqrt(len(kl) - 3)
    low, high = np.tanh(np.arctanh(np.clip(found, -0.999, 0.999)) + np.array([-half, half]))
    interval = SetInterval(found, float(low), float(high), len(kl), len(kl))
    return Evidence(np.array([found]), 0.0, np.zeros(1), "models", interval=interval)


def _too_few(table: pd.DataFrame, model: str) -> list[str]:
    """Kinds of neurons of which a model has hardly any: scaled to its range, one neuron fills the panel."""
    neurons = table[(table["model"] == model) & table["signature"].str.endswith(" neurons")]
    counts = (neurons["value"] * neurons["weight"]).groupby(neurons["signature"]).sum()
    return [str(kind) for kind in counts[counts < FEW_NEURONS].index]


def _boundary_in_words(row: Mapping[Hashable, Any], n_layers: int) -> str:
    if row["layer"] >= n_layers:
        return f"no {row['stage']}"
    text = f"{row['stage']} from layer {row['layer']} [{row['low']:.0f}, {row['high']:.0f}] (by {row['by']})"
    return text + (f", not separable from {row['overlaps']}, which reaches beyond" if row["overlaps"] else "")


def _signature(name: str, index: pd.DataFrame, value: Any, weight: Any) -> pd.DataFrame:
    return index[["sequence", "layer"]].assign(value=value, weight=weight, signature=name)


def _drops_and_lens(model: Any, corpus: TokenCorpus, batch_size: int) -> pd.DataFrame:
    n_layers = hooked(model).sizes.n_layers
    points = [DropMany(range(i, n_layers)) for i in range(n_layers)]  # the last point is the clean model
    ablations = [*(Drop(i) for i in range(n_layers)), *points]
    tables = []
    for indices, batch in corpus.batches(batch_size):
        compared = lesion_sweep(model, batch.tokens, ablations, lengths=batch.lengths, top_k=0)
        positions = scored_positions(compared, "corrected")[0]
        last = compared.base_entropy[None]
        for signature, values in (
            ("drop KL", compared.kl[:n_layers]),
            ("lens KL", torch.cat([compared.kl[n_layers:], torch.zeros_like(last)])),
            ("lens entropy", torch.cat([compared.entropy[n_layers:], last])),
        ):
            facts = pd.DataFrame({"signature": signature, "layer": range(len(values))})
            tables.append(sequence_means(facts, indices, {"weight": (positions, {"value": values})}))
    return pd.concat(tables, ignore_index=True)


def _neurons(model: Any) -> pd.DataFrame:
    net = blockwise(model, Atlas.name)
    layers = range(net.sizes.n_layers)
    kinds = classify(vocabulary_moments(net.W_U, (net.W_out(layer) for layer in layers), top=1))
    frame = kinds.frame()
    rows = frame[frame["kind"].isin(["prediction", "suppression"])]
    return pd.DataFrame(
        {"sequence": -1, "layer": rows["layer"], "value": rows["density"], "weight": float(net.sizes.d_mlp),
         "signature": rows["kind"] + " neurons"}
    )  # fmt: skip


def _scaled(rows: pd.DataFrame, name: str, colour: str, dash: str) -> go.Scatter:
    """A curve over its own range; the values themselves on hover."""
    low, spread = rows["mean"].min(), rows["mean"].max() - rows["mean"].min()
    return go.Scatter(
        x=rows["depth"], y=(rows["mean"] - low) / (spread if spread > 0 else 1.0), name=name, mode="lines+markers",
        line={"color": colour, "width": 2.2, "dash": dash}, marker={"size": 5},
        customdata=rows[["mean", "low", "high"]],
        hovertemplate="%{customdata[0]:.4f}  [%{customdata[1]:.4f}, %{customdata[2]:.4f}]",
    )  # fmt: skip


def _add_boundary(figure: go.Figure, row: Mapping[Hashable, Any], last: int, column: int) -> None:
    """A stage begins before its first layer: the line stands half a layer to the left."""
    place = [(layer - 0.5) / max(last, 1) for layer in (row["layer"], row["low"], row["high"])]
    if place[1] < place[2]:
        figure.add_vrect(
            place[1], place[2], fillcolor=STAGE_COLOURS[row["stage"]], opacity=0.15, line_width=0, row=1, col=column
        )  # fmt: skip
    text = row["stage"] + (" (overlaps)" if row["overlaps"] else "")
    end = "bottom" if row["stage"] == "calibration" else "top"  # it may begin where prediction ensembling does
    figure.add_vline(
        place[0], line={"dash": "dot", "color": STAGE_COLOURS[row["stage"]]}, row=1, col=column,
        annotation={"text": text, "textangle": -90, "yanchor": end, "font": {"size": 11}},
        annotation_position=f"{end} right",
    )  # fmt: skip


@door
def compare_atlases(results: Sequence[Result]) -> Result:
    """Atlases of several models as one result, with a panel each in one figure."""
    if not results or not all(isinstance(result.study, Atlas) for result in results):
        raise InputError("Give the results of stages_atlas, one for each model.")
    table = pd.concat([result.table for result in results], ignore_index=True)
    return Result(results[0].study, table, {**results[0].provenance, "model": [r.provenance["model"] for r in results]})
