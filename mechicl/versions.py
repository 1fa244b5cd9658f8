"""Versions of what the numbers depend on, mechicl's own code included, for the provenance of models and results."""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_SHOWS = ("cli", "report.py", "figures.py", "progress.py", "shipped")
"""Parts of mechicl that show what was measured, or were there before a model was: numbers do not depend on them."""


@cache
def versions() -> dict[str, str]:
    """Version of Python and of every library that computes ("not installed" where there is none), and which code.

    A version number stays while code is edited, so what was measured by other code is told by the code's digest.
    """
    found = {"python": platform.python_version()}
    for package in ("mechicl", "transformer-lens", "transformers", "torch", "numpy", "datasets", "tokenizers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found | {"mechicl code": code_digest(Path(__file__).parent)}


def code_digest(package: Path) -> str:
    """Sha256, shortened, of the source files that measure: their paths and bytes."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        inside = path.relative_to(package)
        if inside.parts[0] not in _SHOWS:
            digest.update(f"{inside.as_posix()}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]
