"""Check that folders are writable, and write files atomically."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

from mechicl.errors import InputError

_LEFT_BEHIND = 600
"""Seconds after which an unfinished file is taken to be from a killed run."""


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
    """Check that files can be written in a folder, or where it would be created, without leaving a trace.

    Raises:
        InputError: they cannot be written.
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
    """Write a file atomically: at every moment it has the old content or the new, never a part."""
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
    temporary = path.with_name(f".{path.name}.{token_hex(8)}.part")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def clear_up(folder: Path) -> None:
    """Remove unfinished files of killed runs: no run writes a file for ten minutes."""
    for path in folder.glob(".*.part"):
        with suppress(OSError):  # another run is cleaning up, too
            if time.time() - path.stat().st_mtime > _LEFT_BEHIND:
                path.unlink()
