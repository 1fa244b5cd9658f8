"""Outcomes of comparing converted models with their originals, kept so that each is compared once.

An outcome is kept for the files, versions and options that it was found with; where any of them changes, the models are
compared again. Only agreement is kept.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from mechicl import cache
from mechicl.errors import InputError
from mechicl.versions import versions

_KEPT = "comparisons"


def key(files: str, **options: Any) -> str:
    """The key of an outcome: the digest of the files, the options of loading, and the versions of all that computes."""
    facts = {"files": files, "versions": versions(), **{name: str(value) for name, value in options.items()}}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def known(key: str) -> bool:
    """Whether models with this key were compared and agreed."""
    try:
        return (cache.folder() / _KEPT / key).is_file()
    except (OSError, InputError):
        return False


def remember(key: str) -> None:
    """Note that they agreed; where nothing can be written they will be compared again."""
    try:
        path: Path = cache.folder() / _KEPT / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except (OSError, InputError):
        pass
