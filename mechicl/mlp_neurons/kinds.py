"""Kinds of neurons by what they write: prediction, suppression, partition and entropy neurons."""

from dataclasses import dataclass, fields

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mechicl.errors import InputError
from mechicl.mlp_neurons.moments import VocabularyMoments

_TOKENS = 4096
"""Tokens of the vocabulary that are in float64 at a time."""


@dataclass(frozen=True)
class NeuronClasses:
    """Which neurons are of which kind; a partition neuron may also be of another kind."""

    prediction: Bool[Tensor, "layer neuron"]
    suppression: Bool[Tensor, "layer neuron"]
    partition: Bool[Tensor, "layer neuron"]

    def frame(self) -> pd.DataFrame:
        """One row per layer and kind: layer, kind, count, density (the share of the layer's neurons)."""
        rows = [
            {"layer": layer, "kind": field.name, "count": int(mask.sum()), "density": mask.double().mean().item()}
            for field in fields(self)
            for layer, mask in enumerate(getattr(self, field.name))
        ]
        return pd.DataFrame(rows)


def classify(moments: VocabularyMoments, *, kurtosis: float = 10.0, variance: float = 0.005) -> NeuronClasses:
    """Prediction neurons have kurtosis > 10 and positive skewness, suppression neurons negative (section
    5.3).

    Partition neurons split the vocabulary into two large groups: variance > 0.005. The thresholds are the
    authors', for cosines of processed weights. A gated or GELU neuron suppresses only while its activation is
    positive.
    """
    heavy = moments.kurtosis > kurtosis
    return NeuronClasses(
        prediction=heavy & (moments.skewness > 0),
        suppression=heavy & (moments.skewness < 0),
        partition=moments.variance > variance,
    )


def null_space_score(
    W_U: Float[Tensor, "d_model d_vocab"], W_out: Float[Tensor, "d_mlp d_model"], *, fraction: float = 0.01
) -> Float[Tensor, "neuron"]:
    """rho = |V_null' w_out| / |w_out|: how much of a neuron's output lies where W_U hardly reads.

    V_null are the `fraction` of d_model directions with the smallest singular values of W_U (at least one). An entropy
    neuron writes there: it changes no single token's logit directly but scales all of them through the final norm
    (Stolfo et al. 2024).
    """
    if not 0 < fraction < 1:
        raise InputError(f"fraction is {fraction}; it is the share of W_U's directions to call null, between 0 and 1.")
    return share_in(null_space(W_U, fraction), W_out)


@torch.no_grad()
def null_space(W_U: Float[Tensor, "d_model d_vocab"], fraction: float = 0.01) -> Float[Tensor, "d_model direction"]:
    """The left singular directions of W_U with the smallest singular values, in float64."""
    gram = torch.zeros(len(W_U), len(W_U), dtype=torch.float64)
    for part in torch.split(W_U.cpu(), _TOKENS, dim=1):  # a vocabulary of 256,000 takes gigabytes in float64
        gram += (wide := part.double()) @ wide.T
    _, directions = torch.linalg.eigh(gram)  # ascending
    null: Tensor = directions[:, : max(1, round(fraction * len(gram)))]
    return null


@torch.no_grad()
def share_in(
    directions: Float[Tensor, "d_model direction"], W_out: Float[Tensor, "neuron d_model"]
) -> Float[Tensor, "neuron"]:
    """The share of each neuron's norm that lies in the span of orthonormal directions."""
    w = W_out.cpu().double()
    share: Tensor = (w @ directions).norm(dim=1) / w.norm(dim=1).clamp(min=1e-30)  # a pruned neuron writes nothing
    return share


def entropy_neurons(
    moments: VocabularyMoments,
    squared_norm: Float[Tensor, "layer neuron"] | None = None,
    *,
    last_layers: int = 2,
    squared_norm_at_least: float | None = None,
    kurtosis_at_most: float = 10.0,
    variance_at_most: float = 1e-3,
) -> list[tuple[int, int]]:
    """Candidates (layer, neuron), smallest variance first: large weights late in the model that favour no token.

    `squared_norm` is |w_in|^2 + |w_out|^2 as in Gurnee et al. (2024), by default |w_out|^2. Their bounds for it, 3, 1
    and 2 in three models, depend on scale; the default is the 90th percentile of the last layers.
    """
    n_layers = len(moments.mean)
    if not 1 <= last_layers <= n_layers:
        raise InputError(f"last_layers is {last_layers}; the moments cover {n_layers} layers.")
    first = n_layers - last_layers
    size = (moments.norm**2 if squared_norm is None else squared_norm.cpu())[first:]
    bound = size.double().quantile(0.9).item() if squared_norm_at_least is None else squared_norm_at_least
    kept = (size >= bound) & (moments.kurtosis[first:] <= kurtosis_at_most)
    kept &= moments.variance[first:] <= variance_at_most
    candidates = [(layer + first, neuron) for layer, neuron in kept.nonzero().tolist()]
    return sorted(candidates, key=lambda candidate: moments.variance[candidate].item())
