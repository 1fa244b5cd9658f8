"""One block of a HookedTransformer at explicit positions: where someone listens, and where it may be fast."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechicl.errors import InputError
from mechicl.models.attention import attend_fast, attend_with_hooks
from mechicl.models.seam import KeyValues
from mechicl.models.silent import listens, mlp, normalise

_ATTENTION = ("ln1.", "ln1_post.", "attn.", "hook_attn_in", "hook_q_input", "hook_k_input", "hook_v_input")
_MLP = ("ln2.", "ln2_post.", "mlp.", "hook_mlp_in")


class BlockRunner:
    """Applies single blocks of one model; see `HookedModel.block`."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._hook_dict: Any = None
        self._points: dict[Any, dict[str, list[Any]]] = {}

    def __call__(
        self,
        layer: int,
        resid: Float[Tensor, "batch pos d_model"],
        positions: Int[Tensor, "..."] | None,
        past: KeyValues | None,
    ) -> tuple[Float[Tensor, "batch pos d_model"], KeyValues]:
        if (reason := obstacle(self._raw.cfg)) is not None:
            raise InputError(
                f"{self._raw.cfg.model_name} uses {reason}, which mechicl cannot run block by block; "
                "use whole forward passes"
            )
        block, cfg = self._raw.blocks[layer], self._raw.cfg
        resid = resid.to(block.attn.b_O.device)
        at = self.positions(positions, resid.shape, past).to(resid.device)
        attend = attend_with_hooks if self._listens(block, "attention") else attend_fast

        resid = block.hook_resid_pre(resid)
        attn_out, new = attend(block, resid, at, past)
        attn_out = block.hook_attn_out(attn_out)
        if cfg.attn_only:
            return block.hook_resid_post(resid + attn_out), new
        if cfg.parallel_attn_mlp:
            mlp_out = block.hook_mlp_out(self._mlp(block, resid))
            return block.hook_resid_post(resid + attn_out + mlp_out), new
        resid = block.hook_resid_mid(resid + attn_out)
        mlp_out = block.hook_mlp_out(self._mlp(block, resid))
        return block.hook_resid_post(resid + mlp_out), new

    def _mlp(self, block: Any, resid: Tensor) -> Tensor:
        after = block.ln2_post if block.cfg.use_normalization_before_and_after else None
        if not self._listens(block, "mlp"):
            return normalise(after, mlp(block.mlp, normalise(block.ln2, resid)))
        if block.cfg.use_hook_mlp_in:
            resid = block.hook_mlp_in(resid.clone())
        out: Tensor = block.mlp(block.ln2(resid))
        return out if after is None else after(out)

    def _listens(self, block: Any, half: str) -> bool:
        """Whether any hook, ours, the user's or PyTorch's own, is installed in this half of the block."""
        if self._hook_dict is not self._raw.hook_dict:  # new whenever TransformerLens replaces modules
            self._hook_dict, self._points = self._raw.hook_dict, {}
        if block not in self._points:
            self._points[block] = _halves(block)
        return any(map(listens, self._points[block][half]))

    def positions(
        self, positions: Int[Tensor, "..."] | None, shape: torch.Size, past: KeyValues | None
    ) -> Int[Tensor, "*batch pos"]:
        """Check position ids against the input's shape [batch, pos, ...] and the context length, or count
        from 0.

        Raises `InputError` for positions that do not fit, and for a past without positions.
        """
        if positions is None:
            if past is not None:
                raise InputError("a block on top of cached keys needs explicit positions; pass positions=[...]")
            positions = torch.arange(shape[1])
        if positions.shape[-1] != shape[1] or (positions.ndim == 2 and positions.shape[0] not in (1, shape[0])):
            raise InputError(
                f"positions have shape {list(positions.shape)}, the input is {shape[0]} x {shape[1]} tokens; "
                f"pass [{shape[1]}] or [{shape[0]}, {shape[1]}]"
            )
        if positions.numel() and not 0 <= int(positions.min()) <= int(positions.max()) < self._raw.cfg.n_ctx:
            raise InputError(
                f"positions {int(positions.min())} to {int(positions.max())} leave the context of "
                f"{self._raw.cfg.model_name} ({self._raw.cfg.n_ctx})"
            )
        return positions


def _halves(block: Any) -> dict[str, list[Any]]:
    """A block's hook points by the half they are in."""
    points = [(name, part) for name, part in block.named_modules() if "hook_" in name]
    return {
        half: [point for name, point in points if name.startswith(names)]
        for half, names in (("attention", _ATTENTION), ("mlp", _MLP))
    }


def obstacle(cfg: Any) -> str | None:
    """What in this configuration depends on more than explicit positions and cached keys, in words; None if
    nothing.
    """
    olmo = ("Olmo2ForCausalLM", "Olmo3ForCausalLM", "OlmoeForCausalLM")
    explicit = cfg.positional_embedding_type in ("standard", "rotary")
    found = {
        "4-bit weights": cfg.load_in_4bit,
        "attention sinks": cfg.use_attention_sinks,
        "OLMo's norms after or across heads": cfg.original_architecture in olmo,
        "log-n attention scaling": cfg.use_logn_attn,
        "rotary frequencies that depend on the length": cfg.use_dynamic_ntk_rope,
        "bidirectional attention": cfg.attention_dir != "causal",
        f"{cfg.positional_embedding_type} positions": not explicit,
    }
    return next((reason for reason, holds in found.items() if holds), None)
