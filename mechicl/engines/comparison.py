"""Compare a changed model's predictions with the clean model's, position by position, from last residuals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechicl.metrics.readout import read_out
from mechicl.models import Blockwise

_MEASURES = ("kl", "entropy", "loss", "top_k_overlap", "top_token")


@dataclass(frozen=True)
class Compared:
    """Predictions of the clean model and under each ablation; NaN (-1 for tokens) where there is none.

    Column t is the prediction made *at* position t, of the token at t + 1; losses have no value in the last column.
    """

    lesions: tuple[Any, ...]
    kl: Float[Tensor, "lesion batch pos"]
    """KL(clean || ablated) in nats."""
    entropy: Float[Tensor, "lesion batch pos"]
    """Entropy of the ablated model, in bits; the authors' if requested."""
    loss: Float[Tensor, "lesion batch pos"]
    """Loss of the ablated model on the next token, in nats."""
    top_k_overlap: Float[Tensor, "lesion batch pos"]
    """Jaccard similarity of the k most probable tokens; NaN with `top_k=0`."""
    top_token: Int[Tensor, "lesion batch pos"]
    """Id of the ablated model's most probable token."""
    base_entropy: Float[Tensor, "batch pos"]
    base_loss: Float[Tensor, "batch pos"]
    base_top_token: Int[Tensor, "batch pos"]
    tokens: Int[Tensor, "batch pos"]
    lengths: Int[Tensor, "batch"]

    @property
    def agreement(self) -> Float[Tensor, "lesion batch pos"]:
        """1 where ablated and clean model have the same most probable token id: the paper's relative accuracy."""
        same = (self.top_token == self.base_top_token).float()
        return torch.where(self.base_entropy.isnan(), torch.nan, same)

    @property
    def correct(self) -> Float[Tensor, "lesion batch pos"]:
        """1 where the true next token is the ablated model's most probable one."""
        return self._hits(self.top_token)

    @property
    def base_correct(self) -> Float[Tensor, "batch pos"]:
        """1 where the true next token is the clean model's most probable one."""
        return self._hits(self.base_top_token)

    def _hits(self, top_token: Tensor) -> Tensor:
        hits = (top_token[..., :-1] == self.tokens[:, 1:]).float()
        hits = torch.cat([hits, hits.new_full((*hits.shape[:-1], 1), torch.nan)], -1)
        return torch.where(self.base_loss.isnan(), torch.nan, hits)


class Comparison:
    """Collects the measures of many passes on the same tokens; only real positions are computed."""

    def __init__(
        self, net: Blockwise, tokens: Int[Tensor, "batch pos"], lengths: Int[Tensor, "batch"] | None, top_k: int, *,
        clamped: bool = False,
    ) -> None:  # fmt: skip
        self.net, self.top_k = net, min(top_k, net.sizes.d_vocab)
        self.entropy = "clamped_entropy" if clamped else "entropy"
        self.tokens = tokens.cpu()
        self.lengths = torch.full((len(tokens),), tokens.shape[1]) if lengths is None else lengths.cpu()
        self.real = torch.arange(tokens.shape[1]) < self.lengths[:, None]
        self.targets = torch.cat([self.tokens[:, 1:], torch.zeros_like(self.tokens[:, :1])], 1)[self.real]
        self.base: dict[str, Tensor] = {}
        self.lesioned: list[dict[str, Tensor]] = []

    def add(
        self, clean: Float[Tensor, "batch pos d_model"], lesioned: Sequence[Float[Tensor, "batch pos d_model"]]
    ) -> None:
        """Compare further passes with the clean one."""
        rows = self.real.flatten().nonzero()[:, 0].to(clean.device)  # computed on the host, to avoid waiting for a GPU
        streams = [resid.flatten(0, 1)[rows] for resid in (clean, *lesioned)]
        measures = [self.entropy if name == "entropy" else name for name in _MEASURES]
        joined = read_out(
            self.net.lens_tiles, streams, self.targets.to(clean.device), measures, self.top_k,
            d_vocab=self.net.sizes.d_vocab,
        )  # fmt: skip
        joined["entropy"] = joined.pop(self.entropy)
        self.base = {name: values[:, 0] for name, values in joined.items()}
        self.lesioned += [{name: values[:, i + 1] for name, values in joined.items()} for i in range(len(lesioned))]

    def finish(self, lesions: Sequence[Any]) -> Compared:
        """The measures at their places in the batch."""
        last = torch.arange(self.tokens.shape[1]) == self.lengths[:, None] - 1

        def placed(values: Tensor, name: str) -> Tensor:
            empty = -1 if name == "top_token" else torch.nan
            full = torch.full(self.real.shape, empty, dtype=values.dtype)
            full[self.real] = values
            return full.masked_fill(last, torch.nan) if name == "loss" else full

        stacked = {name: torch.stack([placed(one[name], name) for one in self.lesioned]) for name in _MEASURES}
        base = {f"base_{name}": placed(self.base[name], name) for name in ("entropy", "loss", "top_token")}
        return Compared(tuple(lesions), **stacked, **base, tokens=self.tokens, lengths=self.lengths)
