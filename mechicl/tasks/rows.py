"""Examples given in code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from reprlib import repr as shorten
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
    columns: Mapping[str, str] = field(default_factory=dict)
    """The columns of ``text`` and ``label``; the usual ones are known."""

    def load(self, class_names: Sequence[str], query_split: str) -> Splits:
        """Read the rows; InputError where one is not a mapping with a text and a class name."""
        train = self._read(
            self.demonstrations, class_names, "the rows given" if self.queries is None else "the train rows"
        )
        return Splits(train, None if self.queries is None else self._read(self.queries, class_names, "the test rows"))

    def _read(self, rows: Sequence[Row], class_names: Sequence[str], origin: str) -> Examples:
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
