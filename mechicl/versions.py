"""Versions of what the numbers depend on, for the provenance of models and results."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version


@cache
def versions() -> dict[str, str]:
    """Version of Python and of every library that computes; "not installed" where there is none."""
    found = {"python": platform.python_version()}
    for package in ("mechicl", "transformer-lens", "transformers", "torch", "numpy", "datasets", "tokenizers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
