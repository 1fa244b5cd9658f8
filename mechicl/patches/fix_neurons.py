"""Hold neurons at a value: what does the model do while a neuron is silent, or shouts?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Int
from torch import Tensor

from mechicl.hooks import Hook, Patch, neurons_by_layer
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
        chosen = neurons_by_layer(hooked(model), self.neurons)
        return [(f"blocks.{layer}.mlp.hook_post", self._at(neurons)) for layer, neurons in chosen.items()]

    def _at(self, columns: Int[Tensor, " neuron"]) -> Callable[..., Tensor]:
        def fix(post: Tensor, hook: Any) -> Tensor:
            return post.index_fill(-1, columns.to(post.device), self.value)

        return fix
