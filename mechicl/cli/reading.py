"""How the texts of options are read; what is wrong is said by the option's name."""

from __future__ import annotations

import re
from math import isfinite
from typing import Any

from mechicl.errors import InputError


def choice(option: str, value: str, *choices: str) -> Any:
    """The value, if it is one of the choices."""
    if value not in choices:
        raise InputError(f"{option} is {value!r}; choose {', '.join(choices[:-1])} or {choices[-1]}.")
    return value


def choices(option: str, text: str, *among: str) -> tuple[Any, ...]:
    """Several of the choices from a text such as label,template."""
    return tuple(choice(option, name, *among) for name in names(option, text))


def integers(option: str, text: str) -> tuple[int, ...]:
    """Whole numbers from a text such as 42,43."""
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{option} is {text!r}; give whole numbers with commas between them, as 1,3.") from None
    if len(set(numbers)) < len(numbers) or min(numbers) < 0:
        raise InputError(f"{option} is {text!r}; give each number once, and none below zero.")
    return numbers


def numbers(option: str, text: str) -> tuple[float, ...]:
    """Numbers from a text such as 0,2.5,-1, each once."""
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or len(set(found)) < len(found) or not all(map(isfinite, found)):
        raise InputError(f"{option} is {text!r}; give each number once, with commas between them, as 0,2.5.")
    return found


def per_class(option: str, text: str, least: int) -> int | tuple[int, ...]:
    """A number for all classes, such as 2, or one for each, such as 4,1."""
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 0 or max(numbers) < least:
        raise InputError(f"{option} is {text!r}; give a number from {least} on, or one for each class, as 4,1.")
    return numbers[0] if len(numbers) == 1 else numbers


def names(option: str, text: str) -> tuple[str, ...]:
    """Names from a text such as sst2,trec."""
    found = tuple(part.strip() for part in text.split(","))
    if not all(found) or len(set(found)) < len(found):
        raise InputError(f"{option} is {text!r}; give each name once, with commas between them.")
    return found


def assignments(option: str, text: str) -> dict[str, str]:
    """Words by name from a text such as "negative= A,positive= B"; spaces of the words are kept."""
    pairs = [part.split("=") for part in text.split(",")]
    if any(len(pair) != 2 for pair in pairs) or len({pair[0].strip() for pair in pairs}) < len(pairs):
        raise InputError(f'{option} is {text!r}; give each class a word, as "negative= A,positive= B".')
    return {name.strip(): word for name, word in pairs}


_OPTIONS = {
    "too_long": "--too-long",
    "label_words": "--label-words",
    "batch_size": "--batch-size",
    "n_layers": "--layers",
    "n_sets": "--sets",
    "n_ctx": "--n-ctx",
    "packing": "--packing",
    "shots": "--shots",
    "samples": "--samples",
    "seed": "--seeds",
    "data": "--data",
    "dtype": "--dtype",
    "device": "--device",
    "protocol": "--protocol",
}
"""Arguments of the library that are options of commands."""


def as_options(message: str) -> str:
    """A message of the library, with options in the place of Python's arguments: --too-long shorter."""
    message = re.sub(r"\bprepend_bos=(True|False)", lambda m: "--bos" if m[1] == "True" else "--no-bos", message)
    named = "|".join(_OPTIONS)
    message = re.sub(rf"\b({named})=('[^']*'|\"[^\"]*\"|\w+)", lambda m: f"{_OPTIONS[m[1]]} {_unquoted(m[2])}", message)
    message = re.sub(
        r"\b(too_long|label_words(?==)|batch_size|n_layers|n_sets|n_ctx)\b", lambda m: _OPTIONS[m[1]], message
    )
    message = re.sub(r"(?<= is )\((\d+(?:, \d+)*),?\)", r"\1", message)  # tuples of numbers, as they were given
    return re.sub(r" \(in Python, [^;]*\)(?=[.;])", "", message)


def _unquoted(value: str) -> str:
    bare = value.strip("'\"")
    return bare if re.fullmatch(r"[\w-]+", bare) else value
