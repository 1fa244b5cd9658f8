"""What a user may give as a task's data, as a Source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mechicl.errors import InputError
from mechicl.tasks.examples import Source
from mechicl.tasks.files import FileSource
from mechicl.tasks.rows import RowsSource

Row = Mapping[str, Any]
Data = Source | str | Path | list[Row] | tuple[Row, ...] | Mapping[str, Sequence[Row]]


def as_source(data: Data | None, task: str) -> Source:
    """A path becomes a FileSource, rows or ``{"train": rows, "test": rows}`` a RowsSource, a Source stays.

    Raises:
        InputError: There is no data, or something else than these.
    """
    if data is None:
        raise InputError(f"The task {task!r} has no data; give it some: load_task(task, data='file or folder').")
    if isinstance(data, str | Path):
        return FileSource(Path(data).expanduser())
    if isinstance(data, Mapping):
        if set(data) != {"train", "test"}:
            raise InputError(f"Rows are given under {', '.join(map(repr, data))}; expected 'train' and 'test'.")
        return RowsSource(data["train"], data["test"])
    if isinstance(data, list | tuple):
        return RowsSource(data)
    if not hasattr(data, "load"):
        kind = type(data).__name__
        raise InputError(f"The data of {task!r} is a {kind}; expected a file, a folder, rows, or a Source.")
    return data
