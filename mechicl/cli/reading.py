"""Parse option values; errors name the option."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mechicl.declared import DeclaredSwitch
from mechicl.errors import InputError


def several(switch: DeclaredSwitch, text: str) -> tuple[Any, ...]:
    """The values of a switch from a text such as label,template or 0,2.5, each once."""
    read = {"int": int, "float": float}.get(switch.kind, str)
    try:
        values = tuple(read(part.strip()) for part in text.split(","))
    except ValueError:
        values = ()
    if not switch.accepts(values):
        raise InputError(f"{option(switch.name)} is {text!r}; {switch.wanted()}, comma-separated.")
    return values


def option(name: str) -> str:
    """The name of a switch's option."""
    return "--" + name.replace("_", "-")


def choices(option: str, text: str, *among: str) -> tuple[Any, ...]:
    """Several choices from a text such as png,pdf."""
    found = names(option, text)
    if wrong := [name for name in found if name not in among]:
        raise InputError(f"{option} is {wrong[0]!r}; choose from {', '.join(among)}.")
    return found


def integers(option: str, text: str) -> tuple[int, ...]:
    """Whole numbers from a text such as 42,43."""
    numbers = _whole_numbers(text)
    if not numbers:
        raise InputError(f"{option} is {text!r}; give comma-separated whole numbers, such as 1,3.")
    if len(set(numbers)) < len(numbers) or min(numbers) < 0:
        raise InputError(f"{option} is {text!r}; give each number once, and none below zero.")
    return numbers


def per_class(option: str, text: str, least: int) -> int | tuple[int, ...]:
    """A number for all classes, such as 2, or one per class, such as 4,1."""
    numbers = _whole_numbers(text)
    if not numbers or min(numbers) < 0 or max(numbers) < least:
        raise InputError(f"{option} is {text!r}; give a number of at least {least}, or one per class, such as 4,1.")
    return numbers[0] if len(numbers) == 1 else numbers


def order_of(text: str) -> str | tuple[int, ...]:
    """An order of demonstrations: a name, or positions such as 2,0,1."""
    if text in ("encounter", "class", "reversed"):
        return text
    if not (places := _whole_numbers(text)):
        raise InputError(f"--order is {text!r}; give encounter, class, reversed, or places such as 2,0,1.")
    return places


def _whole_numbers(text: str) -> tuple[int, ...]:
    """Comma-separated numbers; empty if the text holds anything else."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        return ()


def names(option: str, text: str) -> tuple[str, ...]:
    """Names from a text such as sst2,trec."""
    found = tuple(part.strip() for part in text.split(","))
    if not all(found) or len(set(found)) < len(found):
        raise InputError(f"{option} is {text!r}; give each name once, comma-separated.")
    return found


def names_or_path(option: str, text: str) -> tuple[str, ...]:
    """Names, or one path if the whole text is a path on this disk."""
    return (text,) if os.path.exists(os.path.expanduser(text)) else names(option, text)


def assignments(option: str, text: str, example: str = "negative= A,positive= B") -> dict[str, str]:
    """Texts by name, such as "negative= A,positive= B"; spaces after the = are kept."""
    pairs = [part.split("=") for part in text.split(",")]
    if any(len(pair) != 2 for pair in pairs) or len({pair[0].strip() for pair in pairs}) < len(pairs):
        raise InputError(f'{option} is {text!r}; give a text for each name, such as "{example}".')
    return {name.strip(): word for name, word in pairs}


def models_named(model: str, checkpoints: str | None) -> tuple[str, ...]:
    """The models that --model and --checkpoints name; if the whole name is a path on this disk, it is one model.

    A folder that is not a model stands for the models in its subfolders, in numerical order.

    Raises:
        InputError: a name is repeated, several models have checkpoints, or a folder lacks a checkpoint.
    """
    found = names_or_path("--model", model)
    folder = Path(os.path.expanduser(found[0]))
    inside = sorted((one.parent.name for one in folder.glob("*/config.json")), key=_by_number)
    if checkpoints is None:
        own = len(found) > 1 or not inside or (folder / "config.json").exists()
        return found if own else tuple(str(folder / name) for name in inside)
    if len(found) > 1:
        raise InputError(f"--checkpoints takes one model, and --model names several ({model}); name one.")
    wanted = names("--checkpoints", checkpoints)
    if not folder.is_dir():
        return tuple(f"{model}@{name}" for name in wanted)
    if lacking := [name for name in wanted if name not in inside]:
        raise InputError(f"{folder} has no checkpoint {lacking[0]!r}; it has {', '.join(inside) or 'none'}.")
    return tuple(str(folder / name) for name in wanted)


def _by_number(name: str) -> tuple[int, str]:
    numbers = re.findall(r"\d+", name)
    return int(numbers[-1]) if numbers else -1, name
