"""Versions of what the numbers depend on, mechicl's own code included, for the provenance of models and results."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from mechicl.code_digest import measuring_code

_COMPUTE = ("transformer-lens", "transformers", "torch", "numpy", "scipy", "scikit-learn", "pandas", "tokenizers")


@cache
def versions() -> dict[str, str]:
    """Version of Python and of every library that computes ("not installed" where there is none), and which code.

    A version number stays while code is edited, so what was measured by other code is told by the code's digest.
    """
    found = {"python": platform.python_version()}
    for package in ("mechicl", *_COMPUTE, "datasets"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found | {"mechicl code": measuring_code()}


def computing() -> dict[str, str]:
    """Versions of what computes: of these alone numbers depend."""
    return {name: versions()[name] for name in ("python", *_COMPUTE)}
