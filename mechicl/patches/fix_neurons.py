"""Hold neurons at a value: what does the model do while a neuron is silent, or shouts?"""

from __future__ import annotations

from dataclasses import dataclass

from mechicl.hooks import neurons_by_layer
from mechicl.models import Adapter
from mechicl.patches.edit import Change, Edit, held, pairs


@dataclass(frozen=True, repr=False)
class FixNeurons(Edit):
    """MLP neurons (layer, index) have the same activation at every position, or where `positions` says; 0 leaves them
    out.

    The activation is what W_out multiplies (`mlp.hook_post`; in a gated MLP, the product).
    """

    neurons: tuple[tuple[int, int], ...]
    value: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "neurons", pairs(self.neurons, "FixNeurons"))

    def changes(self, net: Adapter) -> list[tuple[str, Change]]:
        chosen = neurons_by_layer(net, self.neurons)
        return [(f"blocks.{layer}.mlp.hook_post", held(neurons, self.value)) for layer, neurons in chosen.items()]
