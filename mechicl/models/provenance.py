"""Where a model came from and which weights it holds, for the provenance of a result."""

from __future__ import annotations

import hashlib
from typing import Any
from weakref import WeakKeyDictionary

import torch

from mechicl.models.adapt import hooked
from mechicl.versions import versions

_origins: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()
_digests: WeakKeyDictionary[Any, tuple[Any, str]] = WeakKeyDictionary()

_CHUNK = 1 << 24
"""Elements copied to the host at a time while hashing (at most 64 MiB in float32)."""


def remember(model: Any, **origin: Any) -> None:
    """Note where a loaded model came from (`source`, `processing`), for `provenance`."""
    _origins[model] = origin


def provenance(model: Any) -> dict[str, Any]:
    """Describe a model for a result's provenance.

    Returns a JSON-ready dict: name, source, processing, weight_digest (sha256 of all parameters), dtype,
    device, versions.
    """
    seam = hooked(model)
    origin = _origins.get(seam.raw, {"source": "given by the user", "processing": "as given"})
    return {
        "name": seam.name,
        **origin,
        "weight_digest": weight_digest(seam.raw),
        "dtype": str(seam.dtype).removeprefix("torch."),
        "device": str(seam.device),
        "versions": versions(),
    }


def weight_digest(raw: Any) -> str:
    """Sha256 over the names, shapes, dtypes and bytes of all parameters, in order of their names.

    Buffers are left out: TransformerLens grows its rotary tables while it runs. The digest is kept until a
    parameter is replaced or edited in place (edits through `parameter.data` go unnoticed by PyTorch, and so
    by this cache).
    """
    parameters = sorted(raw.named_parameters())
    state = [(name, p.data_ptr(), p._version, p.dtype) for name, p in parameters]
    known = _digests.get(raw)
    if known is not None and known[0] == state:
        return known[1]
    digest = hashlib.sha256()
    for name, parameter in parameters:
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}\n".encode())
        for chunk in parameter.detach().reshape(-1).split(_CHUNK):
            digest.update(chunk.cpu().contiguous().view(torch.uint8).numpy())
    _digests[raw] = (state, digest.hexdigest())
    return digest.hexdigest()
