"""A task of one's own in a file, so that a command can name it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mechicl.errors import InputError
from mechicl.files.json_files import kind_of, read_json
from mechicl.files.rows import READERS
from mechicl.tasks.task import Task

_NEEDED = ("template", "label_words")
_FIELDS = ("name", *_NEEDED, "data", "query_split", "separator")


def read_task(path: Path) -> Task:
    """The task that a JSON file describes; the fields are those of :class:`~mechicl.tasks.Task`, `data` its source.

        {"name": "jokes", "template": "Line: {text}\\nFunny:{label}",
         "label_words": {"no": " No", "yes": " Yes"}, "data": "jokes.csv"}

    `data` is a file or folder, seen from the task file, rows, or `{"train": rows, "test": rows}`; the name is by
    default the file's.

    Raises:
        InputError: there is no such file, or it is not such an object; the message names the field.
    """
    if path.suffix in READERS:
        raise InputError(
            f"{path} is a table of examples, and a task file says how they are asked about: a JSON object with "
            "template, label_words and data; for a built-in task, name it and give this file as its data."
        )
    facts = read_json(path, "task file")
    _check(facts, path)
    known = {name: facts[name] for name in ("query_split", "separator") if name in facts}
    source = facts.get("data")
    if isinstance(source, str):
        source = path.parent / Path(source).expanduser()
    return Task(facts.get("name", path.stem), facts["template"], facts["label_words"], source, **known)


def _check(facts: Any, path: Path) -> None:
    """Raise InputError unless the fields are a task's, each of its type."""
    if not isinstance(facts, dict):
        raise InputError(f"The task file {path} holds {kind_of(facts)}; expected an object with {_said()}.")
    unknown, missing = set(facts) - set(_FIELDS), set(_NEEDED) - set(facts)
    if unknown or missing:
        wrong = f"has {sorted(unknown)[0]!r}" if unknown else f"lacks {sorted(missing)[0]!r}"
        raise InputError(f"The task file {path} {wrong}; its fields are {_said()}.")
    for name in ("name", "template", "query_split", "separator"):
        if not isinstance(facts.get(name, ""), str):
            raise InputError(f"In the task file {path}, {name} is {facts[name]!r}; expected a text.")
    words = facts["label_words"]
    if not isinstance(words, dict) or not all(isinstance(word, str) for word in words.values()):
        raise InputError(
            f"In the task file {path}, label_words is {words!r}; expected a word for each class by its name."
        )
    if not isinstance(facts.get("data"), str | list | dict | None):
        raise InputError(f"In the task file {path}, data is {facts['data']!r}; expected a path or rows.")


def _said() -> str:
    return f"{', '.join(_FIELDS[:-1])} and {_FIELDS[-1]}"
