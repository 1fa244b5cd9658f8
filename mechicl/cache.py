"""Files kept between runs, all in one folder: `mechicl` in `MECHICL_CACHE`, or in the system's cache folder.

Everything in it can be recreated. Files are written atomically, and two processes that need the same entry make it only
once.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from errno import EDQUOT, EFBIG, ENOSPC, EROFS
from pathlib import Path
from tempfile import mkdtemp

from mechicl.errors import InputError

_UNFINISHED = "unfinished-"


@dataclass(frozen=True)
class Entry:
    """One cache entry."""

    name: str
    path: Path
    n_bytes: int


def folder() -> Path:
    """The cache's folder, which need not exist yet; InputError if a file is in its place."""
    from platformdirs import user_cache_path

    named = os.environ.get("MECHICL_CACHE", "").strip()
    found = Path(os.path.expanduser(named)).absolute() / "mechicl" if named else user_cache_path("mechicl")
    with _can_write(found):
        in_the_way = next((path for path in (found, *found.parents) if path.exists() and not path.is_dir()), None)
    if in_the_way is not None:
        raise InputError(
            f"The cache {found} cannot be used: {in_the_way} is not a folder; set MECHICL_CACHE to another."
        )
    return found


def entries() -> list[Entry]:
    """Cache entries by name, without unfinished ones."""
    return [Entry(path.name, path, _size(path)) for path in _folders() if not path.name.startswith(_UNFINISHED)]


def clear() -> int:
    """Remove all entries, and the remains of killed processes; return the number of bytes removed.

    Raises:
        InputError: another process is writing an entry, or an entry cannot be removed.
    """
    freed = 0
    for path in _folders():
        name = path.name.removeprefix(_UNFINISHED).rpartition("-")[0] if _UNFINISHED in path.name else path.name
        with _locked(name, wait=False), _can_write(path):
            freed += _size(path)
            shutil.rmtree(path)
    return freed


def remove(name: str) -> None:
    """Remove one entry."""
    with _locked(name), _can_write(folder()):
        shutil.rmtree(folder() / name)


def made_once(name: str, make: Callable[[Path], None], *, needs_bytes: int) -> Path:
    """The folder `name` of the cache; if it is missing, `make` fills an empty folder that becomes it.

    If `make` raises, nothing is left behind. Another process that makes the same entry is waited for, and remains of a
    killed one are removed.

    Raises:
        InputError: the cache cannot be written, is full, or has less than `needs_bytes` of room.
    """
    path = folder() / name
    if path.is_dir():
        return path
    with _locked(name):
        if path.is_dir():
            return path
        for left in folder().glob(f"{_UNFINISHED}{name}-*"):  # only the holder of the lock makes this entry
            shutil.rmtree(left, ignore_errors=True)
        _check_room(needs_bytes)
        with _can_write(folder()):
            unfinished = Path(mkdtemp(prefix=f"{_UNFINISHED}{name}-", dir=folder()))
        try:
            with _room_left():
                make(unfinished)
            with _can_write(path):
                _share(unfinished)
                unfinished.rename(path)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return path


def _folders() -> list[Path]:
    return sorted(path for path in folder().iterdir() if path.is_dir()) if folder().is_dir() else []


@contextmanager
def _locked(name: str, wait: bool = True) -> Iterator[None]:
    """Hold the lock of one entry; print a message if another process has it."""
    from filelock import FileLock, Timeout

    with _can_write(folder()):
        folder().mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder() / f"{name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if not wait:
                raise InputError(f"Another process is writing {name}; try again when it has finished.") from None
            print(f"mechicl: Another process is making {name}; waiting for it.", file=sys.stderr)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _check_room(needs_bytes: int) -> None:
    free = shutil.disk_usage(folder()).free
    if free < needs_bytes:
        raise InputError(
            f"The cache {folder()} needs {needs_bytes / 1e6:.0f} MB and has {free / 1e6:.0f} MB free; free some space, "
            "or set MECHICL_CACHE to a folder elsewhere."
        )


def _share(made: Path) -> None:
    """Give a folder and its files the usual permissions, as temporary folders are private to their creator."""
    mask = os.umask(0)
    os.umask(mask)
    made.chmod(0o777 & ~mask)
    for path in made.rglob("*"):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


@contextmanager
def _can_write(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"The cache {path} cannot be written ({error.strerror or error}); set MECHICL_CACHE to a writable folder."
        ) from error


@contextmanager
def _room_left() -> Iterator[None]:
    """Report a disk that fills up while an entry is made; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in (ENOSPC, EDQUOT, EFBIG, EROFS):
            raise
        raise InputError(
            f"The cache {folder()} cannot be written ({error.strerror}); free some room, or set MECHICL_CACHE to a "
            "folder elsewhere."
        ) from error


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
