"""Neurons that may vote for a class of tokens, ranked from weights as the authors do (section 5.3)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from mechicl.declared import Switch
from mechicl.doors import door
from mechicl.errors import InputError, one_sentence
from mechicl.mlp_neurons import vocabulary_moments
from mechicl.mlp_neurons.token_classes import TokenClass, class_members
from mechicl.models import blockwise, hooked
from mechicl.models.tokenizers import token_text
from mechicl.studies.study import Protocol, Study

_DRAWS = 3
"""Number of ensembles of random neurons."""


@dataclass(frozen=True)
class OfTokenClass(Study):
    """Base of studies of neurons that move a class of tokens: the class, and the candidate neurons."""

    token_class: Annotated[
        TokenClass,
        Switch(
            "A suffix (-ing), comma-separated words, or a file with a word per line; in Python also token ids, or a "
            "function of a token's text."
        ),
    ] = "-ing"
    kurtosis: Annotated[float, Switch("Neurons of larger kurtosis are candidates, whatever their variance.")] = 10.0
    variance: Annotated[float, Switch("Neurons of larger variance are candidates, whatever their kurtosis.")] = 0.005

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "token_class", _named_class(self.token_class))

    def for_model(self, model: Any) -> OfTokenClass:
        """Replace a test of words by the ids of the tokens that pass it."""
        if not callable(self.token_class):
            return self
        net = hooked(model)
        members = class_members(net.tokenizer, self.token_class, net.sizes.d_vocab)
        return replace(self, token_class=tuple(members.nonzero().flatten().tolist()))


def _named_class(token_class: TokenClass | Path) -> TokenClass:
    """A class in its stored form: a suffix, a tuple of words or of token ids, or a test."""
    if callable(token_class) or (isinstance(token_class, str) and token_class.startswith("-")):
        return token_class
    if not isinstance(token_class, str | Path):
        return tuple(token_class)
    words = str(token_class).split(",")
    if isinstance(token_class, Path) or Path(token_class).is_file():
        with one_sentence(token_class):
            words = Path(token_class).read_text(encoding="utf-8-sig").split("\n")
    return tuple(word.strip() for word in words if word.strip())


@door
def find_neurons(
    model: Any, token_class: TokenClass = "-ing", *, kurtosis: float = 10.0, variance: float = 0.005,
    protocol: Protocol = "corrected",
) -> pd.DataFrame:  # fmt: skip
    """Neurons that separate a class of tokens from all others, most effective first.

    Candidates have kurtosis above 10 or variance above 0.005, of their cosines with the vocabulary. A neuron's effect
    is the mean over the class of what one unit of its activation adds to a logit, W_U' w_out, minus the mean over all
    other tokens. In the corrected protocol a neuron is a prediction neuron if its effect is positive, and a suppression
    neuron if it is negative; the authors call neurons with kurtosis above 10 and positive skewness prediction neurons
    and all others suppression neurons, which misclassifies candidates by variance alone with a positive effect
    (`protocol="paper"`).

    Returns:
        A row per candidate: layer, neuron, kind, effect, kurtosis, skewness, variance.

    Raises:
        InputError: no token is of the class, or there is no candidate.
    """
    net = blockwise(model, "find_neurons")
    effect = effects(model, token_class).flatten().numpy()
    W_out = (net.W_out(layer) for layer in range(net.sizes.n_layers))
    table = vocabulary_moments(net.W_U, W_out, top=1).frame().assign(effect=effect)
    heavy = table["kurtosis"] > kurtosis
    promotes = (heavy & (table["skewness"] > 0)) if protocol == "paper" else table["effect"] > 0
    table["kind"] = np.where(promotes, "prediction", "suppression")
    table = table[heavy | (table["variance"] > variance)]
    if table.empty:
        raise InputError(
            f"No neuron of {net.name} has kurtosis above {kurtosis:g} or variance above {variance:g}; lower the "
            "thresholds."
        )
    order = table["effect"].abs().sort_values(ascending=False, kind="stable").index
    columns = ["layer", "neuron", "kind", "effect", "kurtosis", "skewness", "variance"]
    return table.loc[order, columns].reset_index(drop=True)


@torch.no_grad()
def effects(model: Any, token_class: TokenClass) -> Float[Tensor, "layer neuron"]:
    """Mean over a class's tokens of W_U' w_out, minus the mean over all other tokens, of every neuron."""
    net = blockwise(model, "effects")
    members = class_members(net.tokenizer, token_class, net.sizes.d_vocab).to(net.device)
    direction = net.W_U[:, members].float().mean(1) - net.W_U[:, ~members].float().mean(1)
    return torch.stack([net.W_out(layer).float() @ direction for layer in range(net.sizes.n_layers)]).cpu()


def neuron_groups(
    ranking: pd.DataFrame, effect: Float[np.ndarray, "layer neuron"], n: int, protocol: Protocol, seed: int
) -> dict[str, pd.DataFrame]:
    """The `n` neurons of each ensemble: of both kinds, and, in the corrected protocol, of each kind and at random.

    Random neurons (three draws) are from the layers of the prediction neurons (of all, without any), but not among the
    others.
    """
    both = ranking.head(n)
    if protocol == "paper":
        return _by_kind(both) | {"both kinds": both}
    groups = {kind: rows.head(n) for kind, rows in _by_kind(ranking).items()}
    layers = groups.get("prediction", both)["layer"].to_numpy()
    groups["both kinds"] = both
    taken = {pair for rows in groups.values() for pair in pairs_of(rows)}
    generator = np.random.default_rng(seed)
    for draw in range(_DRAWS):
        chosen = generator.choice(layers, min(n, len(layers)), replace=False)
        groups[f"random {draw}"] = _random_neurons(chosen, effect, taken, generator)
    return groups


def pairs_of(neurons: pd.DataFrame) -> tuple[tuple[int, int], ...]:
    """(layer, neuron) of each row."""
    return tuple(zip(neurons["layer"].tolist(), neurons["neuron"].tolist(), strict=True))


def _by_kind(ranking: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {str(kind): rows for kind, rows in ranking.groupby("kind")}


def _random_neurons(
    layers: Iterable[int], effect: np.ndarray, taken: set[tuple[int, int]], generator: np.random.Generator
) -> pd.DataFrame:
    """A random neuron for each of these layers, without repetition and not among those taken."""
    chosen: list[tuple[int, int]] = []
    for layer in layers:
        free = sorted(set(range(effect.shape[1])) - {neuron for other, neuron in (*taken, *chosen) if other == layer})
        if free:
            chosen.append((int(layer), int(generator.choice(free))))
    effects_of = [effect[pair] for pair in chosen]
    return pd.DataFrame(chosen, columns=["layer", "neuron"]).assign(kind="random", effect=effects_of)


@door
def neuron_tokens(model: Any, layer: int, neuron: int, *, k: int = 10) -> pd.DataFrame:
    """The tokens that a neuron promotes and demotes most: rank, top, top_cosine, bottom, bottom_cosine.

    Cosines are between its output weights and the unembedding; load the model with `processing="fold"` for the papers'
    numbers.

    Raises:
        InputError: the model has no such neuron.
    """
    net = blockwise(model, "neuron_tokens")
    sizes = net.sizes
    if not (0 <= layer < sizes.n_layers and 0 <= neuron < sizes.d_mlp):
        raise InputError(
            f"There is no neuron {layer}.{neuron}: {net.name} has layers 0-{sizes.n_layers - 1} with neurons "
            f"0-{sizes.d_mlp - 1}."
        )
    moments = vocabulary_moments(net.W_U, [net.W_out(layer)[neuron : neuron + 1]], top=k)
    return pd.DataFrame(
        {
            "rank": np.arange(1, k + 1),
            "top": [token_text(net.tokenizer, token) for token in moments.top_tokens[0, 0].tolist()],
            "top_cosine": moments.top_cosines[0, 0].tolist(),
            "bottom": [token_text(net.tokenizer, token) for token in moments.bottom_tokens[0, 0].tolist()],
            "bottom_cosine": moments.bottom_cosines[0, 0].tolist(),
        }
    )
