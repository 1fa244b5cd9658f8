"""Leases on units of work, in a folder that several processes or machines share."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

from mechicl.files.writing import make_folder, write_atomically

STALE = 300.0
"""Seconds without a sign of life after which a lease's holder counts as dead."""


class Leases:
    """Leases in a folder, one file each, which the holder touches while it is alive; they end with the `with` block.

    Times are those of the folder's file system, as machines' clocks differ. Two processes can hold the same lease only
    after a holder has died.

    Args:
        folder: shared by all processes that take leases.
        stale: seconds without a sign of life after which another process may take a lease.
    """

    def __init__(self, folder: Path, *, stale: float = STALE) -> None:
        self._folder, self._stale = folder, stale
        self._me = f"{socket.gethostname()}-{os.getpid()}-{token_hex(4)}"
        self._held: set[Path] = set()
        self._end = threading.Event()
        self._alive = threading.Thread(target=self._live, daemon=True)

    def __enter__(self) -> Leases:
        make_folder(self._folder)
        self._alive.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._alive.join()
        for path in list(self._held):
            self.release(path.stem)
        with suppress(OSError):  # other processes hold leases there
            self._folder.rmdir()

    def take(self, name: str) -> bool:
        """Take the lease if nobody has it or its holder is dead; return whether it is held here."""
        path = self._folder / f"{name}.lease"
        if path in self._held:
            return True
        try:
            if self._is_stale(path):
                with suppress(OSError):  # another process was quicker
                    path.unlink()
            make_folder(self._folder)
            with path.open("x") as file:  # fails if the file exists
                file.write(self._me)
        except (FileExistsError, FileNotFoundError):  # it is held, or another process has just removed the folder
            return False
        self._held.add(path)
        return True

    def release(self, name: str) -> None:
        """Release the lease."""
        path = self._folder / f"{name}.lease"
        self._held.discard(path)
        with suppress(OSError):
            if path.read_text() == self._me:
                path.unlink()

    def mark(self, name: str, text: str) -> None:
        """Leave a mark, which stays when all leases have ended."""
        write_atomically(self._mark(name), text.encode())

    def marked(self, name: str) -> str:
        """The text of a mark; empty if there is none."""
        try:
            return self._mark(name).read_text()
        except OSError:
            return ""

    def _mark(self, name: str) -> Path:
        return self._folder / f"{name}.mark"

    def _is_stale(self, path: Path) -> bool:
        try:
            touched = path.stat().st_mtime
        except OSError:
            return False
        return self._now() - touched > self._stale

    def _now(self) -> float:
        """The time of the folder's file system."""
        clock = self._folder / f".{self._me}.clock"
        try:
            clock.touch()
            return clock.stat().st_mtime
        finally:
            clock.unlink(missing_ok=True)

    def _live(self) -> None:
        while not self._end.wait(self._stale / 10):
            for path in list(self._held):
                with suppress(OSError):
                    os.utime(path)
