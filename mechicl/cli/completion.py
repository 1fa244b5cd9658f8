"""Shell completion of option values, without heavy imports."""

from __future__ import annotations

from collections.abc import Callable
from glob import escape, glob
from os import sep
from os.path import isdir

TASKS = ("sst2", "trec", "agnews", "emo", "reviews", "headlines", "questions", "tiny-topics-2", "tiny-topics-4")
MODELS = ("tiny-icl", "smollm2-135m-q4", "gpt2-xl", "gpt-j-6b")
"""The shipped model, the one that pip fetches, and those of the first paper."""


def one_of(*choices: str) -> Callable[[str], list[str]]:
    """Completes one of the choices."""

    def complete(incomplete: str) -> list[str]:
        return [choice for choice in choices if choice.startswith(incomplete)]

    return complete


def several_of(*choices: str) -> Callable[[str], list[str]]:
    """Completes the last of several comma-separated choices, without repetition."""

    def complete(incomplete: str) -> list[str]:
        before, last = _divided(incomplete)
        return [before + choice for choice in choices if choice.startswith(last) and choice not in before.split(",")]

    return complete


def models(incomplete: str) -> list[str]:
    """A model's name, or a folder."""
    return [*one_of(*MODELS)(incomplete), *_paths(incomplete)]


def tasks(incomplete: str) -> list[str]:
    """Comma-separated names of tasks and task files."""
    before, last = _divided(incomplete)
    return [*several_of(*TASKS)(incomplete), *(before + path for path in _paths(last, ".json"))]


def texts(incomplete: str) -> list[str]:
    """Text that needs no network, or a file or folder."""
    return [*one_of("pydocs", "tiny-icl")(incomplete), *_paths(incomplete, ".txt", ".jsonl", ".csv", ".parquet")]


def _divided(incomplete: str) -> tuple[str, str]:
    """The text up to and including the last comma, and the word being typed."""
    at = incomplete.rfind(",") + 1
    return incomplete[:at], incomplete[at:]


def _paths(incomplete: str, *suffixes: str) -> list[str]:
    """Folders, and files with one of the suffixes, that start with this text."""
    found = sorted(glob(escape(incomplete) + "*"))
    return [path + sep * isdir(path) for path in found if isdir(path) or path.endswith(suffixes)]
