"""Labelled texts, and the mapping from a label in some data to a class of the task."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from operator import index
from reprlib import repr as shorten
from typing import Any, Protocol

import numpy as np

from mechicl.errors import InputError, check_unicode


@dataclass(frozen=True, eq=False)
class Examples:
    """Texts and their classes; None if a class is unknown."""

    texts: tuple[str, ...]
    classes: tuple[int | None, ...]
    rows: tuple[int, ...]
    """Row of each text in its data, counted from 0."""
    origin: str
    """The data in words: a file, a hub id."""

    def __len__(self) -> int:
        return len(self.texts)

    def __repr__(self) -> str:
        return f"Examples({len(self)} from {self.origin})"

    def of_class(self, label_class: int) -> list[int]:
        """Indices of the examples of one class."""
        return [i for i, c in enumerate(self.classes) if c == label_class]

    def select(self, indices: Iterable[int]) -> Examples:
        """The examples at these indices, with their row numbers."""
        chosen = list(indices)
        return replace(
            self,
            texts=tuple(self.texts[i] for i in chosen),
            classes=tuple(self.classes[i] for i in chosen),
            rows=tuple(self.rows[i] for i in chosen),
        )

    def at_rows(self, rows: Iterable[int]) -> list[int]:
        """Indices of the examples in these rows; InputError if there is none."""
        place = {row: i for i, row in enumerate(self.rows)}
        try:
            wanted = [index(row) for row in rows]
        except TypeError:
            raise InputError(f"rows is {shorten(rows)}; expected numbers of rows, counted from 0.") from None
        absent = [row for row in wanted if row not in place]
        if absent:
            raise InputError(f"Rows {absent[:5]} are not among the {len(self)} examples of {self.origin}.")
        return [place[row] for row in wanted]

    def digest(self) -> str:
        """SHA-256 of texts and classes."""
        digest = sha256()
        for text, label_class in zip(self.texts, self.classes, strict=True):
            digest.update(f"{label_class}\x00{len(text)}\x00{text}".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Splits:
    """Examples to draw demonstrations from and examples to ask about.

    Without the second, each seed splits the first in two.
    """

    demonstrations: Examples
    queries: Examples | None = None


class Source(Protocol):
    """Where a task's examples come from."""

    def load(self, class_names: Sequence[str], query_split: str) -> Splits:
        """Read the examples; classes are indices into ``class_names``."""
        ...


@dataclass(frozen=True)
class ClassReader:
    """Turns labels as written in data into class indices: by name, and never by a number without a name.

    A label has the same class in every kind of file: ``True``, ``true`` and ``"True"`` are one label, and so are
    ``1``, ``1.0`` and ``"1"``.
    """

    class_names: Sequence[str]
    id_names: Sequence[str] = ()
    """The class name of each integer label, if the data has such a list."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Other names, such as long forms."""

    def read(self, label: Any, where: str) -> int | None:
        """The class of a label; None for a missing label: an empty one, or -1 unless a class has that name.

        Args:
            where: File and line, for the message.

        Raises:
            InputError: The label is not a class of the task, is a number without a name, or is a number that names one
                class but belongs to another in the list.
        """
        if label is None or (isinstance(label, float | np.floating) and label != label):
            return None
        text = str(label) if isinstance(label, str | int | float | np.generic) else None
        by_name = None if text is None else self._find(text)
        number = self._number(text or "", by_name)
        by_number = self._find(self.id_names[number]) if number is not None and number < len(self.id_names) else None
        if by_name is not None and by_number not in (None, by_name):
            raise InputError(
                f"{where}: the label {shorten(label)} is the name of a class, and labels.json makes it the number of "
                f"the class {self.class_names[by_number or 0]!r}; remove labels.json, or write names."
            )
        if by_name is None and by_number is None and (text is None or _plain(text) not in ("", "-1")):
            raise InputError(f"{where}: {self._unknown(label, number)}")
        return by_number if by_name is None else by_name

    def _number(self, text: str, by_name: int | None) -> int | None:
        """A label as a number: true and false only if they are not class names."""
        plain = _plain(text)
        if by_name is None:
            plain = {"false": "0", "true": "1"}.get(plain, plain)
        return int(plain) if re.fullmatch(r"\d{1,9}", plain) else None

    def _find(self, name: str) -> int | None:
        """The class by exact name, else by the only name equal up to case, surrounding space and a number's zeros."""
        if name in self.class_names:
            return list(self.class_names).index(name)
        names = [*enumerate(self.class_names)]
        for alias, meant in self.aliases.items():
            names += [(i, alias) for i, known in enumerate(self.class_names) if known == meant]
        alike = {i for i, known in names if _plain(known) == _plain(name)}
        return alike.pop() if len(alike) == 1 else None

    def _unknown(self, label: Any, number: int | None) -> str:
        known = ", ".join(self.class_names)
        if number is not None and not self.id_names:
            return (
                f"the label is the number {number}, and nothing says which class that is; write class names ({known}) "
                "or add a labels.json with the list of names in the order of the numbers."
            )
        if number is not None and number >= len(self.id_names):
            names = ", ".join(self.id_names)
            return f"the label is {number}, but the data names only {len(self.id_names)} classes: {names}."
        written = repr(label if number is None else self.id_names[number])
        written = written if len(written) < _LONG else f"{written[:_LONG]} ..."
        return f"the label {written} is not a class of this task ({known})."


