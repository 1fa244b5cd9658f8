"""A user-defined task in a file, so that a command can name it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from reprlib import repr as shorten
from typing import Any

from mechicl.errors import InputError
from mechicl.files.json_files import read_object
from mechicl.files.rows import READERS, file_kind
from mechicl.tasks.sources import as_source
from mechicl.tasks.task import Task

_NEEDED = ("template", "label_words")
_FIELDS = ("name", *_NEEDED, "data", "query_split", "separator", "columns", "chat", "score")


def read_task(path: Path) -> Task:
    """The task that a JSON file describes; the fields are those of :class:`~mechicl.tasks.Task`, `data` its source.

        {"name": "jokes", "template": "Line: {text}\\nFunny:{label}",
         "label_words": {"no": " No", "yes": " Yes"}, "data": "jokes.csv"}

    `data` is a file or folder relative to the task file, rows, or `{"train": rows, "test": rows}`; the name defaults to
    the file's.

    Raises:
        InputError: there is no such file, or its content is invalid; the message names the field.
    """
    if file_kind(path) in READERS and path.suffix != ".json":
        raise InputError(
            f"{path} is a table of examples, and a task file says how they are asked about: a JSON object with "
            "template, label_words and data; for a built-in task, name it and give this file as its data."
        )
    fields = f"its fields are {', '.join(_FIELDS[:-1])} and {_FIELDS[-1]}"
    facts = read_object(path, "task file", remedy=fields)
    unknown, missing = set(facts) - set(_FIELDS), set(_NEEDED) - set(facts)
    if unknown or missing:
        wrong = f"has {sorted(unknown)[0]!r}" if unknown else f"lacks {sorted(missing)[0]!r}"
        raise InputError(f"The task file {path} {wrong}; {fields}.")
    source = facts.pop("data", None)
    if not isinstance(source, str | list | dict | None):
        raise InputError(f"In the task file {path}, data is {shorten(source)}; expected a path or rows.")
    if isinstance(source, str):
        source = path.parent / Path(source).expanduser()
    try:
        if isinstance(source, list | dict):
            rows: Any = as_source(source, path.stem, {})
            source = replace(rows, place=f"the task file {path}")
        return Task(**{"name": path.stem, "source": source, **facts})
    except InputError as error:
        raise InputError(f"In the task file {path}: {error}") from None
