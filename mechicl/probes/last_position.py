"""What is read where a context ends, beside the residual: chosen neurons, and the prediction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechicl.errors import InputError
from mechicl.hooks import Probe, Watch
from mechicl.models import hooked


@dataclass(frozen=True)
class LastNeurons(Probe):
    """Activations of chosen neurons at each sequence's last token: reading [sequence neuron].

    Neurons are pairs (layer, index); their activations are what W_out multiplies (in a gated MLP, the product).
    """

    neurons: tuple[tuple[int, int], ...]
    axes = ("sequence", "neuron")

    def watch(self, model: Any, batch: Any) -> Watch:
        net = hooked(model)
        sizes = net.sizes
        beyond = [n for n in self.neurons if not (0 <= n[0] < sizes.n_layers and 0 <= n[1] < sizes.d_mlp)]
        if beyond or not self.neurons:
            what = f"neuron {beyond[0][0]}.{beyond[0][1]}" if beyond else "no neuron"
            raise InputError(
                f"{what} was asked for; {net.name} has layers 0-{sizes.n_layers - 1} with {sizes.d_mlp} neurons each."
            )
        layers = sorted({layer for layer, _ in self.neurons})
        columns = {layer: [i for i, neuron in enumerate(self.neurons) if neuron[0] == layer] for layer in layers}
        found = torch.zeros(len(batch), len(self.neurons), device=batch.device)

        def at(layer: int) -> Callable[..., None]:
            chosen = torch.tensor([self.neurons[i][1] for i in columns[layer]], device=batch.device)

            def see(activation: Tensor, hook: Any) -> None:
                found[:, columns[layer]] = _at_end(activation, batch)[:, chosen].float()

            return see

        return Watch([(f"blocks.{layer}.mlp.hook_post", at(layer)) for layer in layers], lambda: found)


@dataclass(frozen=True)
class LastPrediction(Probe):
    """Id of the token that is most probable after each sequence: reading [sequence]."""

    axes = ("sequence",)

    def watch(self, model: Any, batch: Any) -> Watch:
        net = hooked(model)
        found: list[Tensor] = []

        def see(resid: Tensor, hook: Any) -> None:
            found.append(net.lens(_at_end(resid, batch)).argmax(-1))

        return Watch([(f"blocks.{net.sizes.n_layers - 1}.hook_resid_post", see)], lambda: found[0])


def _at_end(values: Float[Tensor, "batch pos d"], batch: Any) -> Float[Tensor, "batch d"]:
    return values.detach()[torch.arange(len(batch), device=values.device), batch.lengths - 1]
