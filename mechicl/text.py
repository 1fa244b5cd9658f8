"""Text from outside: decoded in one sentence, and free of halves of characters, which no tokenizer takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mechicl.errors import InputError, first_line


@contextmanager
def one_sentence(file: object) -> Iterator[None]:
    """Turn an error in reading or decoding a file into an InputError.

    Args:
        file: A path, or words that hold it ("The task file jokes.json"), for the message.
    """
    if "\0" in str(file):
        raise InputError(f"{str(file)!r} holds a null character, which no path does; give another path.")
    try:
        yield
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 text (byte {error.start}: {error.reason}); convert it.") from None
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise InputError(f"{file} cannot be read: {reason}.") from None


def check_unicode(text: str, where: str) -> None:
    """Refuse a text with a lone surrogate, half of a character such as an emoji: it has no UTF-8, so no tokens.

    Python's `json` makes such texts of "\\ud83d" without its other half; UTF-8 files cannot hold them.

    Args:
        where: What the text is, or file and line, for the message.

    Raises:
        InputError: Names `where`, the half, and the place of its character in the text, counted from 0.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        raise InputError(
            f"{where} holds half of a character, {half} at character {error.start}, which no tokenizer reads; write "
            "the whole character, or remove the half."
        ) from None
