"""Whether two tables of a study hold the same numbers, up to rounding in float32."""

from __future__ import annotations

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

RELATIVE, OF_LARGEST = 1e-5, 1e-6
"""What two ways of computing the same may differ by: of a number, or of the largest in its column."""


def deviations(ours: pd.DataFrame, theirs: pd.DataFrame) -> dict[str, float]:
    """The largest deviation in each column of numbers, as a multiple of what is allowed; other columns are equal."""
    assert list(ours.columns) == list(theirs.columns)
    assert len(ours) == len(theirs)
    found = {}
    for name in ours:
        one, other = ours[name].to_numpy(), theirs[name].to_numpy()
        if any(isinstance(cell, np.ndarray | list) for cell in other):
            one, other = (
                np.concatenate([np.ravel([] if cell is None else cell) for cell in column]) for column in (one, other)
            )
            assert len(one) == len(other), name
            if other.dtype.kind in "OU":
                assert list(one) == list(other), f"column {name} differs"
                continue
        elif not is_numeric_dtype(theirs[name]) or theirs[name].dtype == bool:
            assert list(map(str, one)) == list(map(str, other)), f"column {name} differs"
            continue
        one, other = one.astype(float), other.astype(float)
        assert (np.isfinite(one) == np.isfinite(other)).all(), name
        held = np.isfinite(other)
        if held.any():
            allowed = np.maximum(RELATIVE * np.abs(other[held]), OF_LARGEST * np.abs(other[held]).max())
            found[name] = float((np.abs(one[held] - other[held]) / np.maximum(allowed, 1e-300)).max())
    return found


def assert_same_tables(ours: pd.DataFrame, theirs: pd.DataFrame, times: float = 1.0) -> None:
    """Raise AssertionError for columns that differ by more than rounding, or `times` as much."""
    far = {name: factor for name, factor in deviations(ours, theirs).items() if factor > times}
    assert not far, f"times what is allowed: {far}"
