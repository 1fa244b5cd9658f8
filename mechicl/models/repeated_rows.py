"""Prompts that share their first tokens: products with weights are computed once for equal rows.

Nothing in a causal model depends on what follows, so prompts with the same demonstrations have the same activations
there, and most of a pass is products of these with weights. `equal_rows` computes each such product for one of the
equal rows and copies the result. The gradients in the backward pass differ by prompt, so there a product is computed
for each of them, except for rows that no gradient reaches: padding, and in the last layer everything but the target.

Which rows should be equal follows from the tokens; that they are equal is checked before every product. So whatever
patches edit and users replace, only the order of floating-point additions changes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.overrides import TorchFunctionMode

LEAST_SAVED = 2**23
"""Least number of multiplications to save per product: about 0.1 ms, the cost of the check."""


def equal_rows(tokens: Int[Tensor, "batch pos"]) -> AbstractContextManager[object]:
    """A context in which a model reads these tokens; it changes nothing if prompts share few tokens.

    Nothing is shared on a GPU, where every check would wait for the device.
    """
    if tokens.device.type != "cpu":
        return nullcontext()
    first = first_occurrences(tokens)
    repeated = first != torch.arange(len(first))
    return _EqualRows(first, repeated) if 8 * int(repeated.sum()) > len(first) else nullcontext()


def first_occurrences(tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, " row"]:
    """For each token, counted through the batch, the first one with the same tokens before it."""
    known: dict[tuple[int, int], int] = {}
    first, number = [], 0
    for prompt in tokens.tolist():
        before = -1
        for token in prompt:
            before = known.setdefault((before, token), number)
            first.append(before)
            number += 1
    return torch.tensor(first)


_PRODUCTS: dict[Any, Callable[..., tuple[Tensor, Tensor, Tensor | None]]] = {
    F.linear: lambda x, weight, bias=None: (x, weight.T, bias),
    torch.addmm: lambda bias, x, weight: (x, weight, bias),
    **dict.fromkeys(
        (torch.mm, torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__), lambda x, weight: (x, weight, None)
    ),
}
"""PyTorch's functions that multiply rows with weights, and each one's arguments for rows, weights and bias."""


class _EqualRows(TorchFunctionMode):
    def __init__(self, first: Int[Tensor, " row"], repeated: Bool[Tensor, " row"]) -> None:
        super().__init__()
        self._n, self._differ = len(first), False
        self._kept, self._repeated = (~repeated).nonzero()[:, 0], repeated.nonzero()[:, 0]
        self._origin = first[self._repeated]
        self._copies = ((~repeated).cumsum(0) - 1)[first]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        read = _PRODUCTS.get(func)
        if read is not None and not kwargs and not self._differ:
            x, weight, bias = read(*args)
            if self._serves(x, weight, bias) and self._equal(x.detach()):
                rows = _Product.apply(x.reshape(self._n, -1), weight, bias, self._kept, self._copies)  # type: ignore[no-untyped-call]
                return rows.view(*x.shape[:-1], -1)
        return func(*args, **(kwargs or {}))

    def _serves(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
        """Whether this multiplies one row per token with frozen weights, both plain tensors."""
        frozen = [weight] if bias is None else [weight, bias]
        return (
            weight.ndim == 2
            and x.shape[-1] == len(weight)
            and x.numel() == self._n * len(weight)
            and len(self._repeated) * weight.numel() >= LEAST_SAVED
            and not any(each.requires_grad for each in frozen)
            and (bias is None or bias.ndim == 1)
            and all(type(each) in (Tensor, torch.nn.Parameter) for each in (x, *frozen))
            and all(each.dtype == x.dtype and each.device == self._kept.device for each in (x, *frozen))
            and not torch.is_autocast_enabled(x.device.type)
        )

    def _equal(self, x: Float[Tensor, "*batch d_in"]) -> bool:
        """Whether the rows that should be equal are; if they are not, neither are they in later layers."""
        rows = x.reshape(self._n, -1)
        equal = torch.equal(rows.index_select(0, self._repeated), rows.index_select(0, self._origin))
        self._differ = not equal
        return equal


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None, kept: Tensor, copies: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        once = rows.index_select(0, kept)
        product = once @ weight if bias is None else torch.addmm(bias, once, weight)
        return product.index_select(0, copies)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        (weight,) = ctx.saved_tensors
        reached = ((gradient.amax(1) != 0) | (gradient.amin(1) != 0)).nonzero()[:, 0]
        if len(reached) == len(gradient):
            return gradient @ weight.T, None, None, None, None
        of_reached = gradient.index_select(0, reached) @ weight.T
        of_rows = gradient.new_zeros(len(gradient), len(weight)).index_copy_(0, reached, of_reached)
        return of_rows, None, None, None, None
