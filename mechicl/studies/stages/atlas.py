"""The atlas: all signatures of a model's four stages on a common relative depth (Fig. 1, Table 1).

The paper's first figure overlays four curves, each scaled to its own range: the cost of dropping a layer (KL),
attention to the previous five tokens, and the densities of prediction and suppression neurons. We add the logit lens
(KL to the final prediction, entropy), the MLPs' norm and block influence. One pass over the text gives attention, norms
and block influence; one sweep runs all ablations and the lens, which is an ablation too: reading the residual before
layer i as if it were the last drops all layers from i on. Neuron kinds follow from weights.

Position 0 has two curves of its own if a layer makes it an attention sink: its residual's norm over the median of all
others, and the attention that it receives.

Depth runs from 0 (first layer) to 1 (last); lens points lie at i / L. Boundaries between stages are our own proposal,
and we test whether untrained twins have them, too. A twin's neurons are the model's own with W_U rotated at random.
There is no `protocol="paper"`. Other studies' results about the stages, and curves of in-context learning, can be
added.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import torch

from mechicl.claims import Claim, Evidence, Verdicts, decide
from mechicl.corpora import TokenCorpus
from mechicl.doors import door
from mechicl.engines.wavefront import lesion_sweep
from mechicl.errors import InputError
from mechicl.hooks import run
from mechicl.mlp_neurons import classify, randomly_rotated, vocabulary_moments
from mechicl.models import blockwise, hooked
from mechicl.patches.lesions import Drop, DropMany
from mechicl.probes import LocalAttention, Norms
from mechicl.probes.logit_lens import LogitLens
from mechicl.results import Result
from mechicl.studies.drawing import Drawing, where
from mechicl.studies.parts import Material, Part
from mechicl.studies.several import check_names
from mechicl.studies.stages.atlas_claims import BOUNDARIES, DEEPER, DENSER, begins, deeper, denser
from mechicl.studies.stages.atlas_figure import add_boundaries, boundary_in_words, drawing, on_texts, sink_in_words
from mechicl.studies.stages.boundaries import stage_boundaries
from mechicl.studies.stages.in_context_atlas import IN_CONTEXT, gathered_and_read
from mechicl.studies.stages.lesions import scored_positions
from mechicl.studies.stages.sequences import sequence_means, weighted_summary
from mechicl.studies.study import Condition
from mechicl.studies.summary import TEXT_BAND
from mechicl.studies.twins import AgainstTwins, given, seed_of

_WINDOW = 5
_ROTATED_NEURONS = 64


@dataclass(frozen=True)
class Atlas(AgainstTwins):
    """All signatures of the stages: a row per signature, layer and sequence.

    KL in nats, entropies in bits, attention and densities as shares. `result.study.boundaries(result.table)` gives the
    stages.
    """

    name = "stages-atlas"
    title = "The stages of inference"
    shows = "All signatures of the four stages on relative depth, with proposed boundaries."
    source = "Stages of Inference, Fig. 1 and Table 1"
    claim = (
        "Four stages, each with its signature: detokenization (local attention), feature engineering (lens KL "
        "hardly falls), prediction ensembling (prediction neurons, falling lens KL), calibration (suppression "
        "neurons, large MLP norms)."
    )
    claims = (*BOUNDARIES, DENSER, DEEPER)
    reads = "text"
    no_paper_protocol = "it combines curves of several studies; run those with protocol='paper'"
    batch_size = 4
    sweeps = True
    shared_options = {"processing": "fold"}

    def parts(self, material: Material) -> tuple[list[Part], dict[str, Any]]:
        parts, origin = super().parts(material)
        return [*parts, Part(None)], origin  # the last part is measured on weights alone

    def passes(self, n_layers: int) -> float:
        return 2 * n_layers

    def measure(self, model: Any, corpus: TokenCorpus | None, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        if corpus is None:
            return _neurons(model, seed_of(condition))
        return super().measure(model, corpus, condition, batch_size=batch_size)

    def read(self, model: Any, corpus: TokenCorpus, batch_size: int) -> pd.DataFrame:
        probes = LocalAttention((_WINDOW,)), Norms()
        readings = run(model, corpus, probes, batch_size=batch_size)
        return pd.concat([*_of_a_pass(probes, readings), _drops_and_lens(model, corpus, batch_size)], ignore_index=True)

    def of_twin(self, model: Any, corpus: TokenCorpus, batch_size: int) -> pd.DataFrame:
        probes = LocalAttention((_WINDOW,)), Norms(), LogitLens("corrected", only=("kl", "entropy"))
        readings = run(model, corpus, probes, batch_size=batch_size)
        lens = readings[probes[2]].frame().rename(columns={"point": "layer"})
        of_lens = [
            _signature(f"lens {what}", lens, lens[what.lower()], lens["positions"]) for what in ("KL", "entropy")
        ]
        return pd.concat([*_of_a_pass(probes[:2], readings), *of_lens], ignore_index=True)

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Means per layer: model, metric (signature), layer, mean, low, high, n, seeds, depth.

        KL in nats, entropy in bits, attention and densities as shares. Neurons have no interval.
        """
        parts = []
        for signature, rows in given(table).groupby("signature", sort=False):
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
        """Verdicts for each model, and for all of them together."""
        facts = {"study": self.name, "protocol": self.protocol}
        own = [one for one in super().verdicts(result) if one.claim is not DEEPER]
        models = {name: model for model, names in on_texts(result).items() for name in names}
        table = result.table.assign(model=result.table["model"].map(models))  # several texts are not several models
        return Verdicts([*own, decide(DEEPER, deeper(table), facts)])

    def evidence(self, claim: Claim, table: pd.DataFrame) -> Evidence:
        if claim in BOUNDARIES:
            return begins(claim, table)
        return deeper(table) if claim is DEEPER else denser(table)

    def boundaries(self, table: pd.DataFrame) -> pd.DataFrame:
        """The first layer of each later stage, for every model: model, stage, layer, low, high, kept, by, overlaps.

        `verdict` is "supported" if untrained twins change less there. Other stages have a place, too, but are not
        shown.
        """
        tables = []
        for model, rows in table.groupby("model", sort=False):
            verdicts = [decide(claim, begins(claim, rows)).outcome for claim in BOUNDARIES]
            tables.append(stage_boundaries(given(rows)).assign(model=model, verdict=verdicts))
        return pd.concat(tables, ignore_index=True)

    def drawing(self, result: Result) -> Drawing:
        lines = f"dotted: boundaries that untrained twins do not have, shaded: their {TEXT_BAND[6:]} and signatures"
        return drawing(result, result.summary(), lines)

    def figure(self, result: Result) -> go.Figure:
        figure, rows = super().figure(result), where(given(result.table), signature="block influence")
        add_boundaries(figure, self.boundaries(result.table), (rows.groupby("model")["layer"].max() + 1).to_dict())
        return figure

    def tables(self, result: Result) -> dict[str, pd.DataFrame]:
        """A table of where the stages begin."""
        rows = self.boundaries(result.table)
        return {"Where stages begin (layers, with 95 % intervals over documents and signatures)": rows}

    def details(self, result: Result) -> list[str]:
        """Where each model's stages begin, what label words gather, its sink; then the verdicts' further numbers."""
        summary, parts = result.summary(), list[str]()
        for model, rows in self.boundaries(result.table).groupby("model", sort=False):
            shown, of_model = where(rows, verdict="supported").set_index("stage")["layer"], where(summary, model=model)
            parts.append(f"{model}: {'; '.join(boundary_in_words(row) for row in rows.to_dict('records'))}.")
            told = [*gathered_and_read(of_model, shown.astype(int).to_dict()), *sink_in_words(of_model)]
            parts += [f"{model}: {text}." for text in told]
        return [*parts, *super().details(result)]


