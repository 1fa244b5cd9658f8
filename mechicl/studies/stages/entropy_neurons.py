"""Entropy neurons fixed to a value (Gurnee et al. 2024, section 4.3; a mechanism of the last stage, calibration).

Some neurons of the last layers have output weights of large norm that favour no token: they write where the unembedding
hardly reads. They act through the final norm, as Stolfo et al. (2024) found: the larger the residual's norm, the
smaller all logits, and the more uniform the prediction. So fixing one should change entropy more than the loss or the
most probable token. Candidates are the large-norm ones of `neurons`, the most neutral first; small models have none
within its bound of variance, and the details say so.

As in *Universal Neurons*, one neuron at a time is fixed to the same activation at all positions, to each of a few
values from 0 (ablated) to 6. We measure entropy, loss and agreement against the clean model, and the norm of the last
residual. There the baseline is random ordinary neurons; here each entropy neuron has norm-matched controls from the
last two layers, which change the residual by the same amount. *Stages of Inference* names these neurons without such a
test, so there is no `protocol="paper"`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from mechicl.corpora import TokenBatch, TokenCorpus
from mechicl.declared import Switch
from mechicl.engines.comparison import Compared, Comparison
from mechicl.engines.wavefront import residual_groups
from mechicl.errors import InputError
from mechicl.figures import GREY, PURPLE
from mechicl.models import blockwise, frozen
from mechicl.patches.fix_neurons import FixNeurons
from mechicl.results import Result
from mechicl.studies.drawing import Curve, Drawing, Panel, where
from mechicl.studies.stages.lesions import scored_positions, with_differences
from mechicl.studies.stages.neurons import LAST_LAYERS, MOST_VARIANCE, NeuronsStudy, is_entropy_neuron, neuron_table
from mechicl.studies.stages.sequences import sequence_means, weighted_summary
from mechicl.studies.study import Condition, Study
from mechicl.studies.summary import TEXT_BAND

_PANELS = {
    "entropy_difference": "entropy, fixed − clean (bits)",
    "loss_difference": "loss, fixed − clean (nats)",
    "agreement": "top-1 agreement",
    "length": "norm of the last residual, over the clean model's",
}
_NAMES = {"entropy": ("entropy neurons", PURPLE), "control": ("norm-matched control neurons", GREY)}


@dataclass(frozen=True)
class EntropyNeurons(Study):
    """Entropy neurons and norm-matched controls fixed to values: a row per neuron, value and sequence.

    `held` is the value. Entropies in bits, losses and KL in nats, agreement as a share; `length` is the L2 norm of the
    last residual over the clean model's.
    """

    neurons: Annotated[int, Switch("Number of entropy neurons, most neutral first.", min=1)] = 4
    controls: Annotated[int, Switch("Norm-matched control neurons per entropy neuron.", min=1)] = 2
    values: Annotated[tuple[float, ...], Switch("Activations to which a neuron is fixed.")] = (0.0, 2.0, 4.0, 6.0)

    name = "entropy-neurons"
    title = "Entropy neurons fixed to a value"
    shows = "Entropy, loss and predictions when an entropy neuron is fixed to a value."
    source = "Stages of Inference, section 5.4; Gurnee et al. 2024, section 4.3"
    claim = (
        "A few neurons of the last layers hardly favour any token but set the confidence of the prediction: fixing "
        "their activation changes its entropy, through the scale of the final norm."
    )
    reads = "text"
    no_paper_protocol = "the paper names entropy neurons, and fixes none"
    batch_size = 8
    sweeps = True
    shared_options = {"processing": "fold"}

    def passes(self, n_layers: int) -> float:
        return 1 + self.neurons * (1 + self.controls) * len(self.values)

    def measure(self, model: Any, corpus: TokenCorpus, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        facts = self.chosen(model).merge(pd.DataFrame({"held": self.values}), how="cross")
        places = facts[["layer", "neuron", "held"]].itertuples(index=False)
        patches = [FixNeurons(((layer, neuron),), held) for layer, neuron, held in places]
        tables = []
        for indices, batch in corpus.batches(batch_size):
            compared, norm = _compared(model, batch, patches)
            predicting, with_target = scored_positions(compared, "corrected")
            of_predictions = {"kl": compared.kl, "agreement": compared.agreement, "entropy": compared.entropy,
                              "base_entropy": compared.base_entropy, "length": norm[1:] / norm[:1]}  # fmt: skip
            of_targets = {"loss": compared.loss, "base_loss": compared.base_loss}
            measured = {"positions": (predicting, of_predictions), "targets": (with_target, of_targets)}
            tables.append(sequence_means(facts, indices, measured))
        return pd.concat(tables, ignore_index=True)

    def chosen(self, model: Any) -> pd.DataFrame:
        """The neurons: kind (entropy or control), layer, neuron, norm (of w_out), variance.

        Candidates are neurons of large norm without a heavy tail, ordered from the least to the most token-selective.

        Raises:
            InputError: there is no candidate.
        """
        net = blockwise(model, self.name)
        n_layers = net.sizes.n_layers
        table = neuron_table(net, range(max(0, n_layers - LAST_LAYERS), n_layers)).assign(model=net.name)
        entropy = is_entropy_neuron(table, NeuronsStudy().kurtosis, variance=np.inf)
        if not entropy.any():
            raise InputError(
                f"Every neuron of large norm in the last {LAST_LAYERS} layers of {net.name} favours some tokens; there "
                "is no candidate to fix."
            )
        chosen = table[entropy].nsmallest(self.neurons, "variance")
        others = table[~entropy]
        controls: list[int] = []
        for norm in chosen["norm"]:
            nearest = (others["norm"].drop(controls) - norm).abs().nsmallest(self.controls)
            controls += [int(index) for index in nearest.index]
        both = pd.concat([chosen.assign(kind="entropy"), others.loc[controls].assign(kind="control")])
        return both[["kind", "layer", "neuron", "norm", "variance"]].reset_index(drop=True)

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Means: model, kind, layer, neuron, metric, held, mean, low, high, n (sequences), seeds.

        `kind` is entropy or control; layer and neuron are -1 for the mean over those of a kind. Entropies in bits,
        losses in nats; `length` is the norm of the last residual over the clean model's.
        """
        measured = with_differences(table)
        weights = {name: "targets" if name == "loss_difference" else "positions" for name in (*_PANELS, "kl")}
        by = ["model", "kind", "layer", "neuron"]
        kinds = measured.groupby(["model", "kind", "held", "sequence"], as_index=False).mean(numeric_only=True)
        parts = [weighted_summary(rows, weights, by, "held") for rows in (kinds.assign(layer=-1, neuron=-1), measured)]
        return pd.concat(parts, ignore_index=True)

    def drawing(self, result: Result) -> Drawing:
        summary = result.summary()
        panels = []
        for metric, title in _PANELS.items():
            content: list[Curve | go.Scatter] = []
            for kind, (name, colour) in _NAMES.items():
                rows = where(summary, metric=metric, kind=kind)
                content += [_thin(one, colour) for _, one in rows[rows["layer"] >= 0].groupby(["layer", "neuron"])]
                content.append(Curve(metric, name, colour, where={"kind": kind, "layer": -1}))
            panels.append(Panel(title, content))
        return Drawing(
            summary, panels, x="held", x_title="activation at all positions", note=f"thin: each neuron; {TEXT_BAND}"
        )

    def finding(self, result: Result) -> str:
        return self._changes(result, "entropy", "bits")

    def _changes(self, result: Result, metric: str, unit: str) -> str:
        """In words, by how much each kind of neuron changes the entropy or the loss."""
        means = {
            name: where(result.summary(), held=max(self.values), kind=kind, layer=-1, metric=f"{metric}_difference")
            for kind, (name, _) in _NAMES.items()
        }
        said = "; ".join(
            f"{name} change the {metric} by {rows['mean'].item():+.3f} {unit}" for name, rows in means.items()
        )
        return f"Fixed to {max(self.values):g}, one at a time, {said}."

    def details(self, result: Result) -> list[str]:
        rows = where(result.table, kind="entropy").drop_duplicates(["layer", "neuron"])
        names = ", ".join(f"L{layer}N{neuron}" for layer, neuron in rows[["layer", "neuron"]].to_numpy())
        wide = int((rows["variance"] > MOST_VARIANCE).sum())
        bound = (
            f" ({wide} of {len(rows)} above the variance of {MOST_VARIANCE:g} that `neurons` allows)" if wide else ""
        )
        return [self._changes(result, "loss", "nats"), f"Entropy neurons: {names}{bound}."]


