"""The adapter of a HookedTransformer, which is also blockwise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from mechicl.errors import InputError
from mechicl.models.adapter import Sizes
from mechicl.models.block import RunsBlocks, refusal, unsupported_reason
from mechicl.models.own import foreign, foreign_outside, foreign_part
from mechicl.models.silent import has_hooks, muted, normalise, soft_cap


class HookedTransformerModel(RunsBlocks):
    """`Adapter` and `Blockwise` for a `HookedTransformer`; see there for the contracts."""

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.raw.cfg.dtype
        return dtype

    @property
    def unsupported_reason(self) -> str | None:
        return unsupported_reason(self.raw.cfg) or foreign(self.raw)

    @property
    def sizes(self) -> Sizes:
        cfg = self.raw.cfg
        return Sizes(
            n_layers=cfg.n_layers,
            n_heads=cfg.n_heads,
            n_key_value_heads=cfg.n_key_value_heads or cfg.n_heads,
            d_model=cfg.d_model,
            d_head=cfg.d_head,
            d_mlp=0 if cfg.attn_only else cfg.d_mlp,
            d_vocab=cfg.d_vocab_out,
            n_ctx=cfg.n_ctx,
            parallel=bool(cfg.parallel_attn_mlp),
            gated=bool(cfg.gated_mlp),
            centred=cfg.normalization_type in ("LN", "LNPre"),
        )

    def _points(self) -> Mapping[str, Any]:
        return self.raw.hook_dict  # type: ignore[no-any-return]

    def _closed(self, name: str, point: Any) -> str | None:
        try:
            self.raw.check_hooks_to_add(point, name, None)
        except AssertionError as reason:
            return str(reason)
        return None

    @contextmanager
    def reordered(self, order: Sequence[int]) -> Iterator[None]:
        raw, blocks, n_layers = self.raw, self.raw.blocks, self.raw.cfg.n_layers
        self._check_order(order)
        try:
            raw.blocks, raw.cfg.n_layers = type(blocks)([blocks[layer] for layer in order]), len(order)
            yield
        finally:
            raw.blocks, raw.cfg.n_layers = blocks, n_layers

    def forward(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        if (
            unsupported_reason(self.raw.cfg) is None
            and not has_hooks(self.raw, inside=False)
            and not foreign_outside(self.raw)
        ):
            resid: Tensor = self.embed(tokens)
            for layer in range(self.raw.cfg.n_layers):
                resid = self.whole_block(layer, resid)
            return resid
        self._check_tokens(tokens)
        # padding_side: with a left-padding tokenizer TransformerLens would mask what looks like padding.
        resid = self.raw(
            tokens.to(self.device), stop_at_layer=self.raw.cfg.n_layers, prepend_bos=False, padding_side="right"
        )
        return resid

    def read(self, resid: Float[Tensor, "batch *pos d_model"]) -> Float[Tensor, "batch *pos d_vocab"]:
        raw, unembed = self.raw, self.raw.unembed
        if raw.cfg.normalization_type is not None:
            resid = raw.ln_final(resid)
        if foreign_part(raw, "unembed") is not None:
            return self._cap(unembed(resid))
        return self._cap(unembed.hook_out(self._unembed(unembed.hook_in(resid))))

    def lens(
        self, resid: Float[Tensor, "*any d_model"], tokens: Int[Tensor, " token"] | None = None
    ) -> Float32[Tensor, "*any token"]:
        if (logits := self._read_itself(resid)) is not None:
            return logits if tokens is None else logits[..., tokens]
        return super().lens(resid, tokens)

    @torch.no_grad()
    def lens_tiles(
        self, resid: Float[Tensor, "row d_model"], width: int
    ) -> Iterator[tuple[int, Float32[Tensor, "row tile"]]]:
        if (logits := self._read_itself(resid)) is not None:
            yield from ((start, logits[:, start : start + width]) for start in range(0, logits.shape[1], width))
            return
        yield from super().lens_tiles(resid, width)

    def _read_itself(self, resid: Float[Tensor, "*any d_model"]) -> Float32[Tensor, "*any d_vocab"] | None:
        """Logits by the modules themselves, which get [1 row d_model], without their hooks.

        None unless the final norm or the unembedding is user-defined, so that only the modules can compute logits.
        """
        if foreign_part(self.raw, "ln_final", "unembed") is None:
            return None
        norm = self.raw.ln_final if self.raw.cfg.normalization_type is not None else None
        rows = resid.reshape(1, -1, resid.shape[-1])
        with muted(norm, self.raw.unembed):
            logits: Tensor = self._cap(self.raw.unembed(rows if norm is None else norm(rows)))
        return logits.float().reshape(*resid.shape[:-1], -1)

    def _normalised(self, resid: Float[Tensor, "*any d_model"]) -> Float[Tensor, "*any d_model"]:
        return normalise(getattr(self.raw, "ln_final", None), resid)

    def _cap(self, logits: Tensor) -> Tensor:
        return soft_cap(logits, self.raw.cfg.output_logits_soft_cap)

    def embed(
        self, tokens: Int[Tensor, "batch pos"], positions: Int[Tensor, "..."] | None = None
    ) -> Float[Tensor, "batch pos d_model"]:
        self._check_tokens(tokens)
        raw, tokens = self.raw, tokens.to(self.device)
        if raw.cfg.use_hook_tokens:
            tokens = raw.hook_tokens(tokens)
        own = foreign_outside(raw)
        if own is not None and positions is not None:
            raise InputError(refusal(raw, own))
        resid: Tensor = raw.hook_embed(raw.embed(tokens))
        positions = self._positions(positions, tokens.shape, None, resid.device).ids.to(resid.device)
        if raw.cfg.positional_embedding_type == "standard":
            added = raw.pos_embed.W_pos[positions].expand_as(resid).clone() if own is None else raw.pos_embed(tokens)
            resid = resid + raw.hook_pos_embed(added)
        return resid
