"""Save a context's keys and values in a folder, and validate them when they are loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mechicl.errors import InputError
from mechicl.files.saved import fits, packed, read_tensors
from mechicl.files.writing import make_folder, write_atomically
from mechicl.models import KeyValues

_TENSORS = ("keys", "values", "positions")


def write_context(folder: str | Path, layers: Sequence[KeyValues], facts: Mapping[str, Any]) -> Path:
    """Write `context.safetensors` and `context.json`; return the path of the former."""
    path = make_folder(folder) / "context.safetensors"
    tensors = {f"{name}.{i}": getattr(kv, name).clone() for i, kv in enumerate(layers) for name in _TENSORS}
    payload, text = packed(tensors, facts)  # layers share positions, hence the clones
    write_atomically(path, payload)
    write_atomically(path.with_suffix(".json"), text)
    return path


def read_context_files(
    folder: str | Path, device: torch.device | str, kinds: Mapping[str, Any]
) -> tuple[tuple[KeyValues, ...], dict[str, Any]]:
    """Layers and facts as they were written; each fact has a type in `kinds`; InputError for anything else."""
    tensors, raw = read_tensors(Path(folder) / "context.safetensors", "context", str(device))
    facts: dict[str, Any] = {"tokenizer_digest": "", "origin_digest": ""}
    facts |= {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
    named = all(isinstance(facts.get(name), str) and facts[name] for name in ("model", "weight_digest"))
    if not named or facts.keys() != kinds.keys() or not all(fits(facts[name], kind) for name, kind in kinds.items()):
        raise InputError(f"The JSON in {folder} does not describe a saved context; save the context again.")
    n = len(tensors) // 3
    if not n or set(tensors) != {f"{name}.{i}" for name in _TENSORS for i in range(n)}:
        raise InputError(f"The context in {folder} lacks keys, values or positions of a layer; save it again.")
    layers = tuple(KeyValues(*(tensors[f"{name}.{i}"] for name in _TENSORS)) for i in range(n))
    if (reason := _contradiction(layers, facts)) is not None:
        raise InputError(f"The context in {folder} contradicts itself ({reason}); save it again.")
    return layers, facts


def _contradiction(layers: Sequence[KeyValues], facts: Mapping[str, Any]) -> str | None:
    """Why these keys, values and positions are invalid, in words; None if they are valid."""
    shape, dtype = layers[0].keys.shape, layers[0].keys.dtype
    for layer in layers:
        if layer.keys.shape != layer.values.shape or layer.keys.shape != shape or len(shape) != 4 or shape[0] != 1:
            return "keys and values differ in shape"
        if layer.keys.dtype != dtype or layer.values.dtype != dtype or not dtype.is_floating_point:
            return "keys and values differ in dtype"
        if layer.positions.dtype != torch.long or layer.positions.shape not in (shape[1:2], shape[:2]):
            return "a key has no position"
    places, classes = facts["places"], facts["anchor_classes"]
    if shape[1] != len(places) or list(places) != sorted(set(places)) or min(places) < 0:
        return "there is not one place for each key"
    if len(facts["anchors"]) != len(classes) or facts["next_position"] < 0:
        return "label words without a class, or a position below zero"
    n_classes = len(facts["label_ids"])
    if n_classes != len(facts["label_words"]) or not set(classes) <= set(range(n_classes)):
        return "classes without a label word"
    return None
