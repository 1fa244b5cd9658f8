"""External JSON: any error in it becomes one sentence that names the file and the place."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from mechicl.errors import InputError, check_unicode, one_sentence

_DEEPEST = 100
"""Most levels of nested lists and objects; files written by people have fewer than ten."""
_KINDS = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}


def read_json(path: Path, what: str, *, remedy: str = "correct it there", lenient: bool = False) -> Any:
    """The content of a UTF-8 JSON file, with or without a byte order mark.

    Args:
        path: The file.
        what: What the file is, for the message: "task file".
        remedy: What to do about an invalid file, for the message.
        lenient: Accept NaN, Infinity and lone surrogates. Python's `json` writes all three, so files written by Python
            programs (our own results, configurations of models) may contain them.

    Raises:
        InputError: The file cannot be read, is not UTF-8 or not JSON, is nested more than 100 levels deep, repeats a
            key in an object, or has an integer of thousands of digits; unless `lenient`, also for NaN and infinite
            numbers, and for lone surrogates.
    """
    where = f"The {what} {path}"
    with one_sentence(where):
        text = path.read_text(encoding="utf-8-sig")
    return parse_json(text, where, remedy=remedy, lenient=lenient)


def read_object(path: Path, what: str, *, remedy: str = "correct it there", lenient: bool = False) -> dict[str, Any]:
    """The object in a JSON file; raises the same as `read_json`, and InputError for anything but an object."""
    content = read_json(path, what, remedy=remedy, lenient=lenient)
    if not isinstance(content, dict):
        raise InputError(f"The {what} {path} holds {kind_of(content)}; expected an object; {remedy}.")
    return content


def parse_json(text: str, where: str, *, remedy: str = "correct it there", lenient: bool = False) -> Any:
    """The content of a JSON text; like `read_json`, with `where` ("rows.jsonl, line 3") at the start of the message."""

    def refuse(reason: str) -> InputError:
        return InputError(f"{where} {reason}; {remedy}.")

    def constant(name: str) -> float:
        if not lenient:
            raise refuse(f"holds {name}, which JSON does not have")
        return float(name)

    def number(digits: str) -> float:
        value = float(digits)
        if not lenient and value in (float("inf"), float("-inf")):
            raise refuse(f"holds the number {digits[:40]}, which is too large")
        return value

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            ((key, _),) = Counter(key for key, _ in pairs).most_common(1)
            raise refuse(f"has the key {key!r} twice in one object")
        return found

    if not text.strip():
        raise refuse("is empty, which is not JSON")
    try:
        content = json.loads(text, parse_constant=constant, parse_float=number, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if "\n" in text.strip() else ""
        raise refuse(f"is not JSON ({error.msg.removesuffix(' at')} at {line}column {error.colno})") from None
    except RecursionError:
        raise refuse(f"is nested more than {_DEEPEST} levels deep") from None
    except InputError:
        raise
    except ValueError:  # Python's error for an integer with more digits than it converts
        raise refuse("holds an integer of thousands of digits") from None
    _check_inside(content, where, remedy, lenient)
    return content


def _check_inside(content: Any, where: str, remedy: str, lenient: bool) -> None:
    """Reject too deep nesting and, unless lenient, texts and keys with lone surrogates, naming their path."""
    waiting = [(content, "", 0)]
    while waiting:
        value, path, depth = waiting.pop()
        if depth > _DEEPEST:
            raise InputError(f"{where} is nested more than {_DEEPEST} levels deep; {remedy}.")
        if isinstance(value, dict):
            for key in value if not lenient else ():
                check_unicode(key, f"{where}, a key{_at(path)},")
            waiting += [(inside, f"{path}.{key}" if path else key, depth + 1) for key, inside in value.items()]
        elif isinstance(value, list):
            waiting += [(inside, f"{path}[{i}]", depth + 1) for i, inside in enumerate(value)]
        elif isinstance(value, str) and not lenient:
            check_unicode(value, f"{where}, the text{_at(path)},")


def _at(path: str) -> str:
    return f" at {path}" if path else ""


def kind_of(value: Any) -> str:
    """The kind of a JSON value, in words."""
    return _KINDS.get(type(value), "a number")