def _compared(
    model: Any, batch: TokenBatch, patches: Sequence[FixNeurons]
) -> tuple[Compared, Float[Tensor, "1+patch batch pos"]]:
    """Predictions under each patch against the clean model's, and norms of all last residuals, the clean first."""
    net = blockwise(model, EntropyNeurons.name)
    norms: list[Tensor] = []
    with frozen(net), torch.no_grad():
        comparison = Comparison(net, batch.tokens, batch.lengths, 0)
        for finals in residual_groups(net, batch.to(net.device), patches):
            comparison.add(finals[0], finals[1:])
            norms += [final.float().norm(dim=-1).cpu() for final in finals[bool(norms) :]]
    return comparison.finish(patches), torch.stack(norms)


def _thin(rows: pd.DataFrame, colour: str) -> go.Scatter:
    """The curve of one neuron."""
    layer, neuron = rows[["layer", "neuron"]].iloc[0]
    return go.Scatter(
        x=rows["held"], y=rows["mean"], mode="lines", line={"color": colour, "width": 1}, opacity=0.45,
        showlegend=False, customdata=rows[["low", "high"]], name=f"{layer}.{neuron}",
        hovertemplate="%{y:.4f}  [%{customdata[0]:.4f}, %{customdata[1]:.4f}]",
    )  # fmt: skip
