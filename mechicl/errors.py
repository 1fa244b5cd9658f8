"""The one exception for what a user can put right."""


class InputError(ValueError):
    """Something given to mechicl cannot be used; the message says what, what was expected, and what to do.

    The command line prints it as one sentence and exits with code 2; a notebook shows it as an ordinary error.
    """
