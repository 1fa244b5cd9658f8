"""What a user may give as a task's data, as a Source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mechicl.errors import InputError
from mechicl.tasks.examples import Source
from mechicl.tasks.files import FileSource
from mechicl.tasks.hub import HubSource
from mechicl.tasks.rows import RowsSource

Row = Mapping[str, Any]
Data = Source | str | Path | list[Row] | tuple[Row, ...] | Mapping[str, Sequence[Row]]


def as_source(data: Data | None, task: str, columns: Mapping[str, str]) -> Source:
    """A path becomes a FileSource, rows or ``{"train": rows, "test": rows}`` a RowsSource, a Source stays.

    Args:
        columns: The columns of ``text`` and ``label``; they take the place of those that a Source has.

    Raises:
        InputError: There is no data, or something else than these.
    """
    if data is None:
        raise InputError(f"The task {task!r} has no data; give it some: load_task(task, data='file or folder').")
    if isinstance(data, str | Path):
        return FileSource(Path(data), columns)
    if isinstance(data, Mapping):
        if set(data) != {"train", "test"}:
            raise InputError(f"Rows are given under {', '.join(map(repr, data))}; expected 'train' and 'test'.")
        return RowsSource(data["train"], data["test"], columns)
    if isinstance(data, list | tuple):
        return RowsSource(data, columns=columns)
    if not hasattr(data, "load") or isinstance(data, type):
        kind = type(data).__name__
        raise InputError(f"The data of {task!r} is a {kind}; expected a file, a folder, rows, or a Source.")
    if not columns:
        return data
    if not isinstance(data, FileSource | RowsSource | HubSource):
        raise InputError(f"The data of {task!r} is a {type(data).__name__}, which chooses its columns itself.")
    return replace(data, columns=columns)
