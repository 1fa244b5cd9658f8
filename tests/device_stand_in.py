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
    for module in there.modules():
        for tensors in (module._parameters, module._buffers):
            tensors.update({name: _moved(value) for name, value in tensors.items() if value is not None})
    return there


def _moved(value: Tensor) -> Tensor:
    there = value.detach().to("meta")
    return torch.nn.Parameter(there, requires_grad=value.requires_grad) if value.is_floating_point() else there


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
            made_up = torch.ones if first.is_floating_point() else torch.zeros  # ones have a logarithm
            return made_up(first.shape, dtype=first.dtype, device="cpu")
        return self._indexed(first, args[1]) if func is Tensor.__getitem__ else None

    def _indexed(self, first: Tensor, index: Any) -> Tensor | None:
        for part in index if isinstance(index, tuple) else (index,):
            if isinstance(part, list) or (isinstance(part, Tensor) and not part.is_meta):
                self.indices[type(part).__name__] += 1
            if isinstance(part, Tensor) and part.dtype == torch.bool:
                self.waits["mask"] += 1
                return torch.zeros(2, *first.shape[part.ndim :], dtype=first.dtype, device="meta")
        return None
