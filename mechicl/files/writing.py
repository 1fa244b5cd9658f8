"""Folders that can be written to, and files that are there completely or not at all."""

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
"""Seconds after which a file that somebody was writing belongs to a run that was killed."""


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
    temporary = path.with_name(f".{path.name}.{token_hex(8)}.part")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def clear_up(folder: Path) -> None:
    """Remove what killed runs were writing: nobody writes a file for ten minutes."""
    for path in folder.glob(".*.part"):
        with suppress(OSError):  # another run is clearing up, too
            if time.time() - path.stat().st_mtime > _LEFT_BEHIND:
                path.unlink()
