"""Readings at the end of a context other than the residual: chosen neurons, and the prediction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechicl.hooks import Probe, Watch, neurons_by_layer
from mechicl.models import hooked


@dataclass(frozen=True)
class LastNeurons(Probe):
    """Activations of chosen neurons at each sequence's last token: reading [sequence neuron].

    Neurons are pairs (layer, index); their activations are what W_out multiplies (in a gated MLP, the product).
    """

    neurons: tuple[tuple[int, int], ...]
    axes = ("sequence", "neuron")
    units = {"activation": "as W_out takes it"}

    def watch(self, model: Any, batch: Any) -> Watch:
        net = hooked(model)
        chosen = neurons_by_layer(net, self.neurons)  # raises for unknown layers
        neurons = [(layer % net.sizes.n_layers, index) for layer, index in self.neurons]
        order = torch.tensor(sorted(range(len(neurons)), key=lambda i: neurons[i]))
        activations: dict[int, Tensor] = {}

        def see(layer: int) -> Callable[..., None]:
            def keep(value: Tensor, hook: Any) -> None:
                activations[layer] = _at_end(value, batch)[:, chosen[layer]].float()

            return keep

        return Watch(
            [(f"blocks.{layer}.mlp.hook_post", see(layer)) for layer in chosen],
            lambda: torch.cat([activations[layer] for layer in chosen], 1).cpu()[:, order.argsort()],
            coordinates={"neuron": [f"L{layer}.N{index}" for layer, index in self.neurons]},
        )


@dataclass(frozen=True)
class LastPrediction(Probe):
    """Id of the most probable token after each sequence: reading [sequence]."""

    axes = ("sequence",)
    units = {"token": "token id"}

    def watch(self, model: Any, batch: Any) -> Watch:
        net = hooked(model)
        predicted: list[Tensor] = []

        def see(resid: Tensor, hook: Any) -> None:
            predicted.append(net.lens(_at_end(resid, batch)).argmax(-1))

        return Watch([(f"blocks.{net.sizes.n_layers - 1}.hook_resid_post", see)], lambda: predicted[-1])


def _at_end(values: Float[Tensor, "batch pos d"], batch: Any) -> Float[Tensor, "batch d"]:
    return values.detach()[torch.arange(len(batch), device=values.device), batch.lengths - 1]
