"""Check a measured table before it is stored: sequences in order, all values finite."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from mechicl.errors import OUT_OF_MEMORY, InputError, NumericalError, out_of_memory


def next_checked(
    tables: Iterator[pd.DataFrame], study: str, facts: Mapping[str, Any], may_lack: Collection[str]
) -> pd.DataFrame:
    """The next table, with sequences in order; `facts` identify its cell.

    Raises:
        NumericalError: a value is not finite; the message names the study and the cell.
        InputError: the memory ran out.
    """
    named = {name: value for name, value in facts.items() if value not in (None, "")}
    where = ", ".join([study, *(f"{name} {value}" for name, value in named.items())])
    try:
        rows = next(tables)
    except NumericalError as error:
        raise NumericalError(f"{where}: {error}") from error
    except (MemoryError, RuntimeError) as error:
        if out_of_memory(error):
            raise InputError(OUT_OF_MEMORY) from error
        raise
    numbers = rows.select_dtypes("number").drop(columns=list(may_lack), errors="ignore")
    for column in numbers:
        bad = ~np.isfinite(numbers[column].to_numpy(float))
        if bad.any():
            row = rows[bad].iloc[0]
            names = [name for name in ("prompt", "sequence", "layer", "head", "point") if name in row]
            place = ", ".join(f"{name} {row[name]}" for name in names) or "its first row"
            raise NumericalError(
                f"{where}: {column} is {row[column]} at {place}; try dtype='float32', or leave that text out."
            )
    # Batches are sorted by length; rows must not be, or bootstrap draws would depend on the batch size.
    return rows.sort_values("sequence", kind="stable", ignore_index=True) if "sequence" in rows else rows
