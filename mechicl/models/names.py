"""What a model's name means: the shipped model, the real one, something on this disk, or a name on the hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mechicl.errors import InputError

SHIPPED = "tiny-icl"
REAL = "smollm2-135m-q4"


@dataclass(frozen=True)
class Named:
    """A model's name, understood."""

    kind: Literal["shipped", "real", "wheel", "gguf", "folder", "hub"]
    path: Path
    """Of what is on this disk."""
    hub: str = ""
    revision: str = ""
    """A branch, tag, commit or training step on the hub; empty for the newest."""


def understood(name: str | Path) -> Named:
    """What a name means. A folder comes before a name on the hub, and a Path is never one.

    Raises:
        InputError: nothing is meant, a revision is asked of what has none, or there is no such file or folder.
    """
    text = str(name)
    if not text.strip() or text == ".":
        raise InputError(f"The model's name is {text!r}; give a name, a folder, or a GGUF file")
    if text in (SHIPPED, REAL):
        return Named("shipped" if text == SHIPPED else "real", Path(text))
    path = _path(text)
    if _is_folder(path):
        return Named("folder", path)
    if path.suffix.lower() == ".gguf":
        return Named("gguf", path)
    if path.suffix == ".whl":
        return Named("wheel", path)
    before, at, revision = text.partition("@")
    if before in (SHIPPED, REAL):
        raise InputError(f"{before} has no revisions; leave out {at}{revision}")
    if isinstance(name, Path) or before.startswith((".", "/", "~")) or before.count("/") > 1 or "\\" in before:
        raise InputError(f"there is no folder {name}; give a Hugging Face model folder, a hub name or {SHIPPED!r}")
    if not before or (at and not revision):
        raise InputError(f"{text!r} is no model's name; give name@revision, such as EleutherAI/pythia-70m@step1000")
    return Named("hub", path, before, revision)


def _path(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:  # no such user
        return Path(text)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # such as a name longer than names may be
        return False
