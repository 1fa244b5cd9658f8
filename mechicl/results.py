"""Result: a tidy table and its provenance; stored on disk so that an interrupted run resumes."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pyarrow as pa
import pyarrow.parquet as pq
from pandas.api.types import is_numeric_dtype

from mechicl.claims import Verdicts
from mechicl.display import card
from mechicl.errors import InputError, one_sentence
from mechicl.figures.export import Format, Width, images
from mechicl.files.json_files import read_object
from mechicl.files.writing import check_writable, clear_up, make_folder, write_atomically

_SHOWN = 8
"""Number of rows of a summary in a result's notebook display."""
_COLUMNS = ("model", "metric", "mean", "low", "high", "n")
"""Columns that every summary has."""
_KEY, _ARRAYS = b"mechicl key", b"mechicl arrays"
"""Metadata of a parquet file: its cell's key, and which columns hold arrays."""


class Explains(Protocol):
    """What a result needs of the study that made it."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def claim(self) -> str: ...
    @property
    def protocol(self) -> str: ...
    def summary(self, table: pd.DataFrame) -> pd.DataFrame: ...
    def figure(self, result: Any) -> go.Figure: ...
    def tables(self, result: Any) -> dict[str, pd.DataFrame]: ...
    def finding(self, result: Any) -> str: ...
    def details(self, result: Any) -> list[str]: ...
    def remarks(self, result: Any, rows: pd.DataFrame) -> list[str]: ...
    def verdicts(self, result: Any) -> Verdicts: ...
    def save_more(self, result: Any, folder: Path) -> None: ...


@dataclass(frozen=True)
class Result:
    """What a study measured: one row per observation, and the provenance of every number."""

    study: Explains
    table: pd.DataFrame
    provenance: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.study.name

    @cached_property
    def _summary(self) -> pd.DataFrame:
        summary = self.study.summary(self.table)
        if not isinstance(summary, pd.DataFrame):
            raise InputError(f"The summary of {self.name} is a {type(summary).__name__}; give a table.")
        if lacking := [name for name in _COLUMNS if name not in summary]:
            said = f"column{'s' * (len(lacking) > 1)} {', '.join(lacking)}"
            raise InputError(f"The summary of {self.name} lacks the {said}; give it {', '.join(_COLUMNS)}.")
        if words := [name for name in ("mean", "low", "high", "n") if not is_numeric_dtype(summary[name])]:
            raise InputError(f"The summary of {self.name} has words in {', '.join(words)}; give numbers, or NaN.")
        if summary.empty:
            raise InputError(f"The summary of {self.name} has no row; give it one per point of the figure.")
        return summary

    def summary(self) -> pd.DataFrame:
        """Figure data: a row per point, with model, metric, mean, low, high and n.

        Raises:
            InputError: the summary has no row or lacks one of these columns, or mean, low or high are not numbers.
        """
        return self._summary.copy()

    @cached_property
    def claims(self) -> Verdicts:
        """The verdicts on the paper's claims, on each model and task: supported, contradicted or undecided."""
        return self.study.verdicts(self)

    def figure(self) -> go.Figure:
        """The paper's figure for these measurements."""
        return self.study.figure(self)

    def finding(self) -> str:
        """The answer in words: the verdicts, why some are undecided, and limits of the sample: few prompts, one class.

        `details` has further numbers.
        """
        return self._finding

    @cached_property
    def _finding(self) -> str:
        said = " ".join(filter(None, (self.claims.in_words(), self.study.finding(self))))
        limits = self.claims.limits() if self.claims else self.study.remarks(self, self.table)
        return " ".join(filter(None, [said, *(text for text in limits if text not in said)]))

    def besides_verdicts(self) -> str:
        """The finding next to a table of the verdicts, without these; of several models, with counts of verdicts."""
        if not self.claims:
            return self.finding()
        return " ".join(filter(None, (self.claims.counted_in_words(), self.study.finding(self))))

    def details(self) -> list[str]:
        """Further numbers, a sentence or a few about each, without those of the finding."""
        return list(self._details)

    @cached_property
    def _details(self) -> list[str]:
        said = self.finding()
        return [text for text in dict.fromkeys(self.study.details(self)) if text not in said]

    def __repr__(self) -> str:
        outcomes = f" Claims: {self.claims.outcomes()}." if self.claims else ""
        said = " ".join(filter(None, (f"{len(self.table)} rows.{outcomes}", self.finding())))
        return f"<Result {self.name}: {said}>"

    def _repr_html_(self) -> str:
        numbers = self.summary()
        rows = [[_short(value) for value in row] for row in numbers.head(_SHOWN).itertuples(index=False)]
        more = f" The first {_SHOWN} of {len(numbers)} points; summary() has all." if len(numbers) > _SHOWN else ""
        verdicts = self.claims._repr_html_() if self.claims else ""
        details = " details() has further numbers." if self.details() else ""
        header = [str(name) for name in numbers.columns]
        return verdicts + card(self.name, (self.finding() + details + more).strip(), rows, header)

    def _ipython_display_(self) -> None:
        """In a notebook, show the verdicts, the finding, and the figure as plotly does; in a terminal, one line."""
        from IPython import get_ipython
        from IPython.display import display

        if not hasattr(get_ipython(), "kernel"):
            print(repr(self))
            return
        display({"text/html": self._repr_html_(), "text/plain": repr(self)}, raw=True)
        display(self.figure())

    def save(self, folder: str | Path) -> Path:
        """Write `<name>.parquet` and `<name>.json` atomically; return the parquet's path.

        A study's additional files (fitted re-weightings) are written first.
        """
        path = make_folder(folder) / f"{self.name}.parquet"
        self.study.save_more(self, path.parent)
        payload = _parquet(self.table)
        write_atomically(path, payload)
        head = {
            "study": self.name,
            "table_sha256": _sha256(payload),
            "provenance_sha256": _sha256(_canonical(self.provenance)),
            "provenance": dict(self.provenance),
        }
        write_atomically(path.with_suffix(".json"), json.dumps(head, indent=2, default=str).encode())
        return path

    def export(
        self, folder: str | Path, formats: Sequence[Format] = ("png", "svg", "pdf"), *, width: Width = "page"
    ) -> list[Path]:
        """Write the figure as `<name>.<format>`, or for a column as `<name>-<width>.<format>`; return the paths.

        `width` is "page", or "single" (3.3 inches) or "double" (6.9) for a column of a paper. Needs the extra `export`.
        """
        return export([self], folder, formats, (width,))


