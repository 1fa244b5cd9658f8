"""The form in which every example of a task is written."""

from __future__ import annotations

from dataclasses import dataclass
from string import Formatter

from mechicl.doors import door
from mechicl.errors import InputError


@dataclass(frozen=True)
class Template:
    """``before {text} between {label} after``, one block per example, blocks joined by the separator.

    A query is the same block truncated right before its label.
    """

    before: str
    between: str
    after: str
    separator: str = "\n"

    @classmethod
    @door
    def parse(cls, form: str, separator: str = "\n") -> Template:
        """Parse a form such as ``"Review: {text}\\nSentiment:{label}"``; ``{{`` and ``}}`` are literal braces.

        Raises:
            InputError: The form lacks ``{text}`` or ``{label}``, has them twice or in the other order, has
                other fields, or has nothing between them or a space before the label.
        """
        try:
            pieces = list(Formatter().parse(form))
        except ValueError as error:
            raise InputError(f"The template {form!r} cannot be read: {error}; write braces as {{{{ and }}}}.") from None
        fields = [
            f"{field}{'!' + conversion if conversion else ''}{':' + spec if spec else ''}"
            for _, field, spec, conversion in pieces
            if field is not None
        ]
        if fields != ["text", "label"]:
            raise InputError(
                f"The template {form!r} has the fields {fields}; it needs {{text}} once and then {{label}} "
                "once, as in 'Review: {text}\\nSentiment:{label}'."
            )
        # Formatter ends a piece at every field and at every escaped brace; only fields split the form.
        literals = [""]
        for literal, field, _, _ in pieces:
            literals[-1] += literal
            literals += [""] if field is not None else []
        before, between, after = literals
        if not between:
            raise InputError(
                f"The template {form!r} has nothing between {{text}} and {{label}}; the token before the "
                "label is where the model answers, so write something there, such as '\\nAnswer:'."
            )
        if between[-1] in " \t":
            raise InputError(
                f"The template {form!r} ends in a space before {{label}}; leave it out and begin the label "
                "words with a space instead (' Negative'), because tokenizers join a space to the word that "
                "follows."
            )
        return cls(before, between, after, separator)
