"""A model's origin and weights, for the provenance of a result."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch

from mechicl.models.adapter import hooked
from mechicl.models.bridge_parts import joint_modules
from mechicl.models.digests import fingerprints
from mechicl.models.facts import attributes, described, module_facts, settings
from mechicl.models.silent import has_own_hooks, installed_by_library
from mechicl.versions import versions

_origins: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()
_digests: WeakKeyDictionary[Any, tuple[Any, str]] = WeakKeyDictionary()
_loaded: WeakKeyDictionary[Any, list[int]] = WeakKeyDictionary()
"""Fingerprints of the weights as they were loaded."""

_CHUNK = 1 << 24
"""Number of elements copied to the host at a time while hashing (at most 64 MiB in float32)."""


def remember(model: Any, **origin: Any) -> None:
    """Record a loaded model's origin (`source`, `processing`) and its current weights."""
    _origins[model] = origin
    _loaded[model] = _fingerprints(model)


def provenance(model: Any) -> dict[str, Any]:
    """Describe a model for a result's provenance.

    Returns a JSON-ready dict: name, source, processing, weight_digest (sha256 of all parameters), dtype, config_digest,
    device, versions; and, if there are any, the hook points with the user's own hooks, because numbers measured under
    them are not the model's own.
    """
    net = hooked(model)
    places = own_hooks(net.raw)
    origin = _origins.get(net.raw, {"source": "given by the user", "processing": "as given"})
    return {
        "name": net.name,
        **origin,
        "weight_digest": weight_digest(net.raw),
        "config_digest": config_digest(net),
        "dtype": str(net.dtype).removeprefix("torch."),
        "device": str(net.device),
        "n_layers": net.sizes.n_layers,
        "versions": versions(),
        **({"hooked": places} if places else {}),
    }


def own_hooks(raw: Any) -> list[str]:
    """Names of the modules on which the user's own hooks are installed."""
    library = frozenset().union(*(installed_by_library(block) for block in getattr(raw, "blocks", ())))
    return [name for name, module in raw.named_modules() if has_own_hooks(module, library)]


def identity(raw: Any) -> dict[str, str]:
    """What a saved file stores to recognise its model: `weight_digest` and `origin_digest`.

    The latter is the SHA-256 of the weights' files, of processing and dtype, and hence the same for both classes; it is
    empty if weights were edited since, or did not come from files.
    """
    return {"weight_digest": weight_digest(raw), "origin_digest": _origin_digest(raw)}


def is_same_model(raw: Any, known: Mapping[str, Any]) -> bool:
    """Whether a model is the one of `identity`, or of the other class from the same files, loaded in the same way."""
    origin = known.get("origin_digest")
    return weight_digest(raw) == known.get("weight_digest") or bool(origin and origin == _origin_digest(raw))


def is_as_loaded(raw: Any) -> bool:
    """Whether a model's weights are bit-identical to the loaded ones."""
    return _loaded.get(raw) == _fingerprints(raw)


def _origin_digest(raw: Any) -> str:
    origin = _origins.get(raw, {})
    if "files_sha256" not in origin or not is_as_loaded(raw):
        return ""
    dtypes = sorted({str(parameter.dtype) for _, parameter in _parameters(raw)})
    facts = [origin["files_sha256"], origin["processing"], dtypes]
    return hashlib.sha256(repr(facts).encode()).hexdigest()


_ELSEWHERE = {"device", "n_devices", "dtype", "model_name", "tokenizer_name", "tokenizer_prepends_bos", "seed"}


def config_digest(model: Any) -> str:
    """Shortened SHA-256 of what is computed with the weights: the settings (a window, a base of rotation), the modules
    (an activation, an epsilon, a scale, user-defined code), and a user-defined adapter.
    """
    net = hooked(model)
    cfg = getattr(net.raw, "cfg", None)
    fields, facts = settings(cfg, *_ELSEWHERE) if cfg else [], module_facts(net.raw)
    if not type(net).__module__.startswith("mechicl."):
        facts += [described(type(net)), *(f"{key} {text}" for key, text in attributes(net, root=False))]
    return hashlib.sha256(repr([fields, facts]).encode(errors="surrogatepass")).hexdigest()[:16]


def weight_digest(raw: Any) -> str:
    """Sha256 over the names, shapes, dtypes and bytes of all parameters, in order of their names.

    Buffers are left out because TransformerLens grows its rotary tables while it runs. The digest is cached until a
    parameter is replaced or edited, in place or through `parameter.data`, which a fast fingerprint of all bits detects.

    A Bridge's parameters have Hugging Face's names and layouts, so its digest equals that of the same Bridge with
    another version of TransformerLens, but not that of a HookedTransformer with the same weights; `identity` covers
    these, too.
    """
    parameters = _parameters(raw)
    facts = [(name, p.data_ptr(), p._version, p.dtype, tuple(p.shape), p.stride()) for name, p in parameters]
    state = (facts, _fingerprints(raw))
    known = _digests.get(raw)
    if known is not None and known[0] == state:
        return known[1]
    digest = hashlib.sha256()
    for name, parameter in parameters:
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}\n".encode())
        flat: Any = parameter.detach().reshape(-1)
        for chunk in flat.split(_CHUNK):
            digest.update(chunk.cpu().contiguous().view(torch.uint8).numpy())
    _digests[raw] = (state, digest.hexdigest())
    return digest.hexdigest()


def _fingerprints(raw: Any) -> list[int]:
    return fingerprints(parameter for _, parameter in _parameters(raw))


def _parameters(raw: Any) -> list[tuple[str, torch.nn.Parameter]]:
    return sorted(_named(raw))


def _named(raw: Any) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """A model's parameters by name; for a Bridge those that it computes with, by names without its wrappers'.

    A Bridge computes with the parts of a joint weight, and leaves the joint one unchanged. TransformerLens 3.9 gives
    the unembedding a bias of zeros if there is none.
    """
    if not hasattr(raw, "original_model"):
        yield from raw.named_parameters()
        return
    split = {id(p) for block in raw.blocks for joint in joint_modules(block) for p in joint.parameters()}
    added: Any = getattr(raw.unembed.original_component, "bias", None)
    for name, parameter in raw.named_parameters():
        if id(parameter) not in split and (parameter is not added or bool(added.any())):
            yield name.replace("_original_component.", ""), parameter
