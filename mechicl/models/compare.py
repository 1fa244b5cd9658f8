"""Check that a converted model computes the same as its original, on short sequences and on long ones.

Both run on a few tokens, and on a sequence beyond every length that the configuration names (windows, chunks, scaled
rotations). If that is too expensive for the whole model, only its first layers are compared.

An outcome is cached for its files, versions and options; if any of them changes, the models are compared again. Only
agreement is cached.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechicl import cache
from mechicl.errors import InputError
from mechicl.metrics import log_probs
from mechicl.models.blockwise import blockwise
from mechicl.models.settings import context_length, windows
from mechicl.versions import versions

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}
"""Largest difference of two log-probabilities, relative to the largest of them: about ten times the rounding error of
48 layers, and far below the effect of a dropped bias or a wrong rotation."""
_ROTATED_WELL = 400
"""Number of tokens up to which this holds; beyond, rounding errors of rotation angles grow with the position."""
_MEAN_ERROR = {torch.float16: 0.03, torch.bfloat16: 0.08}
"""Limits for half precision, in nats: right conversions of 10 architectures are below .011 and .052, wrong ones not."""
_AGREEMENT = 0.85
"""For half precision, least share of positions with the same top-1 token; correct conversions have .89 or more."""

_SHORT = 32
_BEYOND = 8
"""Number of tokens to compare beyond a length at which the computation changes."""
_SMALL = 512
"""Largest context on all of which a model is compared."""
_READ = 64
"""Positions at the end of a long sequence whose logits are compared."""
_LISTENED = 2048
"""Number of tokens up to which a Bridge runs with hooks, because TransformerLens stores a layer's scores."""
_AFFORDABLE, _ONCE = 4e11, 4e12
"""Most operations of one pass: a few seconds on two cores for the whole model; more for its first layers, if the whole
model would take too long."""
_KEPT = "comparisons"
"""Folder of the cache with a file for each outcome."""


@dataclass(frozen=True)
class Sample:
    """Tokens to compare two models on."""

    tokens: Int[Tensor, "1 pos"]
    n_layers: int
    """Number of layers that take part, from the first on."""


def check_windows(hf_model: Any, cfg: Any, n_ctx: int) -> None:
    """Raise `InputError` if the converted model sees further back than the original, or less far."""
    text = hf_model.config.get_text_config()
    fields = ("sliding_window", "attention_chunk_size", "window_size")
    if not any(hasattr(type(text), field) for field in fields):  # others may have the name without using it
        return
    original = windows(hf_model.config)
    kept = [cfg.window_size if _is_local(cfg, layer) else None for layer in range(len(original))]
    wrong = [
        layer
        for layer, (theirs, ours) in enumerate(zip(original, kept, strict=True))
        if min(theirs or n_ctx, n_ctx) != min(ours or n_ctx, n_ctx)
    ]
    if wrong:
        window = original[wrong[0]] or kept[wrong[0]]
        raise InputError(
            f"In layer {wrong[0]} this {type(hf_model).__name__} sees {_reach(original[wrong[0]])}, and "
            f"TransformerLens's conversion of it {_reach(kept[wrong[0]])}; pass n_ctx={window}, within which the "
            "two are the same, or use another model."
        )


def _is_local(cfg: Any, layer: int) -> bool:
    return bool(cfg.use_local_attn and cfg.attn_types is not None and cfg.attn_types[layer] == "local")


def _reach(window: int | None) -> str:
    return "all earlier tokens" if window is None else f"a window of {window} tokens"


def samples(hf_model: Any, cfg: Any, n_ctx: int) -> list[Sample]:
    """A short sequence for all layers, and a long one, beyond all thresholds, for as many layers as is affordable.

    Warns if not even the first layer can be compared beyond a threshold on this machine.
    """
    found = [Sample(_tokens(min(n_ctx, _SHORT), cfg.d_vocab), cfg.n_layers)]
    kinds = _windows_of(hf_model.config, cfg.n_layers)
    one_of_each = 1 + max(kinds.index(kind) for kind in set(kinds))
    thresholds = sorted(_thresholds(hf_model.config, n_ctx), reverse=True)
    for threshold in thresholds:
        long = min(n_ctx, threshold + _BEYOND)
        for layers, affordable in ((cfg.n_layers, _AFFORDABLE), (one_of_each, _ONCE), (1, _ONCE)):
            if long > _SHORT and _operations(cfg, long, layers) <= affordable:
                if threshold < thresholds[0]:
                    _warn_of_uncompared(cfg, thresholds[0])
                return [*found, Sample(_tokens(long, cfg.d_vocab), layers)]
    if thresholds and thresholds[0] > _SHORT:
        _warn_of_uncompared(cfg, thresholds[0])
    return found


def _warn_of_uncompared(cfg: Any, threshold: int) -> None:
    warnings.warn(
        f"{cfg.model_name} computes differently beyond {threshold} tokens, and comparing it with its original there "
        "takes too long on this machine: we have not checked its outputs on longer sequences.",
        stacklevel=2,
    )


def _windows_of(hf_config: Any, n_layers: int) -> list[int | None]:
    """Each layer's window; no limits if the configuration's list belongs to another part of the model."""
    found = windows(hf_config)
    return found if len(found) == n_layers else [None] * n_layers


def _thresholds(hf_config: Any, n_ctx: int) -> set[int]:
    """Lengths below `n_ctx` at which a model's computation changes, and `n_ctx` if it is affordable."""
    text = hf_config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or {}
    parts = [rope, *(part for part in rope.values() if isinstance(part, dict))]
    named = [
        *windows(hf_config),
        context_length(hf_config),
        *(part.get("original_max_position_embeddings") for part in parts),
        getattr(text, "original_max_position_embeddings", None),
    ]
    return {int(length) for length in named if length and length < n_ctx} | ({n_ctx} if n_ctx <= _SMALL else set())


