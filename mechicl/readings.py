"""A probe's reading: named values with their units, over named axes with labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import nan
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechicl.display import card, shown
from mechicl.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


_POSITIONS = ("position", "pos", "query", "key")
"""Axes along which a prompt has one entry per token."""


@dataclass(frozen=True, repr=False, eq=False)
class Reading:
    """One or more quantities over the same axes, on the CPU; the first axis is in the order of the prompts.

    `reading["kl"]` is a tensor, `reading.values` that of the only quantity, `reading.frame()` the table.
    """

    axes: tuple[str, ...]
    quantities: Mapping[str, Tensor]
    """Quantities, each of shape [*axes]."""
    units: Mapping[str, str]
    terms: Mapping[str, str] = field(default_factory=dict)
    """For a mean or a median, the name of the count in `counts` with its number of terms."""
    counts: Mapping[str, Tensor] = field(default_factory=dict)
    """Counts, each with a size for every axis, or 1 if it is constant along it. A mean over no terms is NaN."""
    coordinates: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Labels along an axis; 0, 1, 2, ... for axes that are not named here."""

    def __getitem__(self, quantity: str) -> Tensor:
        if not isinstance(quantity, str):
            raise InputError(
                f"A reading is looked up by quantity ({', '.join(self.quantities)}), not by {quantity!r}; "
                "index the tensor of a quantity instead."
            )
        if quantity not in self.quantities:
            raise InputError(f"This reading has no quantity {quantity!r}; it has {', '.join(self.quantities)}.")
        return self.quantities[quantity]

    @property
    def values(self) -> Tensor:
        """The tensor of a reading of one quantity.

        Raises:
            InputError: there are several.
        """
        if len(self.quantities) != 1:
            names = ", ".join(map(repr, self.quantities))
            raise InputError(f"This reading has several quantities; choose one by reading[...] from {names}.")
        return next(iter(self.quantities.values()))

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        return tuple(next(iter(self.quantities.values())).shape)

    def along(self, axis: str) -> Sequence[Any]:
        """What stands along an axis."""
        return self.coordinates.get(axis, range(self.shape[self.axes.index(self._known(axis))]))

    def frame(self) -> pd.DataFrame:
        """A row per entry that is not padding, with a column for each axis, quantity and count.

        Units are in `frame.attrs["units"]`.
        """
        import pandas as pd

        index = pd.MultiIndex.from_product([self.along(axis) for axis in self.axes], names=list(self.axes))
        parts = {**self.quantities, **{name: count.expand(self.shape) for name, count in self.counts.items()}}
        columns = {
            name: (part.double() if part.is_floating_point() else part).flatten().numpy()
            for name, part in parts.items()
        }
        table = pd.DataFrame(columns, index=index).reset_index()
        padded = [name for name, part in self.quantities.items() if name not in self.terms and part.is_floating_point()]
        table = table.dropna(subset=padded, how="all", ignore_index=True) if padded else table
        table.attrs["units"] = dict(self.units)
        return table

    def mean(self, *axes: str) -> Reading:
        """The mean over some axes. Means are weighted by their numbers of terms, so every term has equal weight.

        Padding (NaN) is ignored.
        """
        dims = [self.axes.index(self._known(axis)) for axis in axes]
        left = [dim for dim in range(len(self.axes)) if dim not in dims]
        if not axes or not left:
            raise InputError(f"Name the axes to average over, but not all of {', '.join(self.axes)}.")

        def kept(values: Tensor) -> Tensor:
            return values.reshape([values.shape[dim] for dim in left])

        means, counts = {}, {name: kept(count.sum(dims, keepdim=True)) for name, count in self.counts.items()}
        for name, values in self.quantities.items():
            count = self.counts.get(self.terms.get(name, ""), torch.ones((1,) * values.ndim))
            weight = count.double().expand(values.shape) * ~values.isnan()
            total = torch.where(weight > 0, values.double() * weight, 0).sum(dims)
            means[name] = total / weight.sum(dims)
        coordinates = {axis: where for axis, where in self.coordinates.items() if axis not in axes}
        names = tuple(self.axes[dim] for dim in left)
        return replace(self, axes=names, quantities=means, counts=counts, coordinates=coordinates)

    def _known(self, axis: str) -> str:
        if axis not in self.axes:
            raise InputError(f"This reading has no axis {axis!r}; it has {', '.join(self.axes)}.")
        return axis

    def __repr__(self) -> str:
        sizes = ", ".join(f"{axis} {size}" for axis, size in zip(self.axes, self.shape, strict=True))
        named = ", ".join(f"{name} ({self.units[name]})" for name in self.quantities)
        return f"Reading({named}; {sizes})"

    def _repr_html_(self) -> str:
        rows = [(name, self.units[name], shown(values)) for name, values in self.quantities.items()]
        return card("Reading", f"over {', '.join(self.axes)}", rows, ("quantity", "unit", "shape, smallest to largest"))


def joined(parts: Sequence[Reading], order: Int[Tensor, " row"]) -> Reading:
    """Readings of several batches as one, on the CPU, with the rows of the first axis in this order."""

    def along_rows(tensors: Iterable[Tensor]) -> Tensor:
        return torch.cat(_as_wide(list(tensors)))[order]

    first = parts[0]
    quantities = {name: along_rows(part.quantities[name] for part in parts) for name in first.quantities}
    counts = {name: along_rows(part.counts[name] for part in parts) for name in first.counts}
    return replace(first, quantities=quantities, counts=counts)


