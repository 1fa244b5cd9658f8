"""Every message is written as it is read: nothing puts capitals or full stops on words later."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import mechicl
from mechicl.errors import DoesNotFit, InputError

_SAYS = ("InputError", "NumericalError", "warn")
_NAME = re.compile(r"([a-z]\w*) (?:is|has|got|looks)\b|[a-z]+[_=-]")
"""How a message begins with a name of the code, which has no capital: "shots is 0", "n_ctx=0"."""


def _faults(source: str) -> Iterator[str]:
    """Messages without a capital letter in front or a full stop at the end; where a value stands there, nothing."""
    for call in ast.walk(ast.parse(source)):
        if isinstance(call, ast.Call) and ast.unparse(call.func).rpartition(".")[2] in _SAYS and call.args:
            message = call.args[0]
            parts = message.values if isinstance(message, ast.JoinedStr) else [message]
            first, last = parts[0], parts[-1]
            if isinstance(first, ast.Constant) and first.value[:1].islower():
                name = _NAME.match(first.value)
                if name is None or (name[1] and not re.search(rf"\b{name[1]}(:|\()", source)):
                    yield ast.unparse(message)
            if isinstance(last, ast.Constant) and not last.value.endswith((".", "?", "!")):
                yield ast.unparse(message)


def test_every_message_is_a_sentence() -> None:
    faults = [
        f"{path.name}: {fault}"
        for path in Path(mechicl.__file__).parent.rglob("*.py")
        for fault in _faults(path.read_text(encoding="utf-8"))
    ]
    assert not faults, "\n".join(faults)


def test_what_is_no_sentence_is_noticed() -> None:
    assert len(list(_faults("raise InputError('no model')"))) == 2
    assert len(list(_faults("raise InputError(f'shots is {shots}; take one.')"))) == 1  # no such name here
    assert not list(_faults("def f(shots: int): raise InputError(f'shots is {shots}; take one.')"))


def test_half_characters_can_be_printed() -> None:
    assert str(InputError("The text \ud83d is cut.")) == "The text \\ud83d is cut."


def test_what_does_not_fit_says_why_apart_from_what_to_do() -> None:
    error = DoesNotFit("3 prompts are too long", "use fewer shots")
    assert str(error) == "3 prompts are too long; use fewer shots."
    assert error.reason == "3 prompts are too long"
