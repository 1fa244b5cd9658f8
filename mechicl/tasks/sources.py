"""Accepted forms of a task's data: files, rows, or a user-defined source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from reprlib import repr as shorten
from typing import Any

from mechicl.errors import InputError
from mechicl.tasks.examples import ClassReader, Examples, Source, Splits, read_examples
from mechicl.tasks.files import FileSource
from mechicl.tasks.hub import HubSource

Row = Mapping[str, Any]
Data = Source | str | Path | list[Row] | tuple[Row, ...] | Mapping[str, Sequence[Row]]


@dataclass(frozen=True, eq=False)
class RowsSource:
    """Rows such as ``{"text": "fine film", "label": "positive"}``.

    Given one list, each seed splits it into demonstrations and queries; given a second, queries come from that.
    """

    demonstrations: Sequence[Row]
    queries: Sequence[Row] | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    """The columns of ``text`` and ``label``; the usual ones are known."""
    place: str = ""
    """The container of the rows, for messages: "the task file jokes.json"."""

    def load(self, class_names: Sequence[str], query_split: str) -> Splits:
        """Read the rows; InputError if one is not a mapping with a text and a class name."""
        if self.queries is None:
            return Splits(self._read(self.demonstrations, class_names, "the rows given"))
        train = self._read(self.demonstrations, class_names, "the train rows")
        return Splits(train, self._read(self.queries, class_names, "the test rows"))

    def _read(self, rows: Sequence[Row], class_names: Sequence[str], origin: str) -> Examples:
        origin = f"{origin} in {self.place}" if self.place else origin
        if not isinstance(rows, list | tuple):
            raise InputError(f"Where {origin} should be, there is {shorten(rows)}; expected a list of rows.")
        for i, row in enumerate(rows):
            if not isinstance(row, Mapping):
                raise InputError(
                    f"Row {i} of {origin} is {shorten(row)}; expected a mapping such as "
                    '{"text": "fine film", "label": "positive"}.'
                )
        places = ((f"Row {i} of {origin}", row) for i, row in enumerate(rows))
        return read_examples(places, ClassReader(class_names), origin, self.columns)


def as_source(data: Data | None, task: str, columns: Mapping[str, str]) -> Source:
    """A path becomes a FileSource; rows, or ``{"train": rows, "test": rows}``, a RowsSource; a Source is unchanged.

    Args:
        columns: The columns of ``text`` and ``label``; they replace those of a Source.

    Raises:
        InputError: There is no data, or data of another kind.
    """
    source: Any = data
    if isinstance(data, str | Path):
        source = FileSource(Path(data))
    elif isinstance(data, list | tuple):
        source = RowsSource(data)
    elif isinstance(data, Mapping):
        if set(data) != {"train", "test"}:
            raise InputError(f"Rows are given under {', '.join(map(repr, data))}; expected 'train' and 'test'.")
        source = RowsSource(data["train"], data["test"])
    if source is None:
        raise InputError(f"The task {task!r} has no data; give it some: load_task(task, data='file or folder').")
    if not hasattr(source, "load") or isinstance(source, type):
        kind = type(data).__name__
        raise InputError(f"The data of {task!r} is a {kind}; expected a file, a folder, rows, or a Source.")
    if not columns:
        return source  # type: ignore[no-any-return]
    if not isinstance(source, FileSource | RowsSource | HubSource):
        raise InputError(f"The data of {task!r} is a {type(data).__name__}, which chooses its columns itself.")
    return replace(source, columns=columns)
