"""Saved files that are loaded again: all contents are validated first."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from torch import Tensor

from mechicl.errors import InputError, first_line
from mechicl.files.json_files import read_object


def packed(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """Tensors and facts about them in their file format: a safetensors file, and JSON with the file's SHA-256."""
    from safetensors.torch import save

    payload = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    digest = hashlib.sha256(payload).hexdigest()
    return payload, json.dumps({**facts, "sha256": digest}, indent=2, default=str).encode()


def read_tensors(path: Path, what: str, device: str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a safetensors file, all finite, and the facts in the JSON file next to it, as `packed` made them.

    Raises:
        InputError: a file is missing, damaged, truncated, or of another kind; `what` names it in the message.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    beside = path.with_suffix(".json")
    if not path.is_file() or not beside.is_file():
        raise InputError(f"There is no saved {what} in {path.parent}; save one there first.")
    try:
        payload = path.read_bytes()
        tensors = {name: tensor.to(device) for name, tensor in load(payload).items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} is damaged ({first_line(error)[:200]}); save the {what} again.") from error
    facts = read_object(beside, f"JSON of the {what}", remedy=f"save the {what} again", lenient=True)
    if facts.pop("sha256", None) != hashlib.sha256(payload).hexdigest():
        raise InputError(f"{path} is not the file that its JSON describes; save the {what} again.")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise InputError(f"{path} holds NaN or infinite numbers in {name!r}; save the {what} again.")
    return tensors, facts


def fits(value: Any, hint: Any) -> bool:
    """Whether a value read from JSON matches a field's annotation; unknown annotations pass."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin is Literal:
        return isinstance(value, (str, int)) and value in arguments
    if origin in (Union, UnionType):
        return any(fits(value, one) for one in arguments)
    if hint is None or hint is type(None):
        return value is None
    if origin is tuple:
        inside = arguments[:1] * len(value) if isinstance(value, tuple) and arguments[-1] is ... else arguments
        pairs = isinstance(value, tuple) and len(value) == len(inside)
        return pairs and all(fits(one, kind) for one, kind in zip(value, inside, strict=True))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping)
    if isinstance(origin, type) and issubclass(origin, Collection):
        return isinstance(value, (list, tuple))
    if hint in (int, float):
        numbers = (int,) if hint is int else (int, float)
        return isinstance(value, numbers) and not isinstance(value, bool)
    return isinstance(value, hint) if isinstance(hint, type) else True
