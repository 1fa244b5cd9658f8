"""Ablate attention heads: their output is zero, or its mean over reference text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechicl.corpora import TokenCorpus
from mechicl.doors import door
from mechicl.errors import InputError
from mechicl.hooks import Probe, Watch, heads_by_layer, run, watch_layers
from mechicl.models import Adapter
from mechicl.patches.edit import Change, Edit, EqualByValue, held, pairs
from mechicl.prompts import Prompt, PromptSet
from mechicl.readings import mean_of


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


@dataclass(frozen=True)
class _HeadOutputs(Probe):
    """Each head's mean z over the tokens after position 0, where a head can attend to nothing but itself."""

    axes = ("sequence", "layer", "head", "d_head")
    units = {"z": "activation"}
    terms = {"z": "tokens"}

    def watch(self, model: Any, batch: Any) -> Watch:
        position = torch.arange(batch.tokens.shape[1], device=batch.tokens.device)
        counted = (position > 0) & (position < batch.lengths[:, None])
        n = counted.sum(1)
        return watch_layers(
            model, "attn.hook_z", reduce=lambda _, z: (z.float() * counted[..., None, None]).sum(1),
            collect=lambda sums: {"z": mean_of(sums, n), "tokens": n},
        )  # fmt: skip


@door
def head_means(
    model: Any, prompts: PromptSet | Sequence[Prompt] | TokenCorpus, *, batch_size: int = 16
) -> Float[Tensor, "layer head d_head"]:
    """Every head's mean output z over the tokens of prompts or text after position 0, for mean ablation.

    Raises:
        InputError: no token is left, or the tokenizer is not the model's.
    """
    reading = run(model, prompts, [probe := _HeadOutputs()], batch_size=batch_size, progress=None)[probe]
    if not reading.counts["tokens"].any():
        raise InputError("There is no token after position 0 to take means over; give longer prompts or more text.")
    return reading.mean(reading.axes[0]).values.float()
