"""Means of activations over the tokens of text, for mean ablation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechicl.corpora import TokenCorpus
from mechicl.errors import InputError
from mechicl.hooks import Probe, Watch, run, watch_layers
from mechicl.models import Adapter
from mechicl.prompts import Prompt, PromptSet
from mechicl.readings import mean_of


@dataclass(frozen=True)
class _Means(Probe):
    """Each activation's mean, or mean square, over the tokens after position 0 (the usual attention sink)."""

    site: str
    square: bool
    axes: tuple[str, ...]
    units = {"mean": "activation"}
    terms = {"mean": "tokens"}

    def watch(self, model: Any, batch: Any) -> Watch:
        position = torch.arange(batch.tokens.shape[1], device=batch.tokens.device)
        counted = (position > 0) & (position < batch.lengths[:, None])
        n = counted.sum(1)

        def reduce(_: int, values: Tensor) -> Tensor:
            values = values.float()
            mask = counted.reshape(*counted.shape, *[1] * (values.ndim - 2))
            sums: Tensor = ((values**2 if self.square else values) * mask).sum(1)
            return sums

        return watch_layers(
            model, self.site, reduce=reduce, collect=lambda sums: {"mean": mean_of(sums, n), "tokens": n}
        )  # fmt: skip


def check_means(means: Tensor, net: Adapter, axes: str, shape: tuple[int, ...], advice: str) -> None:
    """Raise InputError if means for mean ablation do not match this model's layers; `advice` is how to compute them."""
    if means.shape != shape:
        raise InputError(
            f"The means have shape {list(means.shape)}; {net.name} needs [{axes}], {list(shape)}: take them with "
            f"{advice}."
        )


def site_means(
    model: Any, text: PromptSet | Sequence[Prompt] | TokenCorpus, site: str, *axes: str, square: bool = False,
    batch_size: int = 16,
) -> Float[Tensor, "layer *axes"]:  # fmt: skip
    """Means over tokens after position 0 of a site's values in every layer, or of their squares.

    Args:
        model: any model with hooks.
        text: prompts or running text.
        site: such as "attn.hook_z"; its values are [batch pos *axes].
        axes: names of the axes after the position axis.
        square: compute the mean of squares instead.
        batch_size: sequences per pass.

    Raises:
        InputError: no token is left, or the tokenizer is not the model's.
    """
    probe = _Means(site, square, ("sequence", "layer", *axes))
    reading = run(model, text, [probe], batch_size=batch_size, progress=None)[probe]
    if not reading.counts["tokens"].any():
        raise InputError("There is no token after position 0 to take means over; give longer prompts or more text.")
    means: Tensor = reading.mean(reading.axes[0]).values
    return means.float()
