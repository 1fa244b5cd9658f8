"""One block of a TransformerBridge at explicit positions."""

from __future__ import annotations

import functools
import inspect
from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechicl.errors import InputError
from mechicl.models.attention import visible
from mechicl.models.blockwise import KeyValues
from mechicl.models.bridge_attention import Attention
from mechicl.models.bridge_parts import BlockParts
from mechicl.models.hook_points import TransformerLensModel
from mechicl.models.settings import windows


class RunsBridgeBlocks(TransformerLensModel):
    """The part of a Bridge's adapter that applies single blocks."""

    def __init__(self, raw: Any) -> None:
        super().__init__(raw)
        config = raw.original_model.config
        self._config = config.get_text_config() if hasattr(config, "get_text_config") else config
        """Hugging Face's."""
        self._parts = [BlockParts.of(block) for block in raw.blocks]
        self._windows = windows(self._config)
        self._layer_types = getattr(self._config, "layer_types", None)

    def block(
        self,
        layer: int,
        resid: Float[Tensor, "batch pos d_model"],
        positions: Int[Tensor, "..."] | None = None,
        past: KeyValues | None = None,
    ) -> tuple[Float[Tensor, "batch pos d_model"], KeyValues]:
        self._check_supported()
        ids = self._positions(positions, resid.shape, past, resid.device).ids
        out, new = self._run(layer, resid, ids, past)
        if new is None:
            raise InputError(
                f"The custom attention in block {layer} of {self.name} keeps no keys in a cache, so the block cannot "
                "run on cached keys; use whole forward passes."
            )
        return out, new

    def whole_block(self, layer: int, resid: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        """One block on whole sequences."""
        self._check_supported()
        ids = self._positions(None, resid.shape, None, resid.device).ids
        return self._run(layer, resid, ids, None)[0]

    def _check_supported(self) -> None:
        if (reason := self.unsupported_reason) is not None:  # type: ignore[attr-defined]
            raise InputError(
                f"{self.name} {reason}, which mechicl cannot run block by block; use whole forward passes."
            )

    def _run(self, layer: int, resid: Tensor, ids: Tensor, past: KeyValues | None) -> tuple[Tensor, KeyValues | None]:
        """A block's output and new keys: by Hugging Face's own modules if no hook fires, else by TransformerLens's."""
        block = self.raw.blocks[layer]
        number = next((i for i, parts in enumerate(self._parts) if parts.block is block), layer)
        parts = self._parts[number]
        home, resid = resid.device, resid.to(next(block.parameters()).device)
        heard, ids = parts.heard, ids.to(resid.device)
        wrapped = heard or not parts.attention_is_plain
        attention = Attention(block.attn, past, ids, self._windows[number], heard=heard, wrapped=wrapped)
        given = self._given(number, block, resid, ids, attention, parts.stands)
        with ExitStack() as stack:
            stack.enter_context(attention.computing(self._config))
            if heard:
                out = block(resid, **given)
            else:
                stack.enter_context(parts.unwrapped())
                out = block.original_component(block.hook_in(resid), **given)
        out = out[0] if isinstance(out, tuple) else out
        return (out if heard else block.hook_out(out)).to(home), attention.new

    def _given(
        self, number: int, block: Any, resid: Tensor, ids: Tensor, attention: Attention, stands: bool
    ) -> dict[str, Any]:
        """The arguments that Hugging Face's model passes to a block, as far as this one accepts them."""
        shown = ids if ids.ndim == 2 else ids[None]
        given = {
            "attention_mask": None if attention.delegated and stands else _mask(resid, ids, attention),
            "position_ids": shown.expand(resid.shape[0], -1),
            "position_embeddings": self._rotation(number, resid, shown),
            "past_key_values": attention,
            "layer_past": attention,
            "use_cache": True,
        }
        takes = _parameters(type(block.original_component).forward)
        return {name: value for name, value in given.items() if name in takes}

    def _rotation(self, number: int, resid: Tensor, ids: Tensor) -> Any:
        """Cosines and sines for these positions."""
        rotary = getattr(self.raw, "rotary_emb", None)
        if rotary is None:
            return None
        kinds = self._layer_types  # by the blocks' own numbers, even while they are reordered
        module = rotary.original_component if hasattr(rotary, "original_component") else rotary
        by_kind = "layer_type" in _parameters(type(module).forward)
        more = {"layer_type": kinds[number]} if by_kind and kinds is not None else {}
        found = module(resid.to(self.device), position_ids=ids.to(self.device), **more)
        parts = tuple(part.to(resid.device) for part in (found if isinstance(found, tuple) else (found,)))
        return parts if isinstance(found, tuple) else parts[0]


@functools.cache
def _parameters(function: Any) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


def _mask(resid: Tensor, ids: Tensor, attention: Attention) -> Float[Tensor, "batch_or_one 1 query key"]:
    """Zero where a query sees a key, minus infinity elsewhere."""
    seen = visible(ids, attention.past, attention.within)
    seen = seen[None, None] if seen.ndim == 2 else seen
    return torch.zeros(seen.shape, dtype=resid.dtype, device=resid.device).masked_fill(~seen, -torch.inf)
