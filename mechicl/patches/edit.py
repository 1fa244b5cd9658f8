"""Patches that write values at some hook points: at every position, at the first, at all others, or at chosen ones."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from operator import index
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mechicl.display import shown
from mechicl.errors import InputError
from mechicl.hooks import Batch, Hook, Patch
from mechicl.models import Adapter, hooked

Positions = Literal["all", "bos", "rest"] | Callable[[Batch], Bool[Tensor, "batch pos"]]
"""Positions that an edit changes: all, only position 0 (the BOS if there is one, and the usual attention sink), all
others, or those where a function of the batch is True.
"""
Change = Callable[[Tensor], Tensor]
"""A function from the values at a hook point, [batch pos ...], to values of the same shape."""


@dataclass(frozen=True, repr=False)
class Edit(Patch):
    """Base of all patches that change values position by position."""

    positions: Positions = field(default="all", kw_only=True)

    def __repr__(self) -> str:
        """The given arguments, without defaults."""
        parts = sorted((part for part in fields(self) if part.repr), key=lambda part: bool(part.kw_only))
        given = {part.name: getattr(self, part.name) for part in parts if getattr(self, part.name) != part.default}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in given.items())})"

    @abstractmethod
    def changes(self, net: Adapter) -> Sequence[tuple[str, Change]]:
        """Hook points, each with its edit.

        Raises:
            InputError: the model lacks something that the patch names.
        """

    def hooks(self, model: Any, batch: Any = None) -> list[Hook]:
        mask = self._mask(batch)
        return [(name, partial(_edit, change, mask)) for name, change in self.changes(hooked(model))]

    def _mask(self, batch: Any) -> Bool[Tensor, "batch pos"] | str:
        """The mask of positions if it depends on the batch; otherwise the positions' name."""
        if self.positions in ("all", "bos", "rest"):
            return str(self.positions)
        if batch is None or not callable(self.positions):
            raise InputError(
                f"{shown(self)} needs the positions 'all', 'bos' or 'rest', or a function of a batch, and the batch."
            )
        mask, shape = self.positions(batch), batch.tokens.shape
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != shape:
            raise InputError(
                f"The positions of {shown(self)} are {shown(mask)}; the function returns a boolean tensor of the "
                f"shape of batch.tokens, {list(shape)}."
            )
        return mask


def _edit(change: Change, mask: Tensor | str, value: Tensor, hook: Any) -> Tensor:
    if isinstance(mask, str) and mask == "all":
        return change(value)
    if isinstance(mask, str):
        mask = ((torch.arange(value.shape[1]) == 0) == (mask == "bos"))[None]
    mask = mask.to(value.device)
    return torch.where(mask.reshape(*mask.shape, *[1] * (value.ndim - 2)), change(value), value)


def held(numbers: Int[Tensor, " entry"], value: float | Tensor) -> Change:
    """Fix entries of the third axis (neurons, heads) to one value, or each to its own [entry ...]."""

    def hold(values: Tensor) -> Tensor:
        entries = numbers.to(values.device)
        if not isinstance(value, Tensor):
            return values.index_fill(2, entries, value)
        return values.index_copy(2, entries, value.to(values).expand(*values.shape[:2], *value.shape))

    return hold


def pairs(given: Iterable[tuple[int, int]], part: str) -> tuple[tuple[int, int], ...]:
    """(layer, index) pairs as a tuple of integers; InputError for anything else."""
    try:
        return tuple((index(layer), index(number)) for layer, number in given)
    except TypeError:
        raise InputError(f"{part} got {given!r}; give (layer, index) pairs, such as [(0, 3)].") from None


class EqualByValue:
    """Equality of frozen dataclasses that contain tensors, which are compared by value."""

    def _values(self) -> tuple[Any, ...]:
        values = vars(self).values()
        return type(self), *(tuple(v.flatten().tolist()) if isinstance(v, Tensor) else v for v in values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EqualByValue) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())
