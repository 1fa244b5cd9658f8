"""The Hugging Face hub: whether it responds, and what will be downloaded from it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any
from unittest.mock import patch

TIMEOUT = 3.0
"""Seconds within which the hub must respond; its own client tries for half a minute."""

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


@cache
def reachable() -> bool:
    """Whether the hub responds, checked once; False if HF_HUB_OFFLINE is set."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=TIMEOUT)
    except Exception:  # whatever the network, a proxy or its certificates raise
        return False
    return True


@contextmanager
def at_hand() -> Iterator[None]:
    """Use the hub if it responds, otherwise the files on disk at once; without this, the clients retry repeatedly."""
    with ExitStack() as stack:
        if not reachable():
            import datasets.config
            from huggingface_hub import constants

            stack.enter_context(patch.object(constants, "HF_HUB_OFFLINE", True))
            stack.enter_context(patch.object(datasets.config, "HF_HUB_OFFLINE", True))
        yield


def announce(model: str, revision: str | None = None) -> None:
    """Print on standard error that a model will be downloaded, with its size, unless it is already here."""
    if reachable() and not kept(model, revision):
        size = size_of(model)
        amount = f"{size / 1e9:.1f} GB" if size else "its size is not known"
        print(
            f"mechicl: Downloading {model} from the Hugging Face hub ({amount}); it is kept in the cache.",
            file=sys.stderr,
        )


def kept(model: str, revision: str | None = None) -> bool:
    """Whether a model's weights at a revision are in the hub's cache on disk."""
    from huggingface_hub import try_to_load_from_cache

    return any(isinstance(try_to_load_from_cache(model, name, revision=revision), str) for name in _WEIGHTS)


def size_of(model: str) -> int | None:
    """Bytes of a model's weights on the hub, in the format that would be downloaded; None if unknown."""
    from huggingface_hub import HfApi

    try:
        found: Any = HfApi().model_info(model, files_metadata=True, timeout=TIMEOUT)
    except Exception:  # it is only a message
        return None
    sizes = {one.rfilename: one.size or 0 for one in found.siblings or ()}
    for suffix in (".safetensors", ".bin"):
        weights = [size for name, size in sizes.items() if name.endswith(suffix) and "/" not in name]
        if weights:
            return sum(weights)
    return None
