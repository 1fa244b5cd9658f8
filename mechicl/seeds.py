"""Seeds: the whole numbers that every generator in use takes."""

from __future__ import annotations

from mechicl.errors import InputError

LARGEST = 2**32 - 1


def check_seed(seed: int) -> None:
    """Raise InputError unless numpy's and torch's generators take it."""
    if not 0 <= seed <= LARGEST:
        raise InputError(f"A seed is {seed if abs(seed) < 10**20 else 'far too large'}; take one from 0 to {LARGEST}.")