def _of_a_pass(probes: Sequence[Any], readings: Any) -> Iterator[pd.DataFrame]:
    """The signatures that one pass over the text gives, for the model or a twin."""
    local, sizes = readings[probes[0]].mean("head").frame(), readings[probes[1]].frame()
    yield _signature("local attention", local, local[f"mass_{_WINDOW}"], local[f"queries_{_WINDOW}"])
    yield _signature("MLP norm", sizes, sizes["mlp_median"], sizes["positions"])  # few tokens have very large ones
    yield _signature("block influence", sizes, 1 - sizes["cosine"], sizes["positions"])
    yield _signature("norm at position 0", sizes, sizes["resid_post_at_0"] / sizes["resid_post_median"], 1.0)
    yield _signature("attention to position 0", local, local["sink"], local["queries"])


def _signature(name: str, index: pd.DataFrame, value: Any, weight: Any) -> pd.DataFrame:
    rows = index[["sequence", "layer"]].assign(value=value, weight=weight, signature=name)
    return rows[rows["weight"] > 0]  # a sequence too short for a signature has none


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


@torch.no_grad()
def _neurons(model: Any, seed: int | None) -> pd.DataFrame:
    """Densities of both kinds; with a seed, W_U is rotated at random and a sample of neurons suffices."""
    net = blockwise(model, Atlas.name)
    W_U, n = net.W_U, net.sizes.d_mlp
    W_out: Iterator[torch.Tensor] = (net.W_out(layer) for layer in range(net.sizes.n_layers))
    if seed is not None:
        n = min(n, _ROTATED_NEURONS)
        W_U, W_out = W_U.float(), randomly_rotated(W_out, len(W_U), most=n, seed=seed)
    frame = classify(vocabulary_moments(W_U, W_out, top=1)).frame()
    rows = frame[frame["kind"].isin(["prediction", "suppression"])]
    return pd.DataFrame(
        {"sequence": -1, "layer": rows["layer"], "value": rows["density"], "weight": float(n),
         "signature": rows["kind"] + " neurons"}
    )  # fmt: skip


@door
def compare_atlases(results: Sequence[Result]) -> Result:
    """Atlases of several models as one result, with one panel per model in one figure."""
    if not results or not all(isinstance(result.study, Atlas) for result in results):
        raise InputError("Give the results of stages_atlas, one for each model.")
    check_names([str(result.provenance["model"]["name"]) for result in results])
    table = pd.concat([result.table for result in results], ignore_index=True)
    return Result(results[0].study, table, {**results[0].provenance, "model": [r.provenance["model"] for r in results]})
