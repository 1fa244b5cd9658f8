"""A HookedTransformer's adapter, blockwise too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int
from torch import Tensor

from mechicl.errors import InputError
from mechicl.models.adapter import Hook, Sizes
from mechicl.models.block import RunsBlocks, least_and_most, refusal, unsupported_reason
from mechicl.models.own import foreign, foreign_outside, foreign_part
from mechicl.models.silent import has_hooks, muted, normalise, soft_cap


class HookedTransformerModel(RunsBlocks):
    """`Adapter` and `Blockwise`, answered by a `HookedTransformer`; each says there what it promises."""

    def __repr__(self) -> str:
        return f"HookedTransformerModel({self.name!r}, {self.sizes})"

    @property
    def name(self) -> str:
        return str(self.raw.cfg.model_name)

    @property
    def device(self) -> torch.device:
        return torch.device(self.raw.embed.W_E.device)

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.raw.cfg.dtype
        return dtype

    @property
    def tokenizer(self) -> Any:
        return self.raw.tokenizer

    @property
    def unsupported_reason(self) -> str | None:
        return unsupported_reason(self.raw.cfg) or foreign(self.raw)

    @property
    def learned_positions(self) -> bool:
        return bool(self.raw.cfg.positional_embedding_type == "standard")

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

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab"]:
        return self._unembedding("W_U")

    @property
    def b_U(self) -> Float[Tensor, " d_vocab"]:
        return self._unembedding("b_U")

    def _unembedding(self, name: str) -> Tensor:
        weight = getattr(self.raw.unembed, name, None)
        if not isinstance(weight, Tensor):
            raise InputError(f"{self.name} has no {name}: its unembed is a {type(self.raw.unembed).__name__}.")
        return weight

    def W_O(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        return self.raw.blocks[layer].attn.W_O  # type: ignore[no-any-return]

    def W_in(self, layer: int) -> Float[Tensor, "d_model d_mlp"]:
        return self._mlp_weight(layer, "W_in")

    def W_out(self, layer: int) -> Float[Tensor, "d_mlp d_model"]:
        return self._mlp_weight(layer, "W_out")

    def _mlp_weight(self, layer: int, name: str) -> Tensor:
        weight = getattr(getattr(self.raw.blocks[layer], "mlp", None), name, None)
        if not isinstance(weight, Tensor) or weight.ndim != 2:
            raise InputError(f"{self.name} has no single {name} per layer (no MLP, or a mixture of experts).")
        return weight

    def hook_names(self) -> frozenset[str]:
        return frozenset(name for name, point in self.raw.hook_dict.items() if self._closed(name, point) is None)

    def _closed(self, name: str, point: Any) -> str | None:
        """Why TransformerLens refuses hooks at this point under the present settings, or None."""
        try:
            self.raw.check_hooks_to_add(point, name, None)
        except AssertionError as reason:
            return str(reason)
        return None

    @contextmanager
    def hooks(self, fwd: Sequence[Hook]) -> Iterator[None]:
        points = [self._point(name) for name, _ in fwd]
        added: list[tuple[Any, Any]] = []
        try:
            for point, (_, fn) in zip(points, fwd, strict=True):
                point.add_hook(fn)
                added.append((point, point.fwd_hooks[-1]))
            yield
        finally:
            # Exactly our own handles: TransformerLens's reset_hooks would take the user's with them.
            for point, handle in added:
                handle.hook.remove()
                point.fwd_hooks[:] = [other for other in point.fwd_hooks if other is not handle]

    @contextmanager
    def reordered(self, order: Sequence[int]) -> Iterator[None]:
        raw, blocks, n_layers = self.raw, self.raw.blocks, self.raw.cfg.n_layers
        if not order or not all(0 <= layer < n_layers for layer in order):
            raise InputError(f"Blocks {list(order)}: {self.name} has layers 0-{n_layers - 1}, and needs at least one.")
        try:
            raw.blocks, raw.cfg.n_layers = type(blocks)([blocks[layer] for layer in order]), len(order)
            yield
        finally:
            raw.blocks, raw.cfg.n_layers = blocks, n_layers

    def _point(self, name: str) -> Any:
        point = self.raw.hook_dict.get(name)
        if point is None:
            near = get_close_matches(name, list(self.raw.hook_dict), n=3)
            hint = f"did you mean {' or '.join(near)}" if near else "hooked(model).hook_names() lists them"
            raise InputError(f"{self.name} has no hook point {name!r}; {hint}.")
        if (reason := self._closed(name, point)) is not None:
            raise InputError(f"Hook point {name} is switched off: {reason}; call the model's set_use_... first.")
        return point

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

    def _check_tokens(self, tokens: Tensor) -> None:
        cfg = self.raw.cfg
        if tokens.shape[-1] > cfg.n_ctx:
            raise InputError(
                f"{tokens.shape[-1]} tokens exceed the context of {self.name} ({cfg.n_ctx}); shorten them."
            )
        lowest, highest = least_and_most(tokens)
        if lowest < 0 or highest >= cfg.d_vocab:
            raise InputError(
                f"Token ids {lowest} to {highest} go outside the vocabulary of {self.name} "
                f"({cfg.d_vocab}); use the model's own tokenizer."
            )

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
        normalised = normalise(getattr(self.raw, "ln_final", None), resid)
        if tokens is None:
            return self._cap(self._unembed(normalised)).float()
        W_U, b_U = self.W_U[:, tokens], self.b_U[tokens]
        return self._cap(normalised.to(W_U.device, W_U.dtype) @ W_U + b_U).float()

    @torch.no_grad()
    def lens_tiles(
        self, resid: Float[Tensor, "row d_model"], width: int
    ) -> Iterator[tuple[int, Float32[Tensor, "row tile"]]]:
        if (logits := self._read_itself(resid)) is not None:
            yield from ((start, logits[:, start : start + width]) for start in range(0, logits.shape[1], width))
            return
        W_U, b_U = self.W_U, self.b_U
        rows = normalise(getattr(self.raw, "ln_final", None), resid).to(W_U.device, W_U.dtype)
        memory = rows.new_empty(len(rows) * min(width, W_U.shape[1]))
        for start in range(0, W_U.shape[1], width):
            part = W_U[:, start : start + width]
            tile = memory[: len(rows) * part.shape[1]].view(len(rows), -1)
            torch.addmm(b_U[start : start + width], rows, part, out=tile)
            yield start, self._cap(tile).float()

    def _read_itself(self, resid: Float[Tensor, "*any d_model"]) -> Float32[Tensor, "*any d_vocab"] | None:
        """Logits through the modules, which are given [1 row d_model], without their hooks.

        None unless the final norm or the unembedding is the user's own, so that only they can read.
        """
        if foreign_part(self.raw, "ln_final", "unembed") is None:
            return None
        norm = self.raw.ln_final if self.raw.cfg.normalization_type is not None else None
        rows = resid.reshape(1, -1, resid.shape[-1])
        with muted(norm, self.raw.unembed):
            logits: Tensor = self._cap(self.raw.unembed(rows if norm is None else norm(rows)))
        return logits.float().reshape(*resid.shape[:-1], -1)

    def _unembed(self, normalised: Tensor) -> Tensor:
        # Not the module's own forward, which copies the transposed W_U at every call.
        W_U = self.W_U
        return F.linear(normalised.to(W_U.device, W_U.dtype), W_U.T, self.b_U)

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
