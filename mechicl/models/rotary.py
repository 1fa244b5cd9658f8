"""Rotary position embedding at explicit positions, from TransformerLens's own tables."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


def rotation(attn: Any, positions: Int[Tensor, "*batch pos"]) -> tuple[Tensor, Tensor] | None:
    """Cosines and sines [*batch, pos, 1, half of rotary_dim] for these positions; None if nothing is rotated."""
    if attn.cfg.positional_embedding_type != "rotary":
        return None
    # Each angle is in the tables twice: side by side for adjacent pairs, otherwise in the two halves.
    half = slice(0, None, 2) if attn.cfg.rotary_adjacent_pairs else slice(0, attn.cfg.rotary_dim // 2)
    at = positions.to(attn.rotary_cos.device)
    return attn.rotary_cos[at, None, half], attn.rotary_sin[at, None, half]


def grow_tables(attn: Any, longest: int) -> None:
    """Extend TransformerLens's tables to this many positions.

    They start with 2048 rows, and TransformerLens's own forward pass extends them in the same way.
    """
    if attn.cfg.positional_embedding_type == "rotary" and longest > len(attn.rotary_cos):
        attn._extend_rotary_embeddings(min(attn.cfg.n_ctx, max(longest, 2 * len(attn.rotary_cos))))


def rotate(
    x: Float[Tensor, "batch pos head d_head"], angles: tuple[Tensor, Tensor], *, adjacent: bool
) -> Float[Tensor, "batch pos head d_head"]:
    """Rotate the first `rotary_dim` coordinates of each head, in adjacent pairs (GPT-J) or half against half
    (the rest).
    """
    cos, sin = angles
    n = cos.shape[-1]
    first, second = (x[..., 0 : 2 * n : 2], x[..., 1 : 2 * n : 2]) if adjacent else (x[..., :n], x[..., n : 2 * n])
    turned = (first * cos - second * sin, second * cos + first * sin)
    mixed = torch.stack(turned, -1).flatten(-2) if adjacent else torch.cat(turned, -1)
    return mixed if 2 * n == x.shape[-1] else torch.cat([mixed, x[..., 2 * n :]], -1)