def export(
    results: Sequence[Result], folder: str | Path, formats: Sequence[Format], widths: Sequence[Width]
) -> list[Path]:
    """Write the figures of several results, each in every format and width, like `Result.export`; return the paths.

    The second result of a study is `<name>-2`.
    """
    seen: dict[str, int] = {}
    figures = []
    for result in results:
        seen[result.name] = number = seen.get(result.name, 0) + 1
        figures.append((result.name if number == 1 else f"{result.name}-{number}", result.figure()))
    asked = [
        (Path(folder) / f"{name}{'' if width == 'page' else f'-{width}'}.{kind}", (figure, kind, width))
        for width in widths
        for name, figure in figures
        for kind in formats
    ]
    drawn = images([drawing for _, drawing in asked])
    make_folder(folder)
    for (path, _), content in zip(asked, drawn, strict=True):
        write_atomically(path, content)
    return [path for path, _ in asked]


def load_table(folder: str | Path, name: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read a saved result's table and provenance back.

    Raises:
        InputError: there is none, or the table was not saved with this provenance.
    """
    path = Path(folder) / f"{name}.parquet"
    with one_sentence(path):
        payload = path.read_bytes() if path.is_file() else None
    if payload is None:
        raise InputError(f"There is no saved result {name!r} in {folder}; run the study first.")
    head = read_object(path.with_suffix(".json"), "provenance", remedy="run the study again", lenient=True)
    provenance = head.get("provenance")
    if not isinstance(provenance, dict) or "table_sha256" not in head:
        raise InputError(f"{path.with_suffix('.json')} is not a result's provenance; run the study again.")
    if head["table_sha256"] != _sha256(payload):
        raise InputError(f"{path} is not the table that its provenance describes; run the study again.")
    if head.get("provenance_sha256") not in (None, _sha256(_canonical(provenance))):  # None: saved by 0.1.0
        raise InputError(f"{path.with_suffix('.json')} was changed after it was saved; run the study again.")
    try:
        return _table(payload), provenance
    except (ValueError, OSError) as error:  # ArrowInvalid is a ValueError
        raise InputError(f"{path} is not a parquet table; run the study again.") from error


class Cells:
    """Finished parts of a study on disk, each under a key of everything that determines its numbers.

    A file contains its key, and its name has the digests of key and content, so a truncated, altered or misplaced cell
    is detected and measured again.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder) / "cells"
        check_writable(self.folder)  # the folder itself is made with the first cell, so earlier failures leave nothing
        for place in (self.folder, self.folder.parent):
            clear_up(place)

    def find(self, key: Mapping[str, Any]) -> pd.DataFrame | None:
        """The cell's table if it exists and is intact."""
        payload = self._intact(_canonical(key))
        return None if payload is None else _table(payload)

    def keep(self, key: Mapping[str, Any], table: pd.DataFrame) -> pd.DataFrame:
        """Write the cell's table; return it as it will be read."""
        make_folder(self.folder)
        text = _canonical(key)
        made = _parquet(table, text)
        write_atomically(self._path(text, made), made)
        return _table(self._intact(text) or made)

    def _path(self, key: bytes, payload: bytes) -> Path:
        return self.folder / f"{_sha256(key)[:24]}.{_sha256(payload)[:16]}.parquet"

    def _intact(self, key: bytes) -> bytes | None:
        """The content of a cell. Damaged files, and duplicates of another process, are removed.

        The cell of another key is moved to its own place.
        """
        found: bytes | None = None
        for path in sorted(self.folder.glob(f"{_sha256(key)[:24]}.*.parquet")):
            try:
                payload = path.read_bytes()
                if path.name != self._path(key, payload).name or found is not None:
                    path.unlink(missing_ok=True)
                elif (held := _key_of(payload)) == key:
                    found = payload
                elif held:
                    os.replace(path, self._path(held, payload))  # nothing is lost
                else:
                    path.unlink()
            except OSError:  # gone in the meantime, or not readable: it is measured again
                continue
        return found


