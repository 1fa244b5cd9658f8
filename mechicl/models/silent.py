"""A model's parts as plain functions of their weights, with the same results as TransformerLens's modules but without
hook points.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def has_hooks(module: Any, inside: bool = True) -> bool:
    """Whether a hook, ours, the user's or PyTorch's own, is installed on a module or inside it."""
    own = vars(module)
    if own["_forward_hooks"] or own["_forward_pre_hooks"] or own["_backward_hooks"] or own["_backward_pre_hooks"]:
        return True
    return inside and any(has_hooks(part) for part in own["_modules"].values() if part is not None)


def installed_by_library(block: Any) -> frozenset[int]:
    """The ids of PyTorch hooks that TransformerLens puts on a block's norms for its own use."""
    return frozenset(handle.id for handle in getattr(block, "_capture_hook_handles", ()))


def has_own_hooks(module: Any, library: frozenset[int]) -> bool:
    """Whether a hook is installed on a module that is not TransformerLens's own.

    For OPT, whose MLP is not a module in Hugging Face's model, TransformerLens 4 permanently hooks the MLP's two
    projections, so that the MLP's own hook points fire, too.
    """
    others = {number for kind in _HOOKS for number in vars(module)[kind]} - library
    return bool(others) and not others <= {
        handle.hook.id
        for handle in getattr(module, "fwd_hooks", ())
        if handle.is_permanent and _is_of_library(getattr(handle, "user_hook", None))
    }


def _is_of_library(function: Any) -> bool:
    return str(getattr(function, "__module__", "")).startswith("transformer_lens.")


@contextmanager
def muted(*modules: Any) -> Iterator[None]:
    """Run modules without the hooks that are installed on them or inside them."""
    parts = [vars(part) for module in modules if module is not None for part in module.modules()]
    kept = [(part, {kind: part[kind] for kind in _HOOKS}) for part in parts]
    try:
        for part in parts:
            part.update({kind: OrderedDict() for kind in _HOOKS})
        yield
    finally:
        for part, hooks in kept:
            part.update(hooks)


def normalise(norm: Any, x: Float[Tensor, "*any d"]) -> Float[Tensor, "*any d"]:
    """The same as TransformerLens's norm modules, in fewer passes; `None` and identities pass `x` through.

    As there, statistics are float32 in a half-precision model, and the learned gain acts in the model's dtype.
    """
    if norm is None or isinstance(norm, torch.nn.Identity):
        return x
    dtype, shape = norm.cfg.dtype, (x.shape[-1],)
    weight, bias = getattr(norm, "w", None), getattr(norm, "b", None)
    if weight is not None and x.device != weight.device:
        x = x.to(weight.device)
    low = dtype not in (torch.float32, torch.float64)
    rms = type(norm).__name__ in ("RMSNorm", "RMSNormPre")
    if not (low or rms):
        return F.layer_norm(x, shape, weight, bias, norm.eps)
    x = x.float() if low else x
    x = F.rms_norm(x, shape, None, norm.eps) if rms else F.layer_norm(x, shape, None, None, norm.eps)
    x = x.to(dtype) if low else x
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def soft_cap(x: Float[Tensor, "*any"], cap: float | None) -> Float[Tensor, "*any"]:
    """`cap * tanh(x / cap)`, as Gemma-2 bounds its scores and logits; no cap if it is None or not positive."""
    return x if cap is None or cap <= 0 else cap * torch.tanh(x / cap)


def mlp(module: Any, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
    """The same as TransformerLens's MLP and gated MLP, without copying transposed weights; others run unchanged."""
    act = _ACTIVATIONS.get(module.cfg.act_fn)
    kind = type(module).__name__
    if act is None or kind not in ("MLP", "GatedMLP"):
        out: Tensor = module(x)
        return out
    rows = x.reshape(-1, x.shape[-1])
    if kind == "MLP":
        post = act(torch.addmm(module.b_in, rows, module.W_in))
    else:
        post = torch.addcmul(module.b_in, act(rows @ module.W_gate), rows @ module.W_in)
    return torch.addmm(module.b_out, post, module.W_out).view_as(x)


# Without gradients, gelu and silu are computed in place, because allocating memory costs as much as the function.
def _gelu(x: Tensor, approximate: str = "none") -> Tensor:
    return (F.gelu if x.requires_grad else torch.ops.aten.gelu_)(x, approximate=approximate)


def _silu(x: Tensor) -> Tensor:
    return F.silu(x, inplace=not x.requires_grad)


# TransformerLens writes gelu_new and gelu_fast out in eight passes over the activations; they are the tanh form of
# gelu.
_ACTIVATIONS: dict[str | None, Callable[[Tensor], Tensor]] = {
    **dict.fromkeys(("gelu_new", "gelu_fast", "gelu_pytorch_tanh"), partial(_gelu, approximate="tanh")),
    "gelu": _gelu,
    "relu": F.relu,
    "silu": _silu,
}
