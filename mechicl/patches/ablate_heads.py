"""Ablate attention heads: their output is zero, or its mean over reference text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechicl.corpora import TokenCorpus
from mechicl.errors import InputError
from mechicl.hooks import heads_by_layer
from mechicl.hooks.doors import material_of
from mechicl.models import Adapter, check_same_tokenizer, frozen, hooked
from mechicl.patches.edit import Change, Edit, EqualByValue, held, pairs
from mechicl.prompts import Prompt, PromptSet


@dataclass(frozen=True, repr=False, eq=False)
class AblateHeads(EqualByValue, Edit):
    """Set the output of attention heads (layer, query head) to zero, or to their means of `head_means`.

    The output is z, the average of values by attention that W_O multiplies (`attn.hook_z`). Heads that share keys and
    values are ablated one by one.
    """

    heads: tuple[tuple[int, int], ...]
    means: Float[Tensor, "layer head d_head"] | None = field(default=None, repr=False)
    """Mean ablation; None for zero ablation."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "heads", pairs(self.heads, "AblateHeads"))

    def changes(self, net: Adapter) -> list[tuple[str, Change]]:
        chosen, sizes = heads_by_layer(net, self.heads), net.sizes
        shape = (sizes.n_layers, sizes.n_heads, sizes.d_head)
        if self.means is None:
            values: dict[int, float | Tensor] = dict.fromkeys(chosen, 0.0)
        elif self.means.shape == shape:
            values = {layer: self.means[layer, heads.to(self.means.device)] for layer, heads in chosen.items()}
        else:
            raise InputError(
                f"The means have shape {list(self.means.shape)}; {net.name} needs [layer head d_head], {list(shape)}: "
                "take them with head_means(model, prompts)."
            )
        return [(f"blocks.{layer}.attn.hook_z", held(heads, values[layer])) for layer, heads in chosen.items()]


def head_means(
    model: Any, prompts: PromptSet | Sequence[Prompt] | TokenCorpus, *, batch_size: int = 16
) -> Float[Tensor, "layer head d_head"]:
    """Every head's mean output z over the tokens of prompts or text, for mean ablation.

    Position 0 is left out: there a head can attend to nothing but the first token.

    Raises:
        InputError: no token is left, or the tokenizer is not the model's.
    """
    net = hooked(model)
    material = material_of(prompts)
    check_same_tokenizer(net, material)
    sizes = net.sizes
    sums, n_tokens = torch.zeros(sizes.n_layers, sizes.n_heads, sizes.d_head), 0
    for _, batch in material.batches(batch_size, net.device):
        position = torch.arange(batch.tokens.shape[1], device=net.device)
        counted = ((position > 0) & (position < batch.lengths[:, None]))[..., None, None]
        z: dict[int, Tensor] = {}
        hooks = [
            (f"blocks.{layer}.attn.hook_z", partial(_keep_sum, z, layer, counted)) for layer in range(sizes.n_layers)
        ]
        with torch.no_grad(), frozen(net), net.hooks(hooks):
            net.forward(batch.tokens)
        sums += torch.stack([z[layer] for layer in range(sizes.n_layers)])
        n_tokens += int(counted.sum())
    if not n_tokens:
        raise InputError("There is no token after position 0 to take means over; give longer prompts or more text.")
    return sums / n_tokens


def _keep_sum(sums: dict[int, Tensor], layer: int, counted: Tensor, z: Tensor, hook: Any) -> None:
    sums[layer] = (z.float() * counted).sum((0, 1)).cpu()
