"""Entropy neurons held at a value (Gurnee et al. 2024, section 4.3; a mechanism of the last stage, calibration).

Some neurons of the last layers have heavy weights that favour no token: what they write lies where the unembedding
hardly reads. They act through the final norm, as Stolfo et al. (2024) found: the longer the residual, the smaller all
logits, and the more open the prediction. So fixing one should move entropy, more than it moves the loss or the most
probable token. Candidates are the heavy ones of `neurons`, the most neutral first; small models have none within its
bound of variance, and the finding says so.

As in *Universal Neurons* one neuron at a time has the same activation at all positions, of a few values from 0 (left
out) to 6; measured are entropy, loss and agreement against the intact model, and the length of the last residual. There
the baseline is random ordinary neurons; here each entropy neuron has controls of the last two layers whose output
weights are most nearly as long, so that they change the residual as much. *Stages of Inference* names these neurons
without such a test, so there is no `protocol="paper"`.
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
from mechicl.figures import GREY, PURPLE, add_curve, panels
from mechicl.models import blockwise, frozen
from mechicl.patches.fix_neurons import FixNeurons
from mechicl.results import Result
from mechicl.studies.stages.drawing import titled, where
from mechicl.studies.stages.lesions import scored_positions, with_differences
from mechicl.studies.stages.neurons import LAST_LAYERS, MOST_VARIANCE, NeuronsStudy, is_entropy_neuron, neuron_table
from mechicl.studies.stages.sequences import SequenceMeans, weighted_summary
from mechicl.studies.study import Condition, Study
from mechicl.studies.summary import TEXT_BAND

_PANELS = {
    "entropy_difference": "entropy, held − intact (bits)",
    "loss_difference": "loss, held − intact (nats)",
    "agreement": "same most probable token",
    "length": "length of the last residual, over the intact",
}
_NAMES = {"entropy": ("entropy neurons", PURPLE), "control": ("neurons as long", GREY)}


@dataclass(frozen=True)
class EntropyNeurons(Study):
    """Entropy neurons, and others whose output is as long, held at values: a row per neuron, value and sequence.

    `held` is the value. Entropies in bits, losses and KL in nats, agreement as a share, and the length of the last
    residual over the intact model's.
    """

    neurons: Annotated[int, Switch("Entropy neurons, the most neutral first.", min=1)] = 4
    controls: Annotated[int, Switch("Other neurons of like length for each of them.", min=1)] = 2
    values: Annotated[tuple[float, ...], Switch("Activations at which a neuron is held.")] = (0.0, 2.0, 4.0, 6.0)

    name = "entropy-neurons"
    title = "Entropy neurons held at a value"
    shows = "Entropy, loss and predictions while an entropy neuron is held at a value."
    source = "Stages of Inference, section 5.4; Gurnee et al. 2024, section 4.3"
    claim = (
        "A few neurons of the last layers hardly favour any token, but set how sure the prediction is: fixing their "
        "activation moves its entropy, through the scale of the final norm."
    )
    reads = "text"
    no_paper_protocol = "the paper names entropy neurons, and fixes none"
    batch_size = 8
    shared_options = {"processing": "fold"}

    def passes(self, n_layers: int) -> float:
        return 1 + self.neurons * (1 + self.controls) * len(self.values)

    def measure(self, model: Any, corpus: TokenCorpus, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        chosen = self.chosen(model)
        fixed = chosen.merge(pd.DataFrame({"held": self.values}), how="cross").to_dict("records")
        patches = [FixNeurons(((row["layer"], row["neuron"]),), row["held"]) for row in fixed]
        tables = []
        for indices, batch in corpus.batches(batch_size):
            compared, length = _compared(model, batch, patches)
            tables += _means(compared, length).tables(indices, fixed)
        return pd.concat(tables, ignore_index=True)

    def chosen(self, model: Any) -> pd.DataFrame:
        """The neurons: kind (entropy or control), layer, neuron, norm (of w_out), variance.

        Candidates are the heavy neurons without a heavy tail, those that favour tokens least first.

        Raises:
            InputError: there is no candidate.
        """
        net = blockwise(model, self.name)
        n_layers = net.sizes.n_layers
        table = neuron_table(net, range(max(0, n_layers - LAST_LAYERS), n_layers)).assign(model=net.name)
        entropy = is_entropy_neuron(table, NeuronsStudy().kurtosis, variance=np.inf)
        if not entropy.any():
            raise InputError(
                f"Every heavy neuron of the last {LAST_LAYERS} layers of {net.name} favours some tokens; there is none "
                "to hold."
            )
        found = table[entropy].nsmallest(self.neurons, "variance")
        others = table[~entropy]
        controls: list[int] = []
        for norm in found["norm"]:
            nearest = (others["norm"].drop(controls) - norm).abs().nsmallest(self.controls)
            controls += [int(index) for index in nearest.index]
        both = pd.concat([found.assign(kind="entropy"), others.loc[controls].assign(kind="control")])
        return both[["kind", "layer", "neuron", "norm", "variance"]].reset_index(drop=True)

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Means: model, kind, layer, neuron, metric, held, mean, low, high, n (sequences), seeds.

        `kind` is entropy or control; layer and neuron are -1 for the mean over those of a kind. Entropies in bits,
        losses in nats; `length` is that of the last residual over the intact model's.
        """
        measured = with_differences(table)
        weights = {name: "targets" if name == "loss_difference" else "positions" for name in (*_PANELS, "kl")}
        by = ["model", "kind", "layer", "neuron"]
        kinds = measured.groupby(["model", "kind", "held", "sequence"], as_index=False).mean(numeric_only=True)
        parts = [weighted_summary(rows, weights, by, "held") for rows in (kinds.assign(layer=-1, neuron=-1), measured)]
        return pd.concat(parts, ignore_index=True)

    def figure(self, result: Result) -> go.Figure:
        summary = result.summary()
        figure = panels(list(_PANELS.values()), common=False)
        for column, metric in enumerate(_PANELS, start=1):
            for kind, (name, colour) in _NAMES.items():
                rows = where(summary, metric=metric, kind=kind)
                for _, one in rows[rows["layer"] >= 0].groupby(["layer", "neuron"]):
                    _add_thin(figure, one, colour, column)
                mean = rows[rows["layer"] < 0]
                add_curve(figure, mean, x="held", name=name, colour=colour, legend=column == 1, column=column)
        told = f"{self.source}; thin: each neuron; {TEXT_BAND}"
        return titled(figure, self, summary, told, x="activation at all positions", counts=None)

    def finding(self, result: Result) -> str:
        summary = result.summary()
        parts = []
        for kind, (name, _) in _NAMES.items():
            of_kind = where(summary, held=max(self.values), kind=kind, layer=-1).set_index("metric")
            mean, low, high = (of_kind[bound] for bound in ("mean", "low", "high"))
            between = f"[{low['entropy_difference']:+.3f}, {high['entropy_difference']:+.3f}]"
            parts.append(
                f"{name} change entropy by {mean['entropy_difference']:+.3f} bits {between} and the loss by "
                f"{mean['loss_difference']:+.3f} nats, {mean['agreement']:.0%} of the most probable tokens stay, and "
                f"the last residual is {mean['length']:.2f} times as long"
            )
        own = where(result.table, kind="entropy").drop_duplicates(["layer", "neuron"])
        names = [f"{row.layer}.{row.neuron}" for row in own.itertuples()]
        few = int((own["variance"] > MOST_VARIANCE).sum())
        bound = f" ({few} of {len(own)} above the variance of {MOST_VARIANCE:g} that `neurons` allows, for wide models)"
        return (
            f"Held at {max(self.values):g}, one at a time, {'; '.join(parts)}. Entropy neurons: {', '.join(names)}"
            f"{bound if few else ''}."
        )


