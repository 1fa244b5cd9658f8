"""The exceptions a user meets."""


class InputError(ValueError):
    """Something given to mechicl cannot be used; the message says what, what was expected, and what to do.

    The command line prints it as one sentence and exits with code 2; a notebook shows it as an ordinary error.
    """


class NumericalError(ArithmeticError):
    """A result is NaN or infinite; the message names where it arose."""
