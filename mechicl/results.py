"""Result: a tidy table and where it came from; kept on disk so that a broken run goes on where it was."""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from glob import escape
from pathlib import Path
from threading import get_ident
from typing import Any, ClassVar, Protocol

import pandas as pd
import plotly.graph_objects as go

from mechicl.display import card
from mechicl.errors import InputError
from mechicl.figures.export import Format, Width, images
from mechicl.json_files import read_object
from mechicl.text import one_sentence

_SHOWN = 8
"""Rows of a summary that a result shows of itself."""


class Explains(Protocol):
    """What a result asks of the study that made it."""

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    claim: ClassVar[str]

    @property
    def protocol(self) -> str: ...
    def summary(self, table: pd.DataFrame) -> pd.DataFrame: ...
    def figure(self, result: Any) -> go.Figure: ...
    def finding(self, result: Any) -> str: ...
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
        return self.study.summary(self.table)

    def summary(self) -> pd.DataFrame:
        """The numbers of the figure: a row per point, with mean, low and high."""
        return self._summary.copy()

    def figure(self) -> go.Figure:
        """The paper's figure for these measurements."""
        return self.study.figure(self)

    def finding(self) -> str:
        """What was measured, in a sentence."""
        return self.study.finding(self)

    def __repr__(self) -> str:
        return f"<Result {self.name}: {len(self.table)} rows. {self.finding()}>"

    def _repr_html_(self) -> str:
        numbers = self.summary()
        rows = [[_short(value) for value in row] for row in numbers.head(_SHOWN).itertuples(index=False)]
        more = f" The first {_SHOWN} of {len(numbers)} points; summary() has all." if len(numbers) > _SHOWN else ""
        return card(self.name, self.finding() + more, rows, [str(name) for name in numbers.columns])

    def _ipython_display_(self) -> None:
        """In a notebook: the finding, and the figure as plotly shows it there; in a terminal, one line."""
        from IPython import get_ipython
        from IPython.display import display

        if not hasattr(get_ipython(), "kernel"):
            print(repr(self))
            return
        display({"text/html": self._repr_html_(), "text/plain": repr(self)}, raw=True)
        display(self.figure())

    def save(self, folder: str | Path) -> Path:
        """Write `<name>.parquet` and `<name>.json`, each completely or not at all; returns the parquet's path.

        What a study keeps beside its table (fitted re-weightings) is written first.
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
        """Write the figure as `<name>.<format>`, in a paper's column as `<name>-<width>.<format>`; returns the paths.

        `width` is "page", or "single" (3.3 inches) or "double" (6.9) for a column of a paper. Needs the extra `export`.
        """
        return export([self], folder, formats, (width,))


def export(
    results: Sequence[Result], folder: str | Path, formats: Sequence[Format], widths: Sequence[Width]
) -> list[Path]:
    """Write the figures of several results, each in every format and width, as `Result.export`; returns the paths.

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
        InputError: there is none, or the table is not the one that was saved with this provenance.
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
        return pd.read_parquet(io.BytesIO(payload)), provenance
    except (ValueError, OSError) as error:  # ArrowInvalid is a ValueError
        raise InputError(f"{path} is not a parquet table; run the study again.") from error


class Cells:
    """Finished parts of a study on disk, each under a key made of all that determines its numbers.

    A file's name carries the digest of its content, so that a half-written or altered one is noticed and made anew.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder) / "cells"
        check_writable(self.folder)  # the folder itself is made with the first cell: what fails before leaves nothing
        for place in (self.folder, self.folder.parent):
            _sweep(place)

    def find(self, key: Mapping[str, Any]) -> pd.DataFrame | None:
        """The cell's table if it is there and intact."""
        payload = self._intact(_cell_name(key))
        return None if payload is None else pd.read_parquet(io.BytesIO(payload))

    def keep(self, key: Mapping[str, Any], table: pd.DataFrame) -> pd.DataFrame:
        """Write the cell's table; returns it as it will be read."""
        make_folder(self.folder)
        made, name = _parquet(table), _cell_name(key)
        write_atomically(self.folder / f"{name}.{_sha256(made)[:16]}.parquet", made)
        payload = self._intact(name) or made
        return pd.read_parquet(io.BytesIO(payload))

    def _intact(self, name: str) -> bytes | None:
        """The content of a cell. Damaged files go, and so does what another process measured at the same time."""
        found: bytes | None = None
        for path in sorted(self.folder.glob(f"{name}.*.parquet")):
            try:
                payload = path.read_bytes()
                if found is None and path.name.split(".")[1] == _sha256(payload)[:16]:
                    found = payload
                else:
                    path.unlink(missing_ok=True)
            except OSError:  # gone in the meantime, or not ours to read: it is made anew
                continue
        return found


def _cell_name(key: Mapping[str, Any]) -> str:
    return _sha256(json.dumps(dict(key), sort_keys=True, default=str).encode())[:24]


def make_folder(folder: str | Path) -> Path:
    """Create the folder if needed.

    Raises:
        InputError: it cannot be created or written to.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"Cannot write to {folder} ({error.strerror}); choose another folder.") from error
    if not os.access(folder, os.W_OK):
        raise InputError(f"Cannot write to {folder} (no permission); choose another folder.")
    return folder


def check_writable(folder: Path) -> None:
    """See whether files can be written in a folder, or in the one that it would be made in, and leave no trace.

    Raises:
        InputError: they cannot.
    """
    place = folder.absolute()
    try:
        while not place.exists() and place != place.parent:
            place = place.parent
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise InputError(f"Cannot write to {folder} ({error.strerror}); choose another folder.") from error


def write_atomically(path: Path, payload: bytes) -> None:
    """Write a file so that at every moment the old content or the new is there, never a part."""
    try:
        with _temporary(path) as temporary:
            with open(temporary, "wb") as file:
                file.write(payload)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    except OSError as error:
        raise InputError(
            f"Cannot write {path} ({error.strerror}); free some space or choose another folder."
        ) from error


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    temporary = path.with_name(f".{path.name}.{get_ident()}.{platform.node()}.{os.getpid()}.part")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _sweep(folder: Path) -> None:
    """Remove what killed runs on this machine were writing; what a living process writes is left alone."""
    for path in folder.glob(f".*.{escape(platform.node())}.*.part"):
        process = path.name.split(".")[-2]
        if not process.isdecimal() or not _alive(int(process)) or _old(path):
            path.unlink(missing_ok=True)


def _old(path: Path) -> bool:
    """Nobody writes for ten minutes: the process of this number is another one by now."""
    try:
        return time.time() - path.stat().st_mtime > 600
    except OSError:
        return True


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _parquet(table: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    return buffer.getvalue()


def _canonical(facts: Mapping[str, Any]) -> bytes:
    """Facts as one text, the same before they are written as JSON and after they are read back."""
    return json.dumps(json.loads(json.dumps(dict(facts), default=str)), sort_keys=True).encode()


def _sha256(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()
