"""Check on a few tokens that a TransformerBridge is just its embedding, its blocks in sequence, and its unembedding.

Hugging Face's models may do more in their forward passes than their parts show (a scale, a projection, a second
stream), and a Bridge that the user made was never compared with anything. So its first use compares its parts with its
own forward pass: without hooks, with hooks, and on cached keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mechicl.errors import InputError, first_line, out_of_memory
from mechicl.models.adapter import frozen
from mechicl.models.silent import muted

_TOKENS, _PAST = 8, 5
_TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3}
"""Tolerances relative to the largest residual or logit; half precision rounds to 8 or 11 bits in every layer, and
Hugging Face's modules compute norms and softmax in float32 even for float64."""


@dataclass(frozen=True)
class Findings:
    """The findings of a first run."""

    reason: str | None = None
    """Why blocks cannot be run one by one, in words."""
    reads: str | None = None
    """Why logits cannot be read from the last residual, in words."""
    never_fire: frozenset[str] = frozenset()
    """Hook points of blocks that exist but never fire."""


@torch.no_grad()
def examine(net: Any) -> Findings:
    """Run a few tokens through a `BridgeModel`, by its own forward pass and by parts. The user's hooks do not fire.

    Raises `InputError` if the model's own forward pass fails on them, or if it has no final norm (OPT-350m).
    """
    raw = net.raw
    if not hasattr(raw, "ln_final"):
        raise InputError(f"{net.name} has no norm before its unembedding, without which mechicl reads no logits.")
    if (reason := _beyond_a_few_tokens(net)) is not None:
        return Findings(reason)
    tokens = (torch.arange(1, min(_TOKENS, raw.cfg.n_ctx) + 1) % raw.cfg.d_vocab)[None]
    with frozen(net), muted(raw, raw.original_model):
        try:
            last, expected = net.whole(tokens), raw(tokens.to(net.device), prepend_bos=False, padding_side="right")
        except Exception as error:
            raise InputError(f"The forward pass of {net.name} fails on tokens alone ({first_line(error)}).") from error
        reads = None if _same(net.read(last), expected) else "computes its logits from more than the last residual"
        try:
            fired = _listen(net, tokens)
            silent = _in_a_row(net, net.embed(tokens))
            cached = _on_cache(net, tokens)
        except Exception as error:  # whatever a block raises when it is called on its own
            if out_of_memory(error):
                raise
            return Findings(f"has blocks that do not run on their own ({first_line(error)})", reads)
        # Also by logits: an entry of thousands at position 0, the attention sink, hides errors of all other positions.
        alike = reads is not None or all(_same(net.read(one), expected) for one in (fired[0], silent))
    same = alike and _same(fired[0], last) and _same(silent, last) and _same(cached, last[:, _PAST:])
    reason = None if same else f"({type(raw.original_model).__name__}) is more than its blocks in a row"
    inside = {name for name in net._points() if name.startswith("blocks.")}
    return Findings(reason, reads, frozenset(inside - fired[1]))


def _beyond_a_few_tokens(net: Any) -> str | None:
    """Dependence on more than explicit positions and cached keys that shows only on long sequences."""
    config = net._config
    if "chunked_attention" in (getattr(config, "layer_types", None) or ()):
        return "attends in chunks"
    rope = getattr(config, "rope_parameters", None) or {}
    for part in (rope, *(part for part in rope.values() if isinstance(part, dict))):
        original = part.get("original_max_position_embeddings") or getattr(config, "max_position_embeddings", 0)
        if part.get("rope_type") in ("dynamic", "longrope") and net.raw.cfg.n_ctx > original:
            return "rotates by angles that depend on the length of the whole sequence"
    return None


def _in_a_row(net: Any, resid: Tensor) -> Tensor:
    for layer in range(len(net.raw.blocks)):
        resid = net.whole_block(layer, resid)
    return resid


def _listen(net: Any, tokens: Tensor) -> tuple[Tensor, set[str]]:
    """The last residual with hooks everywhere, and the names of the hook points that fired."""
    fired: set[str] = set()
    points = [name for name, point in net._points().items() if net._closed(name, point) is None]
    hooks = [(name, lambda value, hook, name=name: fired.add(name)) for name in points]
    with net.hooks(hooks):
        return _in_a_row(net, net.embed(tokens)), fired


def _on_cache(net: Any, tokens: Tensor) -> Tensor:
    """The last residuals of the last tokens, on cached keys of those before."""
    resid, rest = net.embed(tokens[:, :_PAST]), torch.arange(_PAST, tokens.shape[1])
    after: Tensor = net.embed(tokens[:, _PAST:], rest)
    for layer in range(len(net.raw.blocks)):
        positions = torch.arange(resid.shape[1], device=resid.device)
        resid, past = net._run(layer, resid, positions, None)
        after, _ = net._run(layer, after, rest, past)
    return after


def _same(found: Tensor, expected: Tensor) -> bool:
    tolerance = _TOLERANCE.get(expected.dtype, 0.1)
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max())
