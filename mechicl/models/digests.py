"""SHA-256 of files: what was loaded, to the byte."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

_PART = 1 << 20


def file_digest(path: Path) -> str:
    """Of one file."""
    digest, part = hashlib.sha256(), bytearray(_PART)
    with path.open("rb", buffering=0) as file:
        while n := file.readinto(part):
            digest.update(memoryview(part)[:n])
    return digest.hexdigest()


def files_digest(files: Sequence[Path]) -> str:
    """Of several files together, in order of their names, which count too."""
    digest = hashlib.sha256()
    for path in sorted(files, key=lambda path: path.name):
        digest.update(f"{path.name} {file_digest(path)}\n".encode())
    return digest.hexdigest()
