"""The cost of a pass, counted from the model's sizes rather than measured."""

from __future__ import annotations

from mechicl.models import Sizes


def forward_flops(sizes: Sizes, new: int, cached: int, logits: int) -> int:
    """Floating-point operations of reading `new` tokens on top of `cached` ones: two for every multiply-add.

    This counts the matrix products: queries, keys, values and output of attention, scores and averages over the keys
    that causality lets a token see, the MLP, and `logits` logits of the last token. Norms, softmax, activations and
    biases, at most a few percent, are left out.
    """
    heads, keys = sizes.n_heads * sizes.d_head, sizes.n_key_value_heads * sizes.d_head
    projections = sizes.d_model * (2 * heads + 2 * keys)
    mlp = sizes.d_model * sizes.d_mlp * (3 if sizes.gated else 2)
    seen = new * cached + new * (new + 1) // 2
    a_layer = new * (projections + mlp) + seen * 2 * heads
    return 2 * (sizes.n_layers * a_layer + logits * sizes.d_model)
