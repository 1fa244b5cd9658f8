"""The exceptions that users see, and checks that several modules share.

Messages are whole sentences, with names unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path
from reprlib import repr as shorten
from typing import Any

_LARGEST = 2**32 - 1


class InputError(ValueError):
    """An input cannot be used; the message says which, what was expected, and what to do.

    The command line prints it as one sentence and exits with code 2; a notebook shows it as an ordinary error.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class DoesNotFit(InputError):
    """Prompts are longer than the context, or need more examples than the data have: fewer shots would fit.

    Args:
        reason: What does not fit, as a sentence without its full stop.
        remedy: What to do about it.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}.")
        self.reason = reason


class NumericalError(ArithmeticError):
    """A result is NaN or infinite; the message says where it arose."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def one_sentence(file: object) -> Iterator[None]:
    """Turn an error in reading or decoding a file into an InputError.

    Args:
        file: A path, or a phrase with it ("The task file jokes.json"), for the message.
    """
    if "\0" in str(file):
        raise InputError(f"{str(file)!r} contains a null character, which paths cannot; give another path.")
    try:
        yield
    except UnicodeEncodeError:
        raise InputError(f"{file} contains an unpaired surrogate, which paths cannot; give another path.") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 text ({_place(file, error)}: {error.reason}); convert it.") from None
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise InputError(f"{file} cannot be read: {reason.rstrip('.')}.") from None


def _place(file: object, error: UnicodeDecodeError) -> str:
    """Where a text file is not UTF-8; readers in chunks do not know the line."""
    if isinstance(file, Path) and file.suffix not in (".parquet", ".gz", ".bz2", ".xz", ".zst"):
        try:
            file.read_bytes().decode()
        except UnicodeDecodeError as whole:
            return f"byte {whole.start} in line {whole.object[: whole.start].count(10) + 1}"
    return f"byte {error.start}"


@contextmanager
def retold(sentence: Callable[[Exception], str]) -> Iterator[None]:
    """Turn whatever a library raises into an InputError with this sentence; an InputError passes unchanged."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(OUT_OF_MEMORY if out_of_memory(error) else sentence(error)) from error


_NO_MEMORY = (
    "allocate memory", "out of memory", "bad_alloc", "map segment", "start new thread", "ALLOC_FAILED",
)  # fmt: skip
"""Out-of-memory messages of PyTorch, the system's loader, Python and CUDA's libraries."""
OUT_OF_MEMORY = (
    "Memory ran out; use shorter prompts, a smaller batch size, a smaller model or a lower-precision dtype, or allow "
    "more memory (ulimit -v, the limit of the job)."
)


def out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or its cause, says in any form that memory ran out."""
    if error is None:
        return False
    says = any(words.lower() in str(error).lower() for words in _NO_MEMORY)
    by_a_library = isinstance(error, (RuntimeError, OSError, ImportError, SystemError)) and says
    by_name = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"  # PyTorch's own
    return by_name or by_a_library or out_of_memory(error.__cause__)


def check_unicode(text: str, where: str) -> None:
    """Reject a text with an unpaired surrogate, such as the first of an emoji: it has no UTF-8, so no tokens.

    Python's `json` returns such texts for "\\ud83d" without its other half; UTF-8 files cannot contain them.

    Args:
        where: What the text is, or file and line, for the message.

    Raises:
        InputError: names `where`, the surrogate, and its index in the text, counted from 0.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        raise InputError(
            f"{where} contains an unpaired surrogate, {half}, at character {error.start}, which no tokenizer reads; "
            "write the whole character, or remove it."
        ) from None


def check_seed(seed: Any) -> None:
    """Raise InputError unless the generators of numpy and torch accept the seed."""
    number = int(seed) if isinstance(seed, Integral) else None
    if number is None or not 0 <= number <= _LARGEST:
        written = "far too large" if number is not None and abs(number) >= 10**20 else shorten(seed)
        raise InputError(f"The seed is {written}; choose one from 0 to {_LARGEST}.")


def check_count(what: str, value: Any, least: int = 1) -> None:
    """Raise InputError unless a value is a whole number of at least ``least``; ``what`` begins the message."""
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        raise InputError(f"{what} is {shorten(value)}; give a whole number, at least {least}.")


def check_choice(what: str, value: object, choices: Sequence[str]) -> None:
    """Raise InputError unless a value is one of the choices; ``what`` begins the message."""
    if not isinstance(value, str) or value not in choices:
        raise InputError(f"{what} is {shorten(value)}; it must be {' or '.join(map(repr, choices))}.")


_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
"""Characters in a name that would end a line or control a terminal."""


def printable(message: str) -> str:
    """The message in one printable line, with invisible characters and lone surrogates escaped."""
    message = _UNSEEN.sub(lambda found: repr(found[0])[1:-1], message)
    return message.encode("utf-8", "backslashreplace").decode()
