"""The exceptions a user meets. Their messages are written as they are read: whole sentences, names as they are."""

from __future__ import annotations


class InputError(ValueError):
    """Something given to mechicl cannot be used; the message says what, what was expected, and what to do.

    The command line prints it as one sentence and exits with code 2; a notebook shows it as an ordinary error.
    """

    def __init__(self, message: str) -> None:
        super().__init__(_printable(message))


class DoesNotFit(InputError):
    """Prompts are longer than the context, or ask for more examples than the data have: fewer shots would do.

    Args:
        reason: What does not fit, as a sentence without its full stop.
        remedy: What to do about it.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}.")
        self.reason = reason


class NumericalError(ArithmeticError):
    """A result is NaN or infinite; the message names where it arose."""

    def __init__(self, message: str) -> None:
        super().__init__(_printable(message))


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _printable(message: str) -> str:
    """The message with halves of characters written out ("\\ud83d"), so that it can be printed and saved."""
    return message.encode("utf-8", "backslashreplace").decode()
