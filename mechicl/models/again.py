"""Reloading a model in another process exactly as it was loaded here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from mechicl.errors import InputError
from mechicl.models.adapter import hooked
from mechicl.models.names import understood
from mechicl.models.provenance import is_as_loaded

_calls: WeakKeyDictionary[Any, Again] = WeakKeyDictionary()


@dataclass(frozen=True)
class Again:
    """A call of `load_model` that another process repeats on its own device."""

    name: str
    how: Mapping[str, Any]

    @property
    def n_devices(self) -> int:
        """Number of devices that each copy of the model takes."""
        return int(self.how.get("n_devices", 1))

    def __call__(self, device: str) -> Any:
        from mechicl.models.loading import load_model

        return load_model(self.name, **self.how, device=device)


def note_call(model: Any, name: Any, **how: Any) -> None:
    """Record the call that loaded a model; local paths become absolute."""
    local = understood(name).kind in ("folder", "gguf", "wheel")
    _calls[model] = Again(os.path.abspath(os.path.expanduser(str(name))) if local else str(name), how)


def again(model: Any) -> Again:
    """How another process loads the model.

    Raises:
        InputError: it was not loaded by `load_model`, or its weights were edited since.
    """
    raw = hooked(model).raw
    if raw not in _calls:
        raise InputError(
            "Workers load the model themselves, and this one is not from mi.load_model; save it in a folder and load "
            "that, or leave out workers."
        )
    if not is_as_loaded(raw):
        raise InputError(
            "Workers load the model themselves, and this one's weights were edited since it was loaded; save it in a "
            "folder and load that, or leave out workers."
        )
    return _calls[raw]
