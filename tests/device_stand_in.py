"""A device that this machine does not have: meta tensors, whose shapes are computed and whose values do not exist.

What makes a program wait for a GPU (a number, a copy to the host, indices whose count depends on values, an upload) is
impossible or visible on `meta`: each such request is counted and answered with zeros or ones. Nothing is computed.
"""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_NUMBERS = {Tensor.__int__: 0, Tensor.__bool__: False, Tensor.__float__: 0.0, Tensor.__index__: 0, Tensor.item: 0}
_COUNTED = (Tensor.nonzero, torch.nonzero)


def moved(model: Any) -> Any:
    """A copy of a HookedTransformer on the stand-in; of its weights only the shapes are left."""
    there = copy.deepcopy(model)
    there.cfg.device = "meta"
    _move(there)
    return there


def split(model: Any) -> Any:
    """A copy of a model whose later blocks lie on the stand-in, and all else on the processor."""
    there = copy.deepcopy(model)
    for block in there.blocks[len(there.blocks) // 2 :]:
        _move(block)
    return there


def _move(parts: torch.nn.Module) -> None:
    for module in parts.modules():
        for tensors in (module._parameters, module._buffers):
            tensors.update({name: _moved(value) for name, value in tensors.items() if value is not None})


class _Copied(torch.autograd.Function):
    """A copy to the host, all ones; gradients go back."""

    @staticmethod
    def forward(context: Any, there: Tensor) -> Tensor:
        return torch.ones(there.shape, dtype=there.dtype, device="cpu")

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].to("meta")


def _moved(value: Tensor) -> Tensor:
    there = value.detach().to("meta")
    return torch.nn.Parameter(there, requires_grad=value.requires_grad) if value.is_floating_point() else there


class _Sent(torch.autograd.Function):
    """The way there of what has a gradient, which comes back as ones."""

    @staticmethod
    def forward(context: Any, here: Tensor) -> Tensor:
        return here.to("meta")

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        return torch.ones(gradients[0].shape, dtype=gradients[0].dtype, device="cpu")


class Asked(TorchFunctionMode):
    """Counts what is asked of the stand-in while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        """Times that the host waits for the device, or the device for the host, by the name of the call."""
        self.indices: Counter[str] = Counter()
        """Tensors of the device that were indexed by tensors or lists of the host."""
        self.wide: Counter[str] = Counter()
        """Float64 tensors made on the device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        first, kwargs = args[0] if args else None, kwargs or {}
        if isinstance(first, Tensor) and first.is_meta:
            answer = self._answer(func, first, args, kwargs)
            if answer is not None:
                return answer
        if func is Tensor.to and first.requires_grad and not first.is_meta and "meta" in map(str, args[1:]):
            sent: Tensor = _Sent.apply(first)
            return sent
        out = func(*args, **kwargs)
        if isinstance(out, Tensor) and out.is_meta:
            if out.dtype == torch.float64:
                self.wide[func.__name__] += 1
            if func is torch.tensor or (func is Tensor.to and isinstance(first, Tensor) and not first.is_meta):
                self.waits["upload"] += 1
        return out

    def _answer(self, func: Any, first: Tensor, args: Any, kwargs: Any) -> Any:
        if func in _NUMBERS:
            self.waits[func.__name__] += 1
            return _NUMBERS[func]
        if func is Tensor.tolist:
            self.waits["tolist"] += 1
            return torch.zeros(first.shape, dtype=first.dtype, device="cpu").tolist()
        if func in _COUNTED:
            self.waits["nonzero"] += 1
            zeros = torch.zeros(2, first.ndim, dtype=torch.long, device="meta")
            return zeros.unbind(1) if kwargs.get("as_tuple") else zeros
        if func is Tensor.cpu or (func is Tensor.to and "cpu" in map(str, (*args[1:], *kwargs.values()))):
            self.waits["cpu"] += 1
            if first.is_floating_point():  # ones have a logarithm
                copied: Tensor = _Copied.apply(first)
                return copied
            return torch.zeros(first.shape, dtype=first.dtype, device="cpu")
        return self._indexed(first, args[1]) if func is Tensor.__getitem__ else None

    def _indexed(self, first: Tensor, index: Any) -> Tensor | None:
        for part in index if isinstance(index, tuple) else (index,):
            if isinstance(part, list) or (isinstance(part, Tensor) and not part.is_meta):
                self.indices[type(part).__name__] += 1
            if isinstance(part, Tensor) and part.dtype == torch.bool:
                self.waits["mask"] += 1
                return torch.zeros(2, *first.shape[part.ndim :], dtype=first.dtype, device="meta")
        return None
