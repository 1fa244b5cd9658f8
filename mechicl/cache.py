"""What mechicl keeps between runs, all in one folder: `MECHICL_CACHE`, or where the system keeps caches.

Whatever is here can be made again. Files appear whole or not at all, and two processes that want the same thing make it
once.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

from mechicl.errors import InputError

_UNFINISHED = "unfinished-"


@dataclass(frozen=True)
class Entry:
    """One thing that is kept."""

    name: str
    path: Path
    n_bytes: int


def folder() -> Path:
    """The cache's folder, which need not exist yet."""
    from platformdirs import user_cache_path

    named = os.environ.get("MECHICL_CACHE", "").strip()
    return Path(named).expanduser().absolute() if named else user_cache_path("mechicl")


def entries() -> list[Entry]:
    """What is kept, by name; unfinished work and locks are left out."""
    found = sorted(folder().iterdir()) if folder().is_dir() else []
    return [Entry(path.name, path, _size(path)) for path in found if path.is_dir() and not _is_unfinished(path)]


def clear() -> int:
    """Remove everything that is kept; returns how many bytes that was. Raises `InputError` where it cannot be."""
    freed = _size(folder())
    with _can_write():
        for path in folder().iterdir() if folder().is_dir() else ():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return freed


def remove(name: str) -> None:
    """Remove one thing that is kept."""
    with _can_write():
        shutil.rmtree(folder() / name, ignore_errors=True)


def made_once(name: str, make: Callable[[Path], None], *, needs_bytes: int) -> Path:
    """The folder `name` of the cache; where it is missing, `make` fills an empty folder that becomes it.

    When `make` raises nothing is left; another process that makes the same is waited for; what a killed one left is
    cleared away.

    Raises:
        InputError: the cache cannot be written, or has less than `needs_bytes` of room.
    """
    from filelock import FileLock

    path = folder() / name
    if path.is_dir():
        return path
    with _can_write():
        folder().mkdir(parents=True, exist_ok=True)
        with FileLock(folder() / f"{name}.lock"):
            if path.is_dir():
                return path
            for left in folder().glob(f"{_UNFINISHED}{name}-*"):  # whoever holds the lock makes this
                shutil.rmtree(left, ignore_errors=True)
            _check_room(needs_bytes)
            unfinished = Path(mkdtemp(prefix=f"{_UNFINISHED}{name}-", dir=folder()))
            try:
                make(unfinished)
                unfinished.rename(path)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
    return path


def _check_room(needs_bytes: int) -> None:
    free = shutil.disk_usage(folder()).free
    if free < needs_bytes:
        raise InputError(
            f"The cache {folder()} has {free / 1e6:.0f} MB of room and {needs_bytes / 1e6:.0f} MB are needed; "
            "free some, or set MECHICL_CACHE to a folder elsewhere."
        )


@contextmanager
def _can_write() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"The cache {folder()} cannot be written ({error.strerror or error}); set MECHICL_CACHE to a "
            "folder that can."
        ) from error


def _is_unfinished(path: Path) -> bool:
    return path.name.startswith(_UNFINISHED)


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