def _operations(cfg: Any, length: int, n_layers: int) -> float:
    d_mlp: int = cfg.d_mlp or 0
    experts = max(1, getattr(cfg, "num_experts", None) or 1)
    weights = 4 * cfg.d_model * cfg.n_heads * cfg.d_head + 3 * cfg.d_model * d_mlp * experts
    attention = 2 * length * cfg.n_heads * cfg.d_head
    return float(2 * length * n_layers * (weights + attention) + 2 * min(length, _READ) * cfg.d_model * cfg.d_vocab)


def _tokens(n: int, d_vocab: int) -> Int[Tensor, "1 pos"]:
    return (torch.arange(1, n + 1) * 7919 % d_vocab)[None]


def original_log_probs(hf_model: Any, sample: Sample) -> Float[Tensor, "1 pos d_vocab"]:
    """A Hugging Face model's log-probabilities for the last tokens of a sample."""
    accepts = inspect.signature(hf_model.forward).parameters
    less = {"logits_to_keep": _READ} if "logits_to_keep" in accepts else {}
    with torch.no_grad(), _first_layers(hf_model, sample.n_layers):
        logits = hf_model(sample.tokens.to(hf_model.device), use_cache=False, **less).logits
    return _log_probs(logits)


def converted_log_probs(model: Any, sample: Sample) -> Iterator[Float[Tensor, "1 pos d_vocab"]]:
    """The same for its conversion: by TransformerLens's own path or, if a sample is long, by ours, which stores no
    scores. A Bridge takes our path twice, because other modules run if there are hooks.
    """
    net = blockwise(model, "The comparison")
    tokens = sample.tokens.to(net.device)
    bridge = hasattr(model, "original_model")
    with torch.no_grad(), net.reordered(range(sample.n_layers)):
        if not bridge and (tokens.shape[1] <= _SHORT or net.unsupported_reason is not None):
            yield _log_probs(model(tokens, prepend_bos=False))
            return
        yield _log_probs(net.read(net.forward(tokens)[:, -_READ:]))
        if bridge and tokens.shape[1] <= _LISTENED:
            with net.hooks([(f"blocks.{layer}.hook_attn_out", _listen) for layer in range(sample.n_layers)]):
                yield _log_probs(net.read(net.forward(tokens)[:, -_READ:]))


def _listen(value: Tensor, hook: Any) -> None:
    """A hook that reads a value without changing it."""


def _log_probs(logits: Tensor) -> Tensor:
    return log_probs(logits[:, -_READ:]).cpu()


@contextmanager
def _first_layers(hf_model: Any, n_layers: int) -> Iterator[None]:
    """A context in which a Hugging Face model runs only its first layers."""
    parent, name, layers = next(
        (parent, name, child)
        for parent in hf_model.get_decoder().modules()  # a multimodal model has other layers too
        for name, child in parent.named_children()
        if isinstance(child, torch.nn.ModuleList) and len(child) >= n_layers
    )
    try:
        setattr(parent, name, layers[:n_layers])
        yield
    finally:
        setattr(parent, name, layers)


def check_same(
    found: Float[Tensor, "1 pos d_vocab"],
    expected: Float[Tensor, "1 pos d_vocab"],
    length: int,
    dtype: torch.dtype,
    wrong: Callable[[], str],
) -> None:
    """Raise `InputError` with the message of `wrong` if two models' log-probabilities, at the end of `length` tokens,
    differ by more than rounding in `dtype` explains.
    """
    difference = (found - expected).abs()
    largest, mean = float(difference.max()), float(difference.mean())
    if dtype in TOLERANCE:
        scale = max(1.0, float(expected.abs().max())) * max(1.0, length / _ROTATED_WELL)
        same = largest <= TOLERANCE[dtype] * scale
    else:
        agreement = float((found.argmax(-1) == expected.argmax(-1)).float().mean())
        same = mean <= _MEAN_ERROR[dtype] and agreement >= _AGREEMENT
    if not same:
        raise InputError(f"{wrong()} (log-probabilities differ by up to {largest:.2g} nats in {length} tokens).")


def dropped(hf_model: Any, state: dict[str, Tensor]) -> list[str]:
    """Names of nonzero biases and gains of the original whose numbers are nowhere in the converted weights."""
    pool = torch.cat([tensor.detach().flatten().float().cpu() for tensor in state.values() if tensor.ndim <= 2
                      and tensor.numel() <= 1 << 20])  # fmt: skip
    return [
        name
        for name, parameter in hf_model.named_parameters()
        if parameter.ndim == 1 and bool(parameter.any()) and not bool(_all_in(parameter, pool))
    ]


def _all_in(parameter: Tensor, pool: Tensor) -> Tensor:
    values = parameter.detach().float().cpu()
    # Gemma's gains are stored minus 1.
    return torch.isin(values, pool).all() | torch.isin(values + 1, pool).all()


def comparison_key(files: str, **options: Any) -> str:
    """The key of an outcome: the digest of the files, the loading options, and the versions of all libraries used."""
    facts = {"files": files, "versions": versions(), **{name: str(value) for name, value in options.items()}}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def was_compared(key: str) -> bool:
    """Whether models with this key were compared and agreed."""
    with suppress(OSError, InputError):
        return (cache.folder() / _KEPT / key).is_file()
    return False


def remember_comparison(key: str) -> None:
    """Record that they agreed; if nothing can be written, they are compared again next time."""
    with suppress(OSError, InputError):
        folder = cache.folder() / _KEPT
        folder.mkdir(parents=True, exist_ok=True)
        (folder / key).touch()
