"""The adapter of a TransformerBridge (TransformerLens 3.9 and 4), which is also blockwise.

A Bridge wraps Hugging Face's own modules. A block is called with the arguments that Hugging Face's model would pass: a
mask, rotations for explicit positions, and a cache. No architecture is reimplemented here, so the first use checks that
a model consists of its embedding, its blocks in sequence and its unembedding (`bridge_check.py`); any other model is
run whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechicl.errors import InputError
from mechicl.models.adapter import Hook, Sizes
from mechicl.models.bridge_blocks import RunsBridgeBlocks
from mechicl.models.bridge_check import Findings, examine
from mechicl.models.silent import has_hooks, soft_cap

_GATES = {
    ("attn.hook_result",): "use_attn_result",
    ("hook_q_input", "hook_k_input", "hook_v_input"): "use_split_qkv_input",
    ("hook_mlp_in",): "use_hook_mlp_in",
    ("hook_attn_in",): "use_attn_in",
}
"""Suffixes of hook points' names, and the settings without which they never fire."""


class BridgeModel(RunsBridgeBlocks):
    """`Adapter` and `Blockwise` for a `TransformerBridge`; see there for the contracts."""

    def __init__(self, raw: Any) -> None:
        super().__init__(raw)
        self._known: tuple[Any, dict[str, Any]] = (None, {})
        self._findings: Findings | None = None

    @property
    def dtype(self) -> torch.dtype:
        return self.raw.embed.W_E.dtype  # type: ignore[no-any-return]

    @property
    def findings(self) -> Findings:
        """The findings of a first run."""
        if self._findings is None:
            self._findings = Findings()  # for requests in the meantime
            try:
                self._findings = examine(self)
            except BaseException:  # an interrupted run has found nothing
                self._findings = None
                raise
        return self._findings

    @property
    def unsupported_reason(self) -> str | None:
        return self.findings.reason

    @property
    def sizes(self) -> Sizes:
        cfg = self.raw.cfg
        return Sizes(
            n_layers=len(self.raw.blocks),
            n_heads=cfg.n_heads,
            n_key_value_heads=cfg.n_key_value_heads or cfg.n_heads,
            d_model=cfg.d_model,
            d_head=cfg.d_head,
            d_mlp=0 if cfg.attn_only else cfg.d_mlp,
            d_vocab=self.W_U.shape[1],
            n_ctx=cfg.n_ctx,
            parallel="blocks.0.hook_resid_mid" not in self._points(),
            gated=bool(cfg.gated_mlp),
            centred=cfg.normalization_type in ("LN", "LNPre"),
        )

    def _points(self) -> Mapping[str, Any]:
        # TransformerLens builds its dictionary at every access, from a registry that it replaces when it folds weights.
        registry = self.raw._hook_registry
        state = (id(registry), len(registry), self.raw.compatibility_mode)
        if self._known[0] != state:
            points = dict(self.raw.hook_dict)
            for name in [name for name in points if name.endswith("hook_normalized")]:
                # HookedTransformer's comes after gain and bias.
                points[name] = points.get(name.replace("hook_normalized", "hook_out"), points[name])
            self._known = state, points
        return self._known[1]

    def _closed(self, name: str, point: Any) -> str | None:
        name = getattr(point, "name", None) or name
        for ends, setting in _GATES.items():
            if name.endswith(ends):
                return None if getattr(self.raw.cfg, setting, False) else f"{setting} is False"
        return None

    def hook_names(self) -> frozenset[str]:
        gated = tuple(end for ends in _GATES for end in ends)
        never = self.findings.never_fire
        return frozenset(name for name in super().hook_names() if name.endswith(gated) or name not in never)

    @contextmanager
    def hooks(self, fwd: Sequence[Hook]) -> Iterator[None]:
        handles: list[Any] = []
        try:
            with super().hooks([self._between(hook, handles) for hook in fwd]):
                yield
        finally:
            for handle in handles:  # left by a pass that was interrupted between the two hook points
                handle.remove()

    def _between(self, hook: Hook, handles: list[Any]) -> Hook:
        """An edit between attention and MLP acts on the residual too, as in a HookedTransformer.

        The hook point is the input of the norm before the MLP, past which Hugging Face's block carries the residual.
        """
        name, function = hook
        if not name.endswith(".hook_resid_mid"):
            return hook
        end = self._points()[name.replace("_mid", "_post")]

        def edit(value: Tensor, hook: Any) -> Tensor | None:
            new: Tensor | None = function(value, hook=hook)
            if new is not None:

                def carry(module: Any, args: Any, out: Tensor) -> Tensor:
                    handle.remove()
                    return out + (new - value).to(out.device)

                handle = end.register_forward_hook(carry, prepend=True)
                handles.append(handle)
            return new

        return name, edit

    @contextmanager
    def reordered(self, order: Sequence[int]) -> Iterator[None]:
        self._check_order(order)
        raw, config = self.raw, self._config
        lists = [(raw, "blocks"), *self._lists()]
        before = [getattr(parent, name) for parent, name in lists]
        settings: dict[str, Any] = {"num_hidden_layers": len(order), "use_cache": False}
        for name in ("layer_types", "attention_layers"):
            if (kinds := getattr(config, name, None)) is not None:
                settings[name] = [kinds[layer] for layer in order]
        kept, n_layers = {name: getattr(config, name, None) for name in settings}, raw.cfg.n_layers
        try:
            for (parent, name), blocks in zip(lists, before, strict=True):
                setattr(parent, name, type(blocks)([blocks[layer] for layer in order]))
            for name, value in settings.items():
                setattr(config, name, value)
            raw.cfg.n_layers = len(order)
            yield
        finally:
            for (parent, name), blocks in zip(lists, before, strict=True):
                setattr(parent, name, blocks)
            for name, value in kept.items():
                setattr(config, name, value)
            raw.cfg.n_layers = n_layers

    def _lists(self) -> list[tuple[Any, str]]:
        """Where Hugging Face's model has the blocks."""
        return [
            (parent, name)
            for parent in self.raw.original_model.modules()
            for name, child in parent.named_children()
            if isinstance(child, torch.nn.ModuleList) and len(child) and child[0] is self.raw.blocks[0]
        ]

    def forward(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        if self.unsupported_reason is not None or self._changed_outside():
            return self.whole(tokens)
        resid = self.embed(tokens)
        for layer in range(len(self.raw.blocks)):
            resid = self.whole_block(layer, resid)
        return resid

    def _changed_outside(self) -> bool:
        """Whether the model's forward pass is user-defined, or has a PyTorch hook."""
        raw = self.raw
        written = type(raw).forward.__module__.startswith("transformer_lens.") and "forward" not in vars(raw)
        modules = [raw, raw.original_model, *(parent for parent, _ in self._lists())]
        return not written or any(has_hooks(module, inside=False) for module in modules)

    def whole(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """The last residual, from the Bridge's own forward pass."""
        self._check_tokens(tokens)
        last: list[Tensor] = []

        def stop(module: Any, args: Any, output: Any) -> None:
            last.append(output[0] if isinstance(output, tuple) else output)
            raise _Reached

        handle = self.raw.blocks[-1].register_forward_hook(stop)
        try:
            # padding_side: with a left-padding tokenizer TransformerLens would mask what looks like padding.
            self.raw(tokens.to(self.device), prepend_bos=False, padding_side="right")
        except _Reached:
            pass
        finally:
            handle.remove()
        return last[0]

    def read(self, resid: Float[Tensor, "batch *pos d_model"]) -> Float[Tensor, "batch *pos d_vocab"]:
        if self.findings.reads is not None:
            raise InputError(f"{self.name} {self.findings.reads}.")
        logits: Tensor = self._cap(self.raw.unembed(self.raw.ln_final(resid)))
        return logits

    def _normalised(self, resid: Float[Tensor, "*any d_model"]) -> Float[Tensor, "*any d_model"]:
        norm = self.raw.ln_final.original_component
        weight = getattr(norm, "weight", None)
        # Tuned lenses give float32, which PyTorch's norms reject with half-precision weights.
        out: Tensor = norm(resid if weight is None else resid.to(weight.dtype))
        return out

    def _cap(self, logits: Tensor) -> Tensor:
        config = self._config
        # Cohere (whose model has the scale until it is folded) and Granite scale their logits.
        scale = getattr(self.raw.original_model, "logit_scale", None) or 1 / (
            getattr(config, "logits_scaling", None) or 1
        )
        return soft_cap(logits if scale == 1 else logits * scale, getattr(config, "final_logit_softcapping", None))

    def embed(
        self, tokens: Int[Tensor, "batch pos"], positions: Int[Tensor, "..."] | None = None
    ) -> Float[Tensor, "batch pos d_model"]:
        self._check_tokens(tokens)
        raw = self.raw
        resid: Tensor = raw.embed(tokens.to(self.device))
        ids = self._positions(positions, tokens.shape, None, resid.device).ids.to(resid.device)
        if self.learned_positions:
            offset = getattr(raw.pos_embed.original_component, "offset", 0)  # OPT's first two rows are never used
            resid = resid + raw.pos_embed.hook_out(raw.pos_embed.W_pos[ids + offset].expand_as(resid).clone())
        scale = getattr(self._config, "embedding_multiplier", None)  # Granite's
        return resid if scale is None else resid * scale


class _Reached(Exception):
    """The last block has run, so later modules need not."""
