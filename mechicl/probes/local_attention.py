"""Attention to the tokens just before (*Stages of Inference*, section 5.1), to position 0 and to the token itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mechicl.errors import InputError
from mechicl.hooks import Batch, Probe, Watch, watch_points
from mechicl.models import hooked

WINDOWS = (1, 2, 4, 5, 8, 16)
_AUTHORS_WINDOW = 5


@dataclass(frozen=True)
class LocalAttention(Probe):
    """Sums over each sequence's queries of several shares of attention: reading [sequence layer head quantity].

    `quantities` names the last axis; `counts` gives the number of terms of each sum.

    - `mass_k`: attention to the previous k tokens, of queries whose k previous tokens all come after position 0.
    - `free_k`: the same as a share of what is not paid to position 0, where many heads park their attention.
    - `sink`, `self`: attention to position 0 and to the query itself, of queries after position 0.
    - `pooled`: the authors' figure: entries A[q, q - i], i = 1..5, each a term of its own, position 0 included.
    """

    windows: tuple[int, ...] = WINDOWS
    axes = ("sequence", "layer", "head", "quantity")

    def __post_init__(self) -> None:
        if not self.windows or min(self.windows) < 1:
            raise InputError(f"windows is {self.windows}; give numbers of previous tokens, at least 1.")

    @property
    def quantities(self) -> tuple[str, ...]:
        """Names along the last axis."""
        masses = [f"{name}_{k}" for name in ("mass", "free") for k in self.windows]
        return (*masses, "sink", "self", "pooled")

    def counts(self, lengths: Int[Tensor, "sequence"]) -> Int[Tensor, "sequence quantity"]:
        """Terms of each sum, for sequences of these lengths; 0 where a sequence is too short for a window."""
        queries = [(lengths - (k + 1)).clamp(min=0) for k in self.windows]
        after_0 = (lengths - 1).clamp(min=0)
        pooled = sum((lengths - i).clamp(min=0) for i in range(1, _AUTHORS_WINDOW + 1))
        assert isinstance(pooled, Tensor)
        return torch.stack([*queries, *queries, after_0, after_0, pooled], -1)

    def watch(self, model: Any, batch: Batch) -> Watch:
        patterns = [f"blocks.{layer}.attn.hook_pattern" for layer in range(hooked(model).sizes.n_layers)]
        return watch_points(patterns, lambda _, pattern: self._sums(pattern.float(), batch.lengths))

    def _sums(
        self, pattern: Float[Tensor, "batch head query key"], lengths: Int[Tensor, "batch"]
    ) -> Float[Tensor, "batch head quantity"]:
        n_pos = pattern.shape[-1]
        query = torch.arange(n_pos, device=pattern.device)
        real = (query < lengths[:, None])[:, None]  # [batch 1 query]
        widest = min(max(*self.windows, _AUTHORS_WINDOW), n_pos - 1)
        previous = torch.stack([_previous(pattern, i) for i in range(1, widest + 1)], -1)
        sink = pattern[..., 0]
        masses, shares = [], []
        for k in self.windows:
            mass = previous[..., :k].sum(-1) * (real & (query > k))
            masses.append(mass.sum(-1))
            shares.append((mass / (1 - sink).clamp(min=1e-6)).clamp(max=1).sum(-1))
        after_0 = real & (query > 0)
        own = torch.diagonal(pattern, dim1=-2, dim2=-1)
        pooled = previous[..., :_AUTHORS_WINDOW].sum(-1) * real
        return torch.stack(
            [*masses, *shares, (sink * after_0).sum(-1), (own * after_0).sum(-1), pooled.sum(-1)], -1
        )  # fmt: skip


def _previous(pattern: Float[Tensor, "batch head query key"], offset: int) -> Float[Tensor, "batch head query"]:
    """A[q, q - offset] for every q; 0 where there is no such key."""
    return F.pad(torch.diagonal(pattern, -offset, dim1=-2, dim2=-1), (offset, 0))


def uniform_mass(k: int, lengths: Int[Tensor, "sequence"]) -> Float[Tensor, "sequence"]:
    """The sum that `mass_k` would be, if every query attended to all its keys alike: sum over q > k of k / (q + 1)."""
    query = torch.arange(int(lengths.max()))
    share = torch.where(query > k, k / (query + 1), 0).cumsum(0)
    return share[lengths - 1]
