"""Attention to the tokens just before (*Stages of Inference*, section 5.1), to position 0 and to the token itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mechicl.errors import InputError
from mechicl.hooks import Batch, Probe, Watch, watch_layers
from mechicl.readings import by_name, mean_of

WINDOWS = (1, 2, 4, 5, 8, 16)
_AUTHORS_WINDOW = 5


@dataclass(frozen=True)
class LocalAttention(Probe):
    """Means over each sequence's queries of several shares of attention: reading [sequence layer head].

    - `mass_k`: attention to the previous k tokens, for queries whose k previous tokens are all after position 0.
    - `free_k`: the same as a share of attention not paid to position 0, where many heads park their attention.
    - `at_k`: attention to the k-th previous token alone, for the same queries.
    - `null_k`: the value of `mass_k` if every query attended uniformly to all its keys.
    - `sink`, `self`: attention to position 0 and to the query itself, for queries after position 0.
    - `pooled`: the authors' measure: the mean of single entries A[q, q - i], i = 1..5, including position 0.
    """

    windows: tuple[int, ...] = WINDOWS
    axes = ("sequence", "layer", "head")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.windows or min(self.windows) < 1:
            raise InputError(f"windows is {self.windows}; give numbers of previous tokens, at least 1.")

    @property
    def terms(self) -> dict[str, str]:  # type: ignore[override]
        windows = {f"{name}_{k}": f"queries_{k}" for name in ("mass", "free", "at", "null") for k in self.windows}
        return windows | {"sink": "queries", "self": "queries", "pooled": "entries"}

    @property
    def units(self) -> dict[str, str]:  # type: ignore[override]
        return dict.fromkeys(self.terms, "share of attention")

    def watch(self, model: Any, batch: Batch) -> Watch:
        lengths = batch.lengths.cpu()
        counts = {f"queries_{k}": (lengths - (k + 1)).clamp(min=0) for k in self.windows}
        counts["queries"] = (lengths - 1).clamp(min=0)
        counts["entries"] = torch.stack([(lengths - i).clamp(min=0) for i in range(1, _AUTHORS_WINDOW + 1)]).sum(0)
        summed = [name for name in self.terms if not name.startswith("null")]

        def means(sums: Tensor) -> dict[str, Tensor]:
            parts = by_name(sums, summed)
            parts |= {
                f"null_{k}": uniform_mass(k, lengths)[:, None, None].expand(sums.shape[:-1]) for k in self.windows
            }
            return {name: mean_of(parts[name], counts[count]) for name, count in self.terms.items()} | counts

        return watch_layers(
            model, "attn.hook_pattern", reduce=lambda _, pattern: self._sums(pattern.float(), batch.lengths),
            collect=means,
        )  # fmt: skip

    def _sums(
        self, pattern: Float[Tensor, "batch head query key"], lengths: Int[Tensor, "batch"]
    ) -> Float[Tensor, "batch head quantity"]:
        n_pos = pattern.shape[-1]
        query = torch.arange(n_pos, device=pattern.device)
        real = (query < lengths[:, None])[:, None]  # [batch 1 query]
        widest = max(1, min(max(*self.windows, _AUTHORS_WINDOW), n_pos - 1))
        previous = torch.stack([_previous(pattern, i) for i in range(1, widest + 1)], -1)
        sink = pattern[..., 0]
        # Not 1 - sink, which has no significant digit in float32 if a head pays all but 1e-7 to position 0.
        elsewhere = pattern[..., 1:].sum(-1).clamp(min=torch.finfo(pattern.dtype).tiny)
        masses, free, at = [], [], []
        for k in self.windows:
            chosen = real & (query > k)
            mass = previous[..., :k].sum(-1) * chosen
            masses.append(mass.sum(-1))
            at.append((previous[..., min(k, widest) - 1] * chosen).sum(-1))
            free.append((mass / elsewhere).clamp(max=1).sum(-1))
        after_0 = real & (query > 0)
        to_self = torch.diagonal(pattern, dim1=-2, dim2=-1)
        pooled = previous[..., :_AUTHORS_WINDOW].sum(-1) * real
        return torch.stack(
            [*masses, *free, *at, (sink * after_0).sum(-1), (to_self * after_0).sum(-1), pooled.sum(-1)], -1
        )  # fmt: skip


def _previous(pattern: Float[Tensor, "batch head query key"], offset: int) -> Float[Tensor, "batch head query"]:
    """A[q, q - offset] for every q; 0 if there is no such key."""
    return F.pad(torch.diagonal(pattern, -offset, dim1=-2, dim2=-1), (offset, 0))[..., : pattern.shape[-1]]


def uniform_mass(k: int, lengths: Int[Tensor, "sequence"]) -> Float[Tensor, "sequence"]:
    """The sum of `mass_k` if every query attended uniformly to all its keys: sum over q > k of k / (q + 1)."""
    query = torch.arange(int(lengths.max()))
    return F.pad(torch.where(query > k, k / (query + 1), 0).cumsum(0), (1, 0))[lengths]
