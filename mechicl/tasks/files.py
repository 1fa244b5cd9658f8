"""Examples from a local file, or from a folder with one file per split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from reprlib import repr as shorten

from mechicl.errors import InputError
from mechicl.files.json_files import read_json
from mechicl.files.rows import READERS, is_saved, read_rows
from mechicl.files.splits import split_files
from mechicl.tasks.examples import ClassReader, Examples, Splits, read_examples

_HELD_OUT = ("test", "validation", "val", "valid", "dev")


@dataclass(frozen=True)
class FileSource:
    """A JSONL, JSON, CSV, TSV, Parquet or Arrow file, a folder of such files, or the output of `Dataset.save_to_disk`.

    Labels are class names, or numbers named by the file itself (`ClassLabel`) or by a ``labels.json`` next to it, which
    lists the names in order. In a folder, ``train`` gives the demonstrations and ``test`` or ``validation`` the queries
    (:func:`~mechicl.files.splits.split_files`); each seed splits a single file.
    """

    path: Path
    columns: Mapping[str, str] = field(default_factory=dict)
    """The columns of ``text`` and ``label``; the usual ones are known."""
    origin: str = ""
    """A description of the data, if not its path."""

    def __post_init__(self) -> None:
        if not isinstance(self.path, str | Path):
            raise InputError(f"The path of a FileSource is {shorten(self.path)}; expected a file or a folder.")
        object.__setattr__(self, "path", Path(self.path).expanduser())

    def load(self, class_names: Sequence[str], query_split: str) -> Splits:
        """Read the file or folder.

        Args:
            query_split: The split of a folder to ask about; if a folder lacks a test, validation or dev split, another
                of these serves.

        Raises:
            InputError: A file is missing, does not match its suffix, or is not data of this task; the message names
                file and line.
        """
        if self.path.is_file() or is_saved(self.path):
            return Splits(self._read([self.path], class_names))
        if not self.path.is_dir():
            raise InputError(f"There is no file or folder {self.path}; give the path of the task's data.")
        train = split_files(self.path, "train")
        if not train:
            raise InputError(
                f"The folder {self.path} has no train file; expected train{' or train'.join(READERS)}, and "
                "test or validation next to it."
            )
        if query_split not in _HELD_OUT and not split_files(self.path, query_split):
            raise InputError(
                f"The folder {self.path} has no {query_split} file to ask about; give its name as query_split, or "
                "train to split the train file in two."
            )
        held_out = (split_files(self.path, split) for split in (query_split, *_HELD_OUT))
        queries = next(filter(None, held_out), None)
        queried = self._read(queries, class_names, query_split) if queries else None
        return Splits(self._read(train, class_names), queried)

    def _read(self, files: Sequence[Path], class_names: Sequence[str], split: str = "train") -> Examples:
        lists = [path for path in (files[0].parent / "labels.json", self.path / "labels.json") if path.is_file()]
        reader = ClassReader(class_names, *_label_names(lists[0])) if lists else ClassReader(class_names)
        origin = str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
        origin = f"{self.origin}, {split}" if self.origin else origin
        return read_examples(chain.from_iterable(map(read_rows, files)), reader, origin, self.columns)


def _label_names(path: Path) -> tuple[list[str], dict[str, str]]:
    """Class names in the order of their numbers (a list, or "names" in an object), and their long forms."""
    content = read_json(path, "file of class names", remedy='expected a list, such as ["negative", "positive"]')
    lists = content if isinstance(content, dict) else {"names": content}
    names, long = lists.get("names"), lists.get("long", [])
    for value in (names, long):
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise InputError(
                f'{path} holds {shorten(content)}; expected class names, such as ["negative", "positive"].'
            )
    assert isinstance(names, list)
    return names, dict(zip(long, names, strict=False))
