"""Examples from a local file, or a folder with a file per split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shorten

from mechicl.errors import InputError
from mechicl.files.json_files import read_json
from mechicl.files.rows import READERS, read_rows
from mechicl.tasks.examples import ClassReader, Examples, Splits, read_examples


@dataclass(frozen=True)
class FileSource:
    """A JSONL, CSV, TSV or parquet file with the columns ``text`` and ``label``, or a folder of such files.

    Labels are class names, or numbers where a ``labels.json`` beside the file lists the names in their order.
    In a folder, ``train`` gives the demonstrations and ``test`` or ``validation`` the queries; a single file
    is divided by each seed.
    """

    path: Path

    def load(self, class_names: Sequence[str], query_split: str) -> Splits:
        """Read the file or folder.

        Args:
            query_split: The split of a folder to ask about, if it is there.

        Raises:
            InputError: A file is missing, not readable as what its name says, or not the data of this task;
                the message names file and line.
        """
        if self.path.is_file():
            return Splits(_read(self.path, class_names))
        if not self.path.is_dir():
            raise InputError(f"There is no file or folder {self.path}; give the path of the task's data.")
        files = {stem: _split_file(self.path, stem) for stem in ("train", "test", "validation", "dev")}
        train = files["train"]
        wanted = [query_split, "test", "validation", "dev"]
        queries = next((files[stem] for stem in wanted if files.get(stem)), None)
        if train is None:
            raise InputError(
                f"The folder {self.path} has no train file; expected train{' or train'.join(READERS)}, and "
                "test or validation beside it."
            )
        return Splits(_read(train, class_names), _read(queries, class_names) if queries else None)


def _split_file(folder: Path, stem: str) -> Path | None:
    found = [folder / (stem + suffix) for suffix in READERS if (folder / (stem + suffix)).is_file()]
    if len(found) > 1:
        raise InputError(f"The folder {folder} has {' and '.join(f.name for f in found)}; keep one of them.")
    return found[0] if found else None


def _read(path: Path, class_names: Sequence[str]) -> Examples:
    id_names, aliases = _label_names(path.parent / "labels.json")
    return read_examples(read_rows(path), ClassReader(class_names, id_names, aliases), str(path))


def _label_names(path: Path) -> tuple[list[str] | None, dict[str, str]]:
    """Class names in the order of their numbers (a list, or "names" in an object), and their long forms."""
    if not path.is_file():
        return None, {}
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
