"""One block of a HookedTransformer at explicit positions."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from mechicl.errors import InputError
from mechicl.models.attention import attend
from mechicl.models.blockwise import KeyValues
from mechicl.models.hook_points import Positions, TransformerLensModel
from mechicl.models.own import Survey, survey
from mechicl.models.rotary import grow_tables
from mechicl.models.silent import mlp, normalise


class RunsBlocks(TransformerLensModel):
    """The part of a HookedTransformer's adapter that applies single blocks."""

    def block(
        self,
        layer: int,
        resid: Float[Tensor, "batch pos d_model"],
        positions: Int[Tensor, "..."] | None = None,
        past: KeyValues | None = None,
    ) -> tuple[Float[Tensor, "batch pos d_model"], KeyValues]:
        block, cfg = self.raw.blocks[layer], self.raw.cfg
        found = survey(block, cfg)
        if unsupported_reason(cfg) is not None or found.foreign is not None:
            raise InputError(refusal(self.raw, found.foreign))
        checked = self._positions(positions, resid.shape, past, resid.device)
        return self._run(block, found, resid, checked, past)

    def whole_block(self, layer: int, resid: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        """One block on whole sequences; by its own forward pass if it is unsupported or contains a foreign module."""
        block, cfg = self.raw.blocks[layer], self.raw.cfg
        found = survey(block, cfg)
        if unsupported_reason(cfg) is None and found.foreign is None:
            return self._run(block, found, resid, self._positions(None, resid.shape, None, resid.device), None)[0]
        if cfg.positional_embedding_type == "shortformer":
            raise InputError(refusal(self.raw))
        out: Tensor = block(resid.to(next(block.parameters()).device))
        return out.to(resid.device)

    def _run(
        self, block: Any, found: Survey, resid: Tensor, checked: Positions, past: KeyValues | None
    ) -> tuple[Tensor, KeyValues]:
        """The block by its parts, whose hook points fire if they have hooks."""
        cfg, positions = self.raw.cfg, checked.ids
        grow_tables(block.attn, checked.longest)
        home, resid = resid.device, resid.to(block.attn.b_O.device)

        resid = block.hook_resid_pre(resid)
        attn_out, new = attend(block, resid, positions.to(resid.device), past, heard=found.attention)
        attn_out = block.hook_attn_out(attn_out)
        between = resid + attn_out
        if cfg.attn_only:
            return block.hook_resid_post(between).to(home), new
        if not cfg.parallel_attn_mlp:
            resid = between = block.hook_resid_mid(between)
        mlp_out = block.hook_mlp_out(_mlp(block, found.mlp, resid))
        return block.hook_resid_post(between + mlp_out).to(home), new


def _mlp(block: Any, listened: bool, resid: Tensor) -> Tensor:
    after = block.ln2_post if block.cfg.use_normalization_before_and_after else None
    if not listened:
        return normalise(after, mlp(block.mlp, normalise(block.ln2, resid)))
    if block.cfg.use_hook_mlp_in:
        resid = block.hook_mlp_in(resid.clone())
    out: Tensor = block.mlp(block.ln2(resid))
    return out if after is None else after(out)


def refusal(raw: Any, foreign: str | None = None) -> str:
    """Why a model cannot run on explicit positions and cached keys: its configuration, or a foreign module."""
    name = raw.cfg.model_name
    reason = f"In {name} {foreign}" if foreign else f"{name} uses {unsupported_reason(raw.cfg)}"
    return f"{reason}, which mechicl cannot run block by block on cached keys; use whole forward passes."


def unsupported_reason(cfg: Any) -> str | None:
    """The setting of this configuration that needs more than explicit positions and cached keys, in words; None if
    none.
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