def _as_wide(parts: list[Tensor]) -> list[Tensor]:
    """Readings with position axes, padded from their batch's longest prompt to the longest of all."""
    widest = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
    if all(list(part.shape[1:]) == widest for part in parts):
        return parts
    filled = [part.new_full((len(part), *widest), nan if part.is_floating_point() else 0) for part in parts]
    for whole, part in zip(filled, parts, strict=True):
        whole[tuple(slice(size) for size in part.shape)] = part
    return filled


def without_padding(reading: Reading, lengths: Int[Tensor, " row"]) -> Reading:
    """The reading with NaN at positions after a row's last token; `lengths` are in tokens.

    A quantity of whole numbers, such as ranks, with an axis of positions becomes one of floating point.
    """
    beyond, along_positions = torch.zeros(reading.shape, dtype=torch.bool), False
    for dim, axis in enumerate(reading.axes):
        if axis in _POSITIONS and axis not in reading.coordinates:
            along_positions = True
            place = torch.arange(reading.shape[dim]) >= lengths[:, None]
            beyond |= place.reshape(len(lengths), *(-1 if other == dim else 1 for other in range(1, len(reading.axes))))
    if not along_positions:
        return reading
    floating = {name: values if values.is_floating_point() else values.double()
                for name, values in reading.quantities.items()}  # fmt: skip
    return replace(reading, quantities={name: values.masked_fill(beyond, nan) for name, values in floating.items()})


def by_name(values: Float[Tensor, "*axes quantity"], names: Sequence[str]) -> dict[str, Float[Tensor, "*axes"]]:
    """The quantities along a last axis by name, with one transfer to the CPU for all."""
    return dict(zip(names, values.cpu().unbind(-1), strict=True))


def mean_of(sums: Float[Tensor, "*axes"], n: Tensor) -> Float[Tensor, "*axes"]:
    """Sums divided by their numbers of terms (whose axes are the sums' first), in float64 on the CPU; NaN for none."""
    sums, n = sums.cpu().double(), n.cpu()
    return sums / n.double().reshape(*n.shape, *(1,) * (sums.ndim - n.ndim))


def reading_of(
    name: str, axes: tuple[str, ...], units: Mapping[str, str], terms: Mapping[str, str],
    result: Tensor | Mapping[str, Tensor], coordinates: Mapping[str, Sequence[Any]], rows: int,
) -> Reading:  # fmt: skip
    """A probe's result for a batch of `rows` prompts, on the CPU, checked against the probe's declaration.

    Raises:
        InputError: names, axes or sizes differ from those declared; the message says what was expected.
    """
    expected = {*units, *terms.values()}
    given = {next(iter(units)): result} if isinstance(result, Tensor) and len(expected) == 1 else result
    if not isinstance(given, Mapping) or set(given) != expected:
        what = sorted(given) if isinstance(given, Mapping) else f"a {type(given).__name__}"
        raise InputError(
            f"{name} declares the quantities {', '.join(sorted(expected))}, and its result is {what}; return a tensor "
            "for each by name, or a single tensor where there is one."
        )
    values = {key: value.detach().cpu() if isinstance(value, Tensor) else value for key, value in given.items()}
    sizes = (rows, *getattr(values[next(iter(units))], "shape", ())[1:])
    for key in (*units, *terms.values()):
        value = values[key]
        if not isinstance(value, Tensor) or not _is_over(value, sizes, len(axes), a_count=key not in units):
            got = f"shape {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise InputError(
                f"{name} declares the axes {', '.join(axes)} and read {rows} {axes[0]}s, but its {key} is {got}; for "
                f"every quantity return a tensor [{' '.join(axes)}], or declare the axes that it has (axes = (...))."
            )
    counts = {key: values[key].reshape(*values[key].shape, *(1,) * (len(axes) - values[key].ndim))
              for key in dict.fromkeys(terms.values())}  # fmt: skip
    of_axis = dict(zip(axes, sizes, strict=True))
    for axis, entries in coordinates.items():
        if of_axis.get(axis) != len(entries):
            shape = ", ".join(f"{known} {size}" for known, size in of_axis.items())
            raise InputError(f"{name} has {len(entries)} coordinates along {axis}, but its axes are {shape}.")
    return Reading(axes, {key: values[key] for key in units}, units, terms, counts, coordinates)


def _is_over(value: Tensor, sizes: tuple[int, ...], n_axes: int, a_count: bool) -> bool:
    """Whether a quantity has the sizes of all axes; a count may have 1 instead, or lack the last axes."""
    shape = tuple(value.shape)
    if not a_count:
        return len(shape) == n_axes and shape == sizes
    pairs = zip(shape[1:], sizes[1:], strict=False)
    return len(shape) <= n_axes and shape[:1] == sizes[:1] and all(size in (1, all_) for size, all_ in pairs)


def first_non_finite(reading: Reading) -> tuple[str, float, str] | None:
    """Quantity, value and place of the first NaN or infinite number, except means over no terms."""
    for name, values in reading.quantities.items():
        bad = ~values.isfinite()
        if name in reading.terms:
            bad &= reading.counts[reading.terms[name]].expand(values.shape) > 0
        if bad.any():
            where = dict(zip(reading.axes[1:], bad.nonzero()[0].tolist()[1:], strict=True))
            place = ", ".join(f"{axis} {reading.along(axis)[index]}" for axis, index in where.items())
            return name, float(values[tuple(bad.nonzero()[0])]), place
    return None
