"""What a changed model's predictions are to the intact model's, position by position, from their last residuals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechicl.metrics import jaccard, top_k_ids
from mechicl.models import HookedModel

_LOGITS_AT_ONCE = 2**24
"""Logits held at a time for one pass (float32: 64 MiB)."""
_MEASURES = ("kl", "entropy", "loss", "top_k_overlap", "top_token")


@dataclass(frozen=True)
class Compared:
    """Predictions of the intact model and of each lesion; NaN (-1 for tokens) where there is none.

    Column t is the prediction made *at* position t, of the token at t + 1; losses have no value in the last column.
    """

    lesions: tuple[Any, ...]
    kl: Float[Tensor, "lesion batch pos"]
    """KL(intact || lesioned) in nats."""
    entropy: Float[Tensor, "lesion batch pos"]
    """Of the lesioned model, in bits."""
    loss: Float[Tensor, "lesion batch pos"]
    """Of the lesioned model on the next token, in nats."""
    top_k_overlap: Float[Tensor, "lesion batch pos"]
    """Jaccard similarity of the k most probable tokens; NaN with `top_k=0`."""
    top_token: Int[Tensor, "lesion batch pos"]
    """Id of the lesioned model's most probable token."""
    base_entropy: Float[Tensor, "batch pos"]
    base_loss: Float[Tensor, "batch pos"]
    base_top_token: Int[Tensor, "batch pos"]
    tokens: Int[Tensor, "batch pos"]
    lengths: Int[Tensor, "batch"]

    @property
    def agreement(self) -> Float[Tensor, "lesion batch pos"]:
        """1 where lesioned and intact model put the same token id first: the paper's relative accuracy."""
        return self._real((self.top_token == self.base_top_token).float())

    @property
    def correct(self) -> Float[Tensor, "lesion batch pos"]:
        """1 where the lesioned model puts the true next token first."""
        return self._hits(self.top_token)

    @property
    def base_correct(self) -> Float[Tensor, "batch pos"]:
        """1 where the intact model puts the true next token first."""
        return self._hits(self.base_top_token)

    def _hits(self, top_token: Tensor) -> Tensor:
        hits = (top_token[..., :-1] == self.tokens[:, 1:]).float()
        hits = torch.cat([hits, hits.new_full((*hits.shape[:-1], 1), torch.nan)], -1)
        return torch.where(self.base_loss.isnan(), torch.nan, hits)

    def _real(self, values: Tensor) -> Tensor:
        return torch.where(self.base_entropy.isnan(), torch.nan, values)


class Comparison:
    """Collects the measures of many passes on the same tokens; only real positions are computed."""

    def __init__(
        self, net: HookedModel, tokens: Int[Tensor, "batch pos"], lengths: Int[Tensor, "batch"] | None, top_k: int
    ) -> None:
        self.net, self.top_k = net, min(top_k, net.sizes.d_vocab)
        self.tokens = tokens.cpu()
        self.lengths = torch.full((len(tokens),), tokens.shape[1]) if lengths is None else lengths.cpu()
        self.real = torch.arange(tokens.shape[1]) < self.lengths[:, None]
        self.targets = torch.cat([self.tokens[:, 1:], torch.zeros_like(self.tokens[:, :1])], 1)[self.real]
        self.base: dict[str, Tensor] = {}
        self.lesioned: list[dict[str, Tensor]] = []

    def add(
        self, intact: Float[Tensor, "batch pos d_model"], lesioned: Sequence[Float[Tensor, "batch pos d_model"]]
    ) -> None:
        """Compare further passes with the intact one."""
        device = intact.device
        rows = self.real.to(device)
        base, others = intact[rows], [resid[rows] for resid in lesioned]
        chunk = max(1, _LOGITS_AT_ONCE // self.net.sizes.d_vocab)
        parts: list[list[dict[str, Tensor]]] = []
        for start in range(0, len(base), chunk):
            at = slice(start, start + chunk)
            targets = self.targets[at].to(device)
            reference = _Reference(self.net.lens(base[at]), self.top_k)
            own = reference.measure(reference.log_p, targets)
            parts.append([own, *(reference.measure(self.net.lens(other[at]), targets) for other in others)])
        joined = [
            {name: torch.cat([part[name] for part in column]).cpu() for name in _MEASURES}
            for column in zip(*parts, strict=True)
        ]
        self.base = joined[0]
        self.lesioned += joined[1:]

    def finish(self, lesions: Sequence[Any]) -> Compared:
        """The measures at their places in the batch."""
        last = torch.arange(self.tokens.shape[1]) == self.lengths[:, None] - 1

        def placed(values: Tensor, name: str) -> Tensor:
            empty = -1 if name == "top_token" else torch.nan
            full = torch.full(self.real.shape, empty, dtype=values.dtype)
            full[self.real] = values
            return full.masked_fill(last, torch.nan) if name == "loss" else full

        stacked = {name: torch.stack([placed(one[name], name) for one in self.lesioned]) for name in _MEASURES}
        return Compared(
            lesions=tuple(lesions),
            **stacked,
            base_entropy=placed(self.base["entropy"], "entropy"),
            base_loss=placed(self.base["loss"], "loss"),
            base_top_token=placed(self.base["top_token"], "top_token"),
            tokens=self.tokens,
            lengths=self.lengths,
        )


class _Reference:
    """The intact model's predictions for some tokens, normalised once for all lesions."""

    def __init__(self, logits: Float[Tensor, "token d_vocab"], top_k: int) -> None:
        self.log_p = logits.log_softmax(-1)
        self.p = self.log_p.exp()
        self.top_k = top_k
        self.top = top_k_ids(self.log_p, top_k) if top_k else None

    def measure(self, logits: Float[Tensor, "token d_vocab"], targets: Int[Tensor, "token"]) -> dict[str, Tensor]:
        log_q = logits.log_softmax(-1)
        overlap = torch.full_like(log_q[:, 0], torch.nan)
        if self.top is not None:
            overlap = jaccard(top_k_ids(log_q, self.top_k), self.top)
        return {
            "kl": (self.p * (self.log_p - log_q)).sum(-1).clamp(min=0),
            "entropy": -(log_q.exp() * log_q).sum(-1).clamp(max=0) / math.log(2),
            "loss": -log_q.gather(-1, targets[:, None])[:, 0],
            "top_k_overlap": overlap,
            "top_token": log_q.argmax(-1),
        }