_LONG = 80
"""Number of characters of a label that are shown."""


def _plain(name: str) -> str:
    """A name without differences between file formats: case, surrounding space, the zeros of a whole number."""
    name = name.strip().casefold()
    whole = re.fullmatch(r"([+-]?\d{1,9})(?:\.0*)?", name)
    return str(int(whole[1])) if whole else name


_USUAL = {
    "text": ("text", "sentence", "content", "review", "question"),
    "label": ("label", "labels", "label-coarse", "coarse_label", "sentiment", "category"),
}
"""Usual names of columns in data sets, by content; the first takes precedence."""


def find_columns(row: Mapping[Any, Any], columns: Mapping[str, str], where: str) -> tuple[Any, Any]:
    """The columns of text and label, as given in ``columns`` or, if it names none, by the usual names.

    Raises:
        InputError: There is no such column, or there are several.
    """
    chosen = []
    for what, usual in _USUAL.items():
        there = {str(c).strip().casefold() for c in row}
        wanted = (columns[what],) if what in columns else usual[:1] if usual[0] in there else usual
        fitting = [c for c in row if c in wanted] or [c for c in row if str(c).strip().casefold() in wanted]
        if len(fitting) != 1:
            wrong = (
                f"both {fitting[0]!r} and {fitting[1]!r} may be the {what}"
                if fitting
                else f"there is no column {wanted[0]!r}"
            )
            raise InputError(
                f"{where}: {wrong} (there are: {', '.join(map(str, row)) or 'none'}); name the columns: "
                "columns={'text': ..., 'label': ...}, or --columns text=...,label=...."
            )
        chosen += fitting
    return chosen[0], chosen[1]


def read_examples(
    rows: Iterable[tuple[str, Mapping[Any, Any]]], reader: ClassReader, origin: str, columns: Mapping[str, str]
) -> Examples:
    """Examples from (place, row) pairs.

    Raises:
        InputError: There are no rows, every text is empty, a row lacks a column, a text is not a string or has a lone
            surrogate, or a label is unknown.
    """
    texts: list[str] = []
    classes: list[int | None] = []
    pair: tuple[Any, Any] | None = None
    for where, row in rows:
        if pair is None or not set(pair) <= set(row):
            pair = find_columns(row, columns, where)
        text, label = row[pair[0]], row[pair[1]]
        if not isinstance(text, str):
            raise InputError(f"{where}: the text is {shorten(text)}, expected a string; fill it in or remove the row.")
        check_unicode(text, f"{where}: the text")
        texts.append(text)
        classes.append(reader.read(label, where))
    if not texts:
        raise InputError(f"There are no examples in {origin}; expected rows with 'text' and 'label'.")
    if not any(map(str.strip, texts)):
        raise InputError(f"Every text in {origin} is empty; fill them in, or name the column that holds the texts.")
    return Examples(tuple(texts), tuple(classes), tuple(range(len(texts))), origin)
