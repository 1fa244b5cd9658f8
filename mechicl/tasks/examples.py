"""Labelled texts, and how a label written in some data becomes a class of the task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from reprlib import repr as shorten
from typing import Any, Protocol

from mechicl.errors import InputError, check_unicode


@dataclass(frozen=True, eq=False)
class Examples:
    """Texts and their classes, None where a class is not known."""

    texts: tuple[str, ...]
    classes: tuple[int | None, ...]
    rows: tuple[int, ...]
    """Where each text stood in its data, counted from 0."""
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
        """The examples at these indices; they keep their rows."""
        chosen = list(indices)
        return replace(
            self,
            texts=tuple(self.texts[i] for i in chosen),
            classes=tuple(self.classes[i] for i in chosen),
            rows=tuple(self.rows[i] for i in chosen),
        )

    def at_rows(self, rows: Iterable[int]) -> list[int]:
        """Indices of the examples that stand in these rows; InputError where there is none."""
        place = {row: i for i, row in enumerate(self.rows)}
        wanted = list(rows)
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

    Without the second, each seed divides the first in two.
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
    """Turns labels as data writes them into class indices, by name and never by an unnamed number."""

    class_names: Sequence[str]
    id_names: Sequence[str] | None = None
    """The class name behind each integer label, where the data has such a list."""
    aliases: Mapping[str, str] | None = None
    """Other names, such as long forms."""

    def read(self, label: Any, where: str) -> int | None:
        """The class of a label; None for a missing label or -1, the mark of unlabelled data.

        Args:
            where: File and line, for the message.

        Raises:
            InputError: The label is no class of the task, or a number that no list gives a name.
        """
        if label is None or label == -1 or label == "-1" or (isinstance(label, float) and label != label):
            return None
        number = _as_integer(label)
        if number is not None:
            if self.id_names is None:
                raise InputError(
                    f"{where}: the label is the number {number}, and nothing says which class that is; write "
                    f"class names ({self._known()}) or add a labels.json with the list of names in the order "
                    "of the numbers."
                )
            if not 0 <= number < len(self.id_names):
                raise InputError(
                    f"{where}: the label is {number}, but the data names only {len(self.id_names)} classes: "
                    f"{', '.join(self.id_names)}."
                )
            label = self.id_names[number]
        found = self._find(label) if isinstance(label, str) else None
        if found is None:
            said = repr(label) if len(repr(label)) < _LONG else f"{repr(label)[:_LONG]} ..."
            raise InputError(f"{where}: the label {said} is not a class of this task ({self._known()}).")
        return found

    def _find(self, name: str) -> int | None:
        """By exact name, else by the one name that is equal but for case and surrounding space."""
        if name in self.class_names:
            return list(self.class_names).index(name)
        names = [*enumerate(self.class_names)]
        for alias, meant in (self.aliases or {}).items():
            names += [(i, alias) for i, own in enumerate(self.class_names) if own == meant]
        alike = {i for i, own in names if own.strip().casefold() == name.strip().casefold()}
        return alike.pop() if len(alike) == 1 else None

    def _known(self) -> str:
        return ", ".join(self.class_names)


_LONG = 80
"""Characters of a label that are shown."""
_BEYOND = 10**9
"""No data have so many classes: larger numbers are no numbers of classes, however many digits they have."""


def _as_integer(label: Any) -> int | None:
    if isinstance(label, bool):
        return int(label)
    if isinstance(label, int) or (isinstance(label, float) and label.is_integer()):
        return int(label) if abs(label) < _BEYOND else None
    digits = label.strip() if isinstance(label, str) else ""
    return int(digits) if digits.isdecimal() and len(digits) < len(str(_BEYOND)) else None


def read_examples(
    rows: Iterable[tuple[str, Mapping[Any, Any]]],
    reader: ClassReader,
    origin: str,
    *,
    text: str = "text",
    label: str = "label",
) -> Examples:
    """Examples from (place, row) pairs.

    Raises:
        InputError: There are no rows, a row lacks a column, a text is not a text or holds half of a character, or a
            label is unknown.
    """
    texts: list[str] = []
    classes: list[int | None] = []
    for where, row in rows:
        missing = [column for column in (text, label) if column not in row]
        if missing:
            raise InputError(
                f"{where}: there is no column {' and no column '.join(map(repr, missing))} (there are: "
                f"{', '.join(map(str, row)) or 'none'}); a task needs {text!r} and {label!r}."
            )
        if not isinstance(row[text], str):
            raise InputError(
                f"{where}: the text is {shorten(row[text])}, expected a string; fill it in or remove the row."
            )
        check_unicode(row[text], f"{where}: the text")
        texts.append(row[text])
        classes.append(reader.read(row[label], where))
    if not texts:
        raise InputError(f"There are no examples in {origin}; expected rows with {text!r} and {label!r}.")
    return Examples(tuple(texts), tuple(classes), tuple(range(len(texts))), origin)
