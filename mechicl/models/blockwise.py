"""Blockwise: the additional interface that engines need to run a model in parts.

It covers a block at explicit positions on top of cached keys and values, blocks in another order, the vocabulary in
tiles, and the weights. `hooked_transformer.py` implements it for `HookedTransformer`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard

import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from mechicl.errors import InputError
from mechicl.models.adapter import Adapter, hooked, lacking


@dataclass(frozen=True)
class KeyValues:
    """One layer's keys and values, with the positions at which they were computed.

    Keys are stored *after* rotation, so a selection of them keeps its original positions: the anchors of a prompt may
    be gathered and attended to as if the rest of the prompt were masked.
    """

    keys: Float[Tensor, "batch pos kv_head d_head"]
    values: Float[Tensor, "batch pos kv_head d_head"]
    positions: Int[Tensor, "*batch pos"]
    """Original position ids: [pos], shared by the batch, or [batch pos]."""

    @property
    def batch(self) -> int:
        """Number of prompts; 1 also stands for a prefix that a whole batch shares."""
        return self.keys.shape[0]

    def __len__(self) -> int:
        return self.keys.shape[1]

    def select(self, index: Int[Tensor, " n"]) -> KeyValues:
        """Keep the keys at `index` (places in this cache, not position ids), each with its own position."""
        index = index.to(self.keys.device)
        positions = self.positions.index_select(-1, index.to(self.positions.device))
        return KeyValues(self.keys.index_select(1, index), self.values.index_select(1, index), positions)

    def then(self, new: KeyValues) -> KeyValues:
        """These keys followed by `new` ones; a batch of 1 on either side is repeated to the other's."""
        batch = max(self.batch, new.batch)

        def join(a: Tensor, b: Tensor) -> Tensor:
            return torch.cat([a.expand(batch, *a.shape[1:]), b.expand(batch, *b.shape[1:])], 1)

        positions = join_positions(self.positions, new.positions)
        return KeyValues(join(self.keys, new.keys), join(self.values, new.values), positions)


def join_positions(past: Int[Tensor, "..."], new: Int[Tensor, "..."]) -> Int[Tensor, "*batch pos"]:
    """Position ids followed by new ones: [pos] if the batch shares both, otherwise [batch pos]."""
    if past.ndim == new.ndim == 1:
        return torch.cat([past, new])
    past, new = past.reshape(-1, past.shape[-1]), new.reshape(-1, new.shape[-1])
    batch = max(len(past), len(new))
    return torch.cat([past.expand(batch, -1), new.expand(batch, -1)], 1)


class Blockwise(Adapter, Protocol):
    """A model that can also be run block by block, and whose weights can be read."""

    @property
    def unsupported_reason(self) -> str | None:
        """Why `block` does not support this model, in words; None if it does.

        Either the architecture needs more than explicit positions and cached keys, or a module is user-defined.
        """

    @property
    def learned_positions(self) -> bool:
        """Positions are embedded and added to the first residual, as in GPT-2, rather than rotated into keys."""

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab"]:
        """The unembedding."""

    def W_O(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        """The weights with which each head writes its average value."""

    def W_in(self, layer: int) -> Float[Tensor, "d_model d_mlp"]:
        """The MLP's input weights (for a gated MLP those of the linear branch)."""

    def W_out(self, layer: int) -> Float[Tensor, "d_mlp d_model"]:
        """The MLP's output weights; neuron i writes row i."""

    def reordered(self, order: Sequence[int]) -> AbstractContextManager[None]:
        """A context in which these blocks run, in this order; a block may occur twice, or not at all.

        A block keeps its hook names. Inside, `sizes.n_layers` is the length of the order. Raises `InputError` for an
        empty order, or a layer that the model lacks.
        """

    def lens_tiles(
        self, resid: Float[Tensor, "row d_model"], width: int
    ) -> Iterator[tuple[int, Float32[Tensor, "row tile"]]]:
        """`lens` in tiles of `width` vocabulary tokens: the first token's id, and the logits, in memory that the next
        tile reuses and that may be overwritten. Without gradients.
        """

    def embed(
        self, tokens: Int[Tensor, "batch pos"], positions: Int[Tensor, "..."] | None = None
    ) -> Float[Tensor, "batch pos d_model"]:
        """The first residual at the given position ids (0, 1, ... by default); embedding hooks fire."""

    def block(
        self,
        layer: int,
        resid: Float[Tensor, "batch pos d_model"],
        positions: Int[Tensor, "..."] | None = None,
        past: KeyValues | None = None,
    ) -> tuple[Float[Tensor, "batch pos d_model"], KeyValues]:
        """Apply one block at explicit positions, on top of cached keys and values.

        Every key of `past` is visible to every position of `resid` (inside the window, where a layer has
        one); the new keys are visible causally, in the order given. `past` may hold one prompt for a batch of
        many.

        Args:
            layer: which block.
            resid: the block's input.
            positions: the position id of each column of `resid`: [pos], or [batch pos] if prompts differ (right padding
                is harmless). 0, 1, ... by default; must be given together with `past`.
            past: keys and values computed earlier by this layer.

        Returns:
            The block's output and the keys and values of `resid` alone (`past.then(new)` joins them).

        If any hook is installed inside the block, all its hook points fire with TransformerLens's shapes
        (`hook_pattern` is [batch head query key], past keys first; `hook_k`, `hook_rot_k` and `hook_v` see
        the new keys). Otherwise a faster path gives the same numbers.

        Raises `InputError` if there is an `unsupported_reason`.
        """

    def whole_block(self, layer: int, resid: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        """Apply one block to whole sequences, from position 0 on; all its hook points fire if any has a hook.

        Supports every architecture except shortformer positions, for which it raises `InputError`. A block that is
        user-defined, contains a user-defined module, or has PyTorch hooks on a module that is not a hook point, runs by
        its own forward pass.
        """


def blockwise(model: Any, work: str) -> Blockwise:
    """The same model as `Blockwise`, for `work`, the name of a function or class that needs more than an `Adapter`.

    Raises `InputError` if the model does not implement it.
    """
    net = hooked(model)
    if not _answers(net):
        raise InputError(
            f"{work} needs a model that runs block by block and whose weights can be read; {net.name} "
            f"({type(net).__name__}) runs only whole forward passes: use mi.run with probes, and patches that "
            "are hooks."
        )
    return net


def runs_by_block(net: Adapter) -> TypeGuard[Blockwise]:
    """Whether a model can currently run block by block on cached keys."""
    return _answers(net) and net.unsupported_reason is None


def _answers(net: Adapter) -> TypeGuard[Blockwise]:
    return not lacking(net, Blockwise)
