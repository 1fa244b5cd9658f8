"""Rows of local data files, one reader per kind of file, each saying where a row stood."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mechicl.errors import InputError, one_sentence
from mechicl.files.json_files import kind_of, parse_json

Rows = Iterator[tuple[str, Mapping[Any, Any]]]
"""Pairs of a place ("reviews.jsonl, line 3") and a row (column to value)."""


def read_rows(path: Path) -> Rows:
    """Rows of a JSONL, CSV, TSV or parquet file, one at a time.

    Raises:
        InputError: The file is missing, of another kind, or not what its name says; names file and line.
    """
    read = READERS.get(path.suffix.lower())
    if read is None:
        raise InputError(f"{path} is not one of the kinds that can be read: {', '.join(READERS)}.")
    with one_sentence(path):
        yield from read(path)


def _json_lines(path: Path) -> Rows:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            row = parse_json(line, where, remedy="correct that line", lenient=True)  # columns are checked in use
            if not isinstance(row, dict):
                raise InputError(f"{where} holds {kind_of(row)}; expected one object with named columns a line.")
            yield where, row


def _separated(delimiter: str) -> Callable[[Path], Rows]:
    def read(path: Path) -> Rows:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter=delimiter, strict=True)
            try:
                for row in reader:
                    where = f"{path}, line {reader.line_num}"
                    if None in row or None in row.values():
                        columns = len(reader.fieldnames or ())
                        raise InputError(f"{where}: the row does not have the {columns} columns of the first line.")
                    yield where, row
            except csv.Error as error:
                raise InputError(f"{path}, after line {reader.line_num}: not readable as a table ({error}).") from None

    return read


def _parquet(path: Path) -> Rows:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    yield f"{path}, row {number}", row
                    number += 1
    except ArrowException as error:
        raise InputError(f"{path} is not a parquet file ({str(error).splitlines()[0]}).") from None


READERS: dict[str, Callable[[Path], Rows]] = {
    ".jsonl": _json_lines,
    ".csv": _separated(","),
    ".tsv": _separated("\t"),
    ".parquet": _parquet,
}
