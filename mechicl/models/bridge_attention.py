"""Attention of a Bridge's block: the function that Hugging Face's attention modules call for scores and pattern.

TransformerLens computes attention itself for most architectures. For those where it lets Hugging Face's module compute
and shows scores and pattern afterwards (GPT-J, GPT-Neo, OPT), an edit by a hook there would have no effect. So
`Attention` replaces that module's innermost function (for every architecture, if no hook needs to fire), and fires the
hook points while it computes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mechicl.models.attention import Scoring, fused, in_parts
from mechicl.models.blockwise import KeyValues

_NAME = "mechicl"
"""Name of the attention function that is registered in transformers."""
_HELD = "_mechicl_attention"
"""Name of an attribute of a Hugging Face attention module, set while its block runs."""


class Attention:
    """One block's attention during one call: it takes the new keys, as a cache does, and computes the average."""

    is_compileable = False

    def __init__(
        self, bridge: Any, past: KeyValues | None, positions: Tensor, within: int | None, *, heard: bool, wrapped: bool
    ) -> None:
        self.bridge, self.past, self.positions, self.within, self.heard = bridge, past, positions, within, heard
        self.new: KeyValues | None = None
        self.delegated = not wrapped or _delegates(bridge)
        """Whether Hugging Face's module computes attention, with this object as its innermost part."""
        self.asked = False
        """Whether it did."""

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Add new keys and values [batch head pos d_head], as Hugging Face's caches do; return all."""
        if self.heard and self.delegated:
            keys = self._point("hook_rot_k", keys)
        self.new = KeyValues(keys.transpose(1, 2), values.transpose(1, 2), self.positions)
        if self.past is None or self.delegated:
            return keys, values
        known = self.past.then(self.new)
        return known.keys.transpose(1, 2), known.values.transpose(1, 2)

    def get_seq_length(self, *_: Any) -> int:
        """Number of keys that were cached before."""
        return 0 if self.past is None else len(self.past)

    def average(self, queries: Tensor, divisor: float, cap: float | None, sinks: Tensor | None) -> Tensor:
        """Average values [batch pos head d_head] for rotated queries [batch head pos d_head]."""
        assert self.new is not None
        self.asked = True
        scores = pattern = None
        if self.heard:
            queries = self._point("hook_rot_q", queries)
            scores, pattern = self.bridge.hook_attn_scores, self.bridge.hook_pattern
        scoring = Scoring(divisor, cap, self.within, scores, pattern, sinks)
        way = in_parts if scoring.needs_parts(self.new, self.past) else fused
        return way(scoring, queries.transpose(1, 2), self.new, self.past)

    def _point(self, name: str, value: Tensor) -> Tensor:
        point = getattr(self.bridge, name, None)
        return value if point is None else point(value)

    def _rotated(self, rotate: Any, *args: Any) -> tuple[Tensor, Tensor]:
        queries, keys = rotate(*args)
        return self._point("hook_rot_q", queries), self._point("hook_rot_k", keys)

    @contextmanager
    def computing(self, config: Any) -> Iterator[None]:
        """Compute in place of this block's attention module, or supply what TransformerLens's module lacks."""
        bridge, module = vars(self.bridge), vars(self.bridge.original_component)
        implementation = config._attn_implementation
        # A hook of this block may start another run, which then computes here first.
        places = [(module, _HELD), (module, "_attn"), (bridge, "_apply_rotary_pos_emb"), (bridge, "compatibility_mode")]
        before = [(attributes, name, attributes[name]) for attributes, name in places if name in attributes]
        try:
            if self.delegated:
                module[_HELD] = self
                if hasattr(type(self.bridge.original_component), "_attn"):
                    module["_attn"] = self._instead_of_method
                config._attn_implementation = _NAME
            else:
                # A row that hooks have masked entirely attends to nothing, as in a HookedTransformer.
                bridge["compatibility_mode"] = True
                if hasattr(type(self.bridge), "_apply_rotary_pos_emb"):  # which fires no hook for rotated keys
                    rotate = self.bridge._apply_rotary_pos_emb
                    bridge["_apply_rotary_pos_emb"] = lambda *args: self._rotated(rotate, *args)
            yield
        finally:
            config._attn_implementation = implementation
            for attributes, name in places:
                attributes.pop(name, None)
            for attributes, name, value in before:
                attributes[name] = value
            # TransformerLens keeps the last pattern with its autograd graph.
            bridge["_pattern"] = bridge["_attn_scores"] = None

    def _instead_of_method(self, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        """`_attn` of GPT-J and GPT-Neo, which return [batch head pos d_head]; GPT-Neo divides by nothing."""
        divisor = float(getattr(self.bridge.original_component, "scale_attn", 1.0))
        return self.average(query, divisor, None, None).transpose(1, 2), None


def _delegates(bridge: Any) -> bool:
    """Whether TransformerLens lets Hugging Face's module compute, and shows scores and pattern only afterwards."""
    from transformer_lens.model_bridge.generalized_components import AttentionBridge

    return type(bridge).forward is AttentionBridge.forward


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any = None, scaling: float | None = None, **more: Any
) -> tuple[Tensor, None]:
    """The attention function that transformers calls while a block runs here."""
    divisor = query.shape[-1] ** 0.5 if scaling is None else 1 / scaling
    average = vars(module)[_HELD].average(query, divisor, more.get("softcap"), more.get("s_aux"))
    return average.contiguous(), None


ALL_ATTENTION_FUNCTIONS.register(_NAME, _attention)