def _key_of(payload: bytes) -> bytes:
    """The key in an intact cell."""
    try:
        facts: dict[bytes, bytes] = pq.read_schema(pa.BufferReader(payload)).metadata or {}
    except pa.ArrowInvalid:
        return b""
    return facts.get(_KEY, b"")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _parquet(table: pd.DataFrame, key: bytes = b"") -> bytes:
    """A table as a parquet file, with a cell's key and the names of array columns in its metadata."""
    arrays = [
        name for name in table.select_dtypes("object") if any(isinstance(value, np.ndarray) for value in table[name])
    ]
    columns = pa.Table.from_pandas(table, preserve_index=False)
    facts = {_ARRAYS: json.dumps(arrays).encode(), **({_KEY: key} if key else {})}
    buffer = io.BytesIO()
    pq.write_table(columns.replace_schema_metadata({**(columns.schema.metadata or {}), **facts}), buffer)
    return buffer.getvalue()


def _table(payload: bytes) -> pd.DataFrame:
    """The table of a parquet file as it was before writing, with lists and arrays restored."""
    columns = pq.read_table(pa.BufferReader(payload))
    arrays = json.loads((columns.schema.metadata or {}).get(_ARRAYS, b"[]"))
    table: pd.DataFrame = columns.to_pandas()
    for column in (columns.schema.pandas_metadata or {}).get("columns", ()):
        if column["numpy_type"] == "object" and column["name"] not in arrays:
            values = columns[column["field_name"]].to_pylist()
            table[column["name"]] = pd.Series(values, index=table.index, dtype=object)
    return table


def _canonical(facts: Mapping[str, Any]) -> bytes:
    """Facts as one text, the same before writing and after reading them as JSON."""
    return json.dumps(json.loads(json.dumps(dict(facts), default=str)), sort_keys=True).encode()


def _sha256(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()
