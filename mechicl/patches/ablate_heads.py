"""Ablate attention heads: their output is zero, or its mean over reference text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor

from mechicl.corpora import TokenCorpus
from mechicl.doors import door
from mechicl.hooks import heads_by_layer
from mechicl.models import Adapter
from mechicl.patches.edit import Change, Edit, EqualByValue, held, pairs
from mechicl.patches.means import check_means, site_means
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
        else:
            check_means(self.means, net, "layer head d_head", shape, "head_means(model, prompts)")
            values = {layer: self.means[layer, heads.to(self.means.device)] for layer, heads in chosen.items()}
        return [(f"blocks.{layer}.attn.hook_z", held(heads, values[layer])) for layer, heads in chosen.items()]


@door
def head_means(
    model: Any, prompts: PromptSet | Sequence[Prompt] | TokenCorpus, *, batch_size: int = 16
) -> Float[Tensor, "layer head d_head"]:
    """Every head's mean output z over the tokens of prompts or text after position 0, for mean ablation.

    Raises:
        InputError: no token is left, or the tokenizer is not the model's.
    """
    return site_means(model, prompts, "attn.hook_z", "head", "d_head", batch_size=batch_size)
