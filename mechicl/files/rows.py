"""Rows of local data files, each with its place ("reviews.jsonl, line 3").

Python itself reads text files: `datasets` would turn texts that look like dates into dates and labels that look like
numbers into numbers, and it does not report a row's line.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO, cast

from mechicl.errors import InputError, first_line, one_sentence, retold
from mechicl.files.json_files import kind_of, parse_json

Rows = Iterator[tuple[str, Mapping[Any, Any]]]
"""Pairs of a place and a row (column to value)."""

_COMPRESSED = (".gz", ".bz2", ".zst")
_BATCH = 1000


def read_rows(path: Path) -> Rows:
    """Rows of a JSONL, JSON, CSV, TSV, Parquet or Arrow file or of a folder of `Dataset.save_to_disk`, one at a time.

    A JSON file is a list of objects, or one object per line. TSV has no quotes. Text files may be compressed (.gz,
    .bz2, .zst). The numbers of a `ClassLabel` column become the data's class names; -1 becomes None.

    Raises:
        InputError: The file is missing, of another kind, or does not match its suffix; the message names file and line.
    """
    read = _saved if is_saved(path) else READERS.get(file_kind(path))
    if read is None:
        raise InputError(f"{path} is not one of the kinds that can be read: {', '.join(READERS)}.")
    with one_sentence(path):
        yield from read(path)


def dataset_rows(dataset: Any, origin: str) -> Rows:
    """Rows of a `datasets.Dataset`, as :func:`read_rows`."""
    return _decoded(dataset.with_format(None).iter(_BATCH), dataset.features, origin)


def open_text(path: Path, newline: str | None = None) -> TextIO:
    """A UTF-8 text file, with or without a byte order mark, compressed or not; ``newline`` as in :func:`open`."""
    from pyarrow import input_stream

    return TextIOWrapper(cast("Any", input_stream(str(path))), encoding="utf-8-sig", newline=newline)


def file_kind(path: Path) -> str:
    """The suffix that determines the kind of file: ".csv" for reviews.csv and for reviews.csv.gz."""
    return Path(path.stem if path.suffix.lower() in _COMPRESSED else path).suffix.lower()


def is_saved(path: Path) -> bool:
    """Whether `Dataset.save_to_disk` wrote this folder."""
    return (path / "state.json").is_file()


def _json(path: Path) -> Rows:
    with open_text(path) as file:
        first = next((line for line in file if line.strip()), "")
        if first.lstrip().startswith("["):
            # Lone surrogates pass here: texts and labels are checked where they are used.
            rows = parse_json(first + file.read(), str(path), remedy="correct it there", lenient=True)
            yield from (_object(row, f"{path}, row {number}") for number, row in enumerate(rows))
            return
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                where = f"{path}, line {number}"
                yield _object(parse_json(line, where, remedy="correct that line", lenient=True), where)


def _object(value: Any, where: str) -> tuple[str, Mapping[Any, Any]]:
    if not isinstance(value, dict):
        raise InputError(f"{where} holds {kind_of(value)}; expected one object with named columns per row.")
    return where, value


def _separated(path: Path, dialect: Mapping[str, Any]) -> Rows:
    csv.field_size_limit(2**31 - 1)  # a setting of the whole process; the default is 131,072 characters
    with open_text(path, newline="") as file:
        reader, last = csv.reader(file, strict=True, **dialect), 0
        try:
            columns = next(reader, [])
            last = reader.line_num
            _check_columns(columns, f"{path}, line {last}")
            for values in reader:
                last = reader.line_num
                where = f"{path}, line {last}"
                if values and len(values) != len(columns):
                    raise InputError(f"{where}: the row does not have the {len(columns)} columns of the first line.")
                if values:
                    yield where, dict(zip(columns, values, strict=True))
        except csv.Error as error:
            raise InputError(f"{path}, after line {last}: not readable as a table ({error}).") from None


def _table(path: Path) -> Rows:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with pyarrow.memory_map(str(path)) as file:
            if file_kind(path) == ".parquet":
                table = ParquetFile(file)
                schema, batches = table.schema_arrow, table.iter_batches(_BATCH)
            else:
                whole = file.read(6) == b"ARROW1"  # otherwise a stream, which `datasets` writes
                file.seek(0)
                table = pyarrow.ipc.open_file(file) if whole else pyarrow.ipc.open_stream(file)
                schema = table.schema
                batches = (table.get_batch(i) for i in range(table.num_record_batches)) if whole else table
            _check_columns(schema.names, str(path))
            features = {}
            if b"huggingface" in (schema.metadata or {}):
                from datasets import Features

                features = Features.from_arrow_schema(schema)
            yield from _decoded(map(_sound, batches), features, str(path))
    except pyarrow.ArrowException as error:
        raise InputError(f"{path} is no {file_kind(path)[1:]} file ({first_line(error)}).") from None


def _sound(batch: Any) -> dict[str, list[Any]]:
    """Validate a batch of a possibly damaged file: offsets that point outside it would crash the process, not raise."""
    batch.validate(full=True)
    columns: dict[str, list[Any]] = batch.to_pydict()
    return columns


def _saved(path: Path) -> Rows:
    from datasets import load_from_disk

    with retold(lambda error: f"{path} cannot be read by datasets ({first_line(error)})."):
        dataset = load_from_disk(str(path))
    return dataset_rows(dataset, str(path))


def _decoded(batches: Iterable[Mapping[str, list[Any]]], features: Mapping[str, Any] | None, origin: str) -> Rows:
    """Rows of columns, with class names in place of numbers."""
    names = {column: one.names for column, one in (features or {}).items() if type(one).__name__ == "ClassLabel"}
    number = 0
    for batch in batches:
        for values in zip(*batch.values(), strict=True):
            where, row = f"{origin}, row {number}", dict(zip(batch, values, strict=True))
            number += 1
            yield where, row | {column: _class_name(row[column], known, where) for column, known in names.items()}


def _class_name(label: int | None, names: Sequence[str], where: str) -> str | None:
    if label is None or label == -1:
        return None
    if not 0 <= label < len(names):
        raise InputError(
            f"{where}: the label is {label}, but the data names only {len(names)} classes: {', '.join(names)}."
        )
    return names[label]


def _check_columns(columns: Sequence[str], where: str) -> None:
    if twice := [column for column in columns if columns.count(column) > 1]:
        raise InputError(f"{where}: there are {columns.count(twice[0])} columns {twice[0]!r}; keep one of them.")


READERS: dict[str, Callable[[Path], Rows]] = {
    ".jsonl": _json,
    ".json": _json,
    ".csv": partial(_separated, dialect={"delimiter": ","}),
    ".tsv": partial(_separated, dialect={"delimiter": "\t", "quoting": csv.QUOTE_NONE}),
    ".parquet": _table,
    ".arrow": _table,
}
