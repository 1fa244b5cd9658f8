"""Examples given in code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mechicl.errors import InputError
from mechicl.tasks.examples import ClassReader, Examples, Splits, read_examples

Row = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class RowsSource:
    """Rows such as ``{"text": "fine film", "label": "positive"}``.

    Given one list, each seed divides it into demonstrations and queries; given a second, that one is asked
    about.
    """

    demonstrations: Sequence[Row]
    queries: Sequence[Row] | None = None

    def load(self, class_names: Sequence[str], query_split: str) -> Splits:
        """Read the rows; InputError where one is not a mapping with a text and a class name."""
        reader = ClassReader(class_names)
        first = _read(self.demonstrations, reader, "the rows given" if self.queries is None else "the train rows")
        return Splits(first, _read(self.queries, reader, "the test rows") if self.queries is not None else None)


def _read(rows: Sequence[Row], reader: ClassReader, origin: str) -> Examples:
    for i, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise InputError(
                f"Row {i} of {origin} is {row!r}; expected a mapping such as "
                '{"text": "fine film", "label": "positive"}.'
            )
    return read_examples(((f"Row {i} of {origin}", row) for i, row in enumerate(rows)), reader, origin)