def _compared(
    model: Any, batch: TokenBatch, patches: Sequence[FixNeurons]
) -> tuple[Compared, Float[Tensor, "1+patch batch pos"]]:
    """Each patch alone against the clean model, and the lengths of all last residuals, the clean first."""
    net = blockwise(model, EntropyNeurons.name)
    lengths: list[Tensor] = []
    with frozen(net), torch.no_grad():
        comparison = Comparison(net, batch.tokens, batch.lengths, 0)
        for finals in residual_groups(net, batch.to(net.device), patches):
            comparison.add(finals[0], finals[1:])
            lengths += [final.float().norm(dim=-1).cpu() for final in finals[bool(lengths) :]]
    return comparison.finish(patches), torch.stack(lengths)


def _means(compared: Compared, length: Float[Tensor, "1+patch batch pos"]) -> SequenceMeans:
    predicting, with_target = scored_positions(compared, "corrected")
    means = SequenceMeans()
    means.add(predicting, "positions", kl=compared.kl, agreement=compared.agreement, entropy=compared.entropy,
              base_entropy=compared.base_entropy.expand_as(compared.kl), length=length[1:] / length[:1])  # fmt: skip
    means.add(with_target, "targets", loss=compared.loss, base_loss=compared.base_loss.expand_as(compared.kl))
    return means


def _add_thin(figure: go.Figure, rows: pd.DataFrame, colour: str, column: int) -> None:
    layer, neuron = rows[["layer", "neuron"]].iloc[0]
    figure.add_trace(
        go.Scatter(
            x=rows["held"], y=rows["mean"], mode="lines", line={"color": colour, "width": 1}, opacity=0.45,
            showlegend=False, customdata=np.stack([rows["low"], rows["high"]], -1),
            name=f"{layer}.{neuron}", hovertemplate="%{y:.4f}  [%{customdata[0]:.4f}, %{customdata[1]:.4f}]",
        ),
        row=1, col=column,
    )  # fmt: skip
