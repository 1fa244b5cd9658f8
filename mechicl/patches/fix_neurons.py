"""Fix neurons to a value, such as 0 or one far above the usual."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor

from mechicl.corpora import TokenCorpus
from mechicl.doors import door
from mechicl.hooks import neurons_by_layer
from mechicl.models import Adapter
from mechicl.patches.edit import Change, Edit, EqualByValue, held, pairs
from mechicl.patches.means import check_means, site_means
from mechicl.prompts import Prompt, PromptSet


@dataclass(frozen=True, repr=False, eq=False)
class FixNeurons(EqualByValue, Edit):
    """Fix MLP neurons (layer, index) to one activation at every position, or at `positions`; 0 ablates them.

    The activation is what W_out multiplies (`mlp.hook_post`; in a gated MLP, the product).
    """

    neurons: tuple[tuple[int, int], ...]
    value: float = 0.0
    means: Float[Tensor, "layer neuron"] | None = field(default=None, repr=False, kw_only=True)
    """Mean ablation: each neuron is fixed to its own mean of `neuron_means`, and `value` is ignored."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "neurons", pairs(self.neurons, "FixNeurons"))

    def changes(self, net: Adapter) -> list[tuple[str, Change]]:
        chosen, shape = neurons_by_layer(net, self.neurons), (net.sizes.n_layers, net.sizes.d_mlp)
        if self.means is not None:
            check_means(self.means, net, "layer neuron", shape, "neuron_means(model, text)")

        def value(layer: int, neurons: Tensor) -> float | Tensor:
            return self.value if self.means is None else self.means[layer, neurons.to(self.means.device)]

        return [
            (f"blocks.{layer}.mlp.hook_post", held(neurons, value(layer, neurons))) for layer, neurons in chosen.items()
        ]


@door
def neuron_means(
    model: Any, prompts: PromptSet | Sequence[Prompt] | TokenCorpus, *, batch_size: int = 16
) -> Float[Tensor, "layer neuron"]:
    """Every neuron's mean activation over the tokens of prompts or text after position 0, for mean ablation.

    Raises:
        InputError: no token is left, or the tokenizer is not the model's.
    """
    return site_means(model, prompts, "mlp.hook_post", "neuron", batch_size=batch_size)
