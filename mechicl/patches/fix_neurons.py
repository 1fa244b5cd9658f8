"""Hold neurons at a value: what does the model do while a neuron is silent, or shouts?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from mechicl.errors import InputError
from mechicl.hooks import Hook, Patch
from mechicl.models import hooked


@dataclass(frozen=True)
class FixNeurons(Patch):
    """MLP neurons (layer, index) have the same activation at every position; 0 leaves them out.

    The activation is what W_out multiplies (`mlp.hook_post`; in a gated MLP, the product).
    """

    neurons: tuple[tuple[int, int], ...]
    value: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "neurons", tuple((int(layer), int(neuron)) for layer, neuron in self.neurons))

    def hooks(self, model: Any, batch: Any) -> list[Hook]:
        net = hooked(model)
        sizes = net.sizes
        beyond = [n for n in self.neurons if not (0 <= n[0] < sizes.n_layers and 0 <= n[1] < sizes.d_mlp)]
        if beyond or not self.neurons:
            raise InputError(
                f"FixNeurons got {beyond[0] if beyond else 'no neuron'}; {net.name} has layers 0-{sizes.n_layers - 1} "
                f"with neurons 0-{sizes.d_mlp - 1}."
            )
        chosen = sorted(self.neurons)
        per_layer = Counter(layer for layer, _ in chosen)
        index = torch.tensor([neuron for _, neuron in chosen], device=net.device)
        columns = torch.split(index, list(per_layer.values()))
        return [
            (f"blocks.{layer}.mlp.hook_post", self._at(neurons))
            for layer, neurons in zip(per_layer, columns, strict=True)
        ]

    def _at(self, columns: Int[Tensor, " neuron"]) -> Callable[..., Tensor]:
        def fix(post: Tensor, hook: Any) -> Tensor:
            return post.index_fill(-1, columns.to(post.device), self.value)

        return fix
