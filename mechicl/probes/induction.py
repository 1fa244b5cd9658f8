"""Standard scores of attention heads on repeated tokens: induction, and attention to the previous token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mechicl.errors import InputError
from mechicl.hooks import Batch, Probe, Watch, watch_layers
from mechicl.readings import by_name


@dataclass(frozen=True)
class HeadScores(Probe):
    """Means over queries of two standard shares of attention: reading [sequence layer head].

    Sequences are repeated tokens, with or without an initial token before them (BOS). `induction`: from each token of
    the second half to the token after its first occurrence (Olsson et al. 2022). `previous`: from every query after
    position 1 to the token before it; position 0, the usual sink, never counts as a previous token.
    """

    axes = ("sequence", "layer", "head")
    units = dict.fromkeys(("induction", "previous"), "share of attention")

    def watch(self, model: Any, batch: Batch) -> Watch:
        n_pos = batch.tokens.shape[1]
        half, first = n_pos // 2, n_pos % 2
        again = torch.equal(batch.tokens[:, first : first + half], batch.tokens[:, first + half :])
        if half < 2 or not again or bool((batch.lengths < n_pos).any()):
            raise InputError("HeadScores reads sequences whose second half repeats the first; give repeated tokens.")

        def shares(_: int, pattern: Tensor) -> Tensor:
            to_next = torch.diagonal(pattern.float(), 1 - half, dim1=-2, dim2=-1)  # entry k: query k + half - 1
            previous = torch.diagonal(pattern.float(), -1, dim1=-2, dim2=-1)  # entry k: query k + 1
            return torch.stack([to_next[..., first + 1 :].mean(-1), previous[..., 1:].mean(-1)], -1)

        return watch_layers(model, "attn.hook_pattern", reduce=shares, collect=lambda x: by_name(x, list(self.units)))
