"""Ablate the attention, or the MLPs, of several layers: their output is zero, or its mean over reference text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mechicl.corpora import TokenCorpus
from mechicl.doors import door
from mechicl.errors import InputError
from mechicl.hooks import as_layers, resolved_layers
from mechicl.models import Adapter
from mechicl.patches.edit import Change, Edit, EqualByValue
from mechicl.patches.means import check_means, site_means
from mechicl.prompts import Prompt, PromptSet

PartOfLayer = Literal["attn", "mlp"]


@dataclass(frozen=True, repr=False, eq=False)
class AblateParts(EqualByValue, Edit):
    """Set what the attention ("attn") or the MLPs ("mlp") of some layers add to the residual stream to zero, or to its
    means of `part_means`.
    """

    part: PartOfLayer
    layers: Iterable[int]
    means: Float[Tensor, "layer d_model"] | None = field(default=None, repr=False)
    """Mean ablation; None for zero ablation."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", as_layers(self.layers, "AblateParts"))
        if self.part not in ("attn", "mlp"):
            raise InputError(f"AblateParts got the part {self.part!r}; it must be 'attn' or 'mlp'.")

    def changes(self, net: Adapter) -> list[tuple[str, Change]]:
        shape = (net.sizes.n_layers, net.sizes.d_model)
        if self.part == "mlp" and not net.sizes.d_mlp:
            raise InputError(f"{net.name} has no MLPs that could be ablated.")
        if self.means is not None:
            check_means(self.means, net, "layer d_model", shape, "part_means(model, text, part)")
        layers = resolved_layers(self.layers, net.sizes.n_layers, self)
        return [(f"blocks.{layer}.hook_{self.part}_out", self._change(layer)) for layer in sorted(set(layers))]

    def _change(self, layer: int) -> Change:
        if self.means is None:
            return torch.zeros_like
        return partial(_as_everywhere, self.means[layer])


def _as_everywhere(mean: Tensor, values: Tensor) -> Tensor:
    return mean.to(values).expand_as(values)


@door
def part_means(
    model: Any, prompts: PromptSet | Sequence[Prompt] | TokenCorpus, part: PartOfLayer, *, batch_size: int = 16
) -> Float[Tensor, "layer d_model"]:
    """What each layer's attention ("attn") or MLP ("mlp") adds, mean over tokens after position 0, for mean ablation.

    Raises:
        InputError: no token is left, the tokenizer is not the model's, or the part is unknown.
    """
    if part not in ("attn", "mlp"):
        raise InputError(f"part is {part!r}; it must be 'attn' or 'mlp'.")
    return site_means(model, prompts, f"hook_{part}_out", "d_model", batch_size=batch_size)
