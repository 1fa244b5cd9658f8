"""The exceptions a user meets. Their messages are sentences: a capital letter in front, a full stop at the end."""


class InputError(ValueError):
    """Something given to mechicl cannot be used; the message says what, what was expected, and what to do.

    The command line prints it as one sentence and exits with code 2; a notebook shows it as an ordinary error.
    """

    def __init__(self, message: str) -> None:
        super().__init__(sentence(message))


class DoesNotFit(InputError):
    """Prompts are longer than the context, or ask for more examples than the data have: fewer shots would do."""


class NumericalError(ArithmeticError):
    """A result is NaN or infinite; the message names where it arose."""

    def __init__(self, message: str) -> None:
        super().__init__(sentence(message))


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def sentence(message: str) -> str:
    """The message with a full stop, and a capital letter where it begins with a word rather than a name or a path.

    Halves of characters in it are written out ("\\ud83d"), so that every message can be printed and saved.
    """
    message = message.encode("utf-8", "backslashreplace").decode()
    first = message.split(maxsplit=1)[:1]
    begun = message[:1].upper() + message[1:] if first and first[0].isalpha() else message
    return begun if begun.endswith((".", "!", "?")) or not begun else f"{begun}."
