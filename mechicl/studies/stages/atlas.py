"""The atlas: every signature of the four stages of one model on a common relative depth (Fig. 1, Table 1).

The paper's first figure overlays four curves, each scaled to its own range: what dropping a layer costs (KL), attention
to the previous five tokens, and the densities of prediction and suppression neurons. We add the logit lens (KL to the
final prediction, entropy), the MLPs' norm and block influence. One pass over the text gives attention, norms and block
influence; one sweep runs all ablations and the lens, which is an ablation too: reading the residual before layer i as
if it were the last drops all layers from i on. Neurons are read from weights.

Depth runs from 0 (first layer) to 1 (last); lens points lie at i / L. Boundaries between stages are a proposal of
ours, with its rules, in `boundaries.py`. Both protocols use the corrected measures. `in_context_atlas.py` adds the
curves of in-context learning.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import torch

from mechicl.corpora import TokenCorpus
from mechicl.doors import door
from mechicl.engines.wavefront import lesion_sweep
from mechicl.errors import InputError
from mechicl.figures import GREY, INK, STAGE_COLOURS
from mechicl.hooks import run
from mechicl.mlp_neurons import classify, vocabulary_moments
from mechicl.models import blockwise, hooked
from mechicl.patches.lesions import Drop, DropMany
from mechicl.probes import LocalAttention, Norms
from mechicl.results import Result
from mechicl.studies.drawing import Drawing, Panel, where
from mechicl.studies.parts import Material, Part
from mechicl.studies.stages.boundaries import FEW_NEURONS, stage_boundaries
from mechicl.studies.stages.in_context_atlas import IN_CONTEXT, gathered_and_read
from mechicl.studies.stages.lesions import scored_positions
from mechicl.studies.stages.sequences import sequence_means, weighted_summary
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
}
"""Each in the colour of the stage that it marks."""
_WINDOW = 5


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
    reads = "text"
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
        return "Proposed boundaries. " + ". ".join(parts) + "."


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
