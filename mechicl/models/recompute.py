"""Gradients of long prompts: a block's activations are recomputed when its gradients are due, instead of being kept.

A backward pass's memory grows with layers x (heads x pos x pos + pos x width). With blockwise recomputation, only the
residuals between blocks and a single block's activations are held, at the cost of one more forward pass.
"""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mechicl.models.adapter import Adapter, Sizes
from mechicl.models.blockwise import Blockwise

GRAPH_BYTES = 2**30
"""Memory limit for activations kept for a backward pass on a CPU; on a GPU it is a quarter of its memory."""


def prompts_at_once(net: Adapter, length: int) -> int:
    """Number of prompts of this length that can keep their activations for a backward pass; 0 if not even one can."""
    budget = GRAPH_BYTES
    if net.device.type == "cuda":
        budget = torch.cuda.get_device_properties(net.device).total_memory // 4
    return budget // graph_bytes(net.sizes, length, net.dtype.itemsize)


def graph_bytes(sizes: Sizes, length: int, itemsize: int) -> int:
    """Bytes of the activations that one prompt of this length keeps for its backward pass."""
    # Per position and layer: twelve vectors of the residual's width, three of the MLP's (four if it is gated).
    vectors = 12 * sizes.d_model + (4 if sizes.gated else 3) * sizes.d_mlp
    return itemsize * sizes.n_layers * (sizes.n_heads * length**2 + length * vectors)


def forward_recomputed(net: Blockwise, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
    """`net.forward`, with blocks that run again in the backward pass, with the hooks installed then.

    Hooks in blocks fire without gradients in the forward pass, and with gradients in the backward pass.
    """
    resid = net.embed(tokens)
    for layer in range(net.sizes.n_layers):
        block = partial(net.whole_block, layer)
        resid = checkpoint(block, resid, use_reentrant=True, preserve_rng_state=False)
    return resid
