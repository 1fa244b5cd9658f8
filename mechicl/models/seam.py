"""The seam: all that mechicl asks of a model, whatever kind of hooked model it is.

Everything outside `mechicl.models` speaks hook names and this Protocol, and nothing else. `HookedTransformer`
answers it today (`hooked_transformer.py`); another kind of model joins by a second implementation, without a
change elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

Hook = tuple[str, Callable[..., Any]]
"""An ordinary TransformerLens forward hook: the hook point's name and `fn(value, hook=...)`, which may return
an edit.
"""


@dataclass(frozen=True)
class Sizes:
    """The sizes of a model, under TransformerLens's names (`d_mlp` is 0 in a model without MLPs)."""

    n_layers: int
    n_heads: int
    n_key_value_heads: int
    d_model: int
    d_head: int
    d_mlp: int
    d_vocab: int
    n_ctx: int
    parallel: bool
    """Attention and MLP both read the block's input, as in GPT-J: there is no `hook_resid_mid`."""
    gated: bool
    """The MLP is gated, as in Llama: `act(x W_gate) * (x W_in)`."""
    centred: bool = True
    """The final norm takes the mean out (LayerNorm); an RMS norm does not."""


@dataclass(frozen=True)
class KeyValues:
    """One layer's keys and values, with the positions at which they were computed.

    Keys are stored *after* rotation, so that a selection of them keeps its original places: the anchors of a
    prompt may be gathered and attended to as if the rest of the prompt were masked.
    """

    keys: Float[Tensor, "batch pos kv_head d_head"]
    values: Float[Tensor, "batch pos kv_head d_head"]
    positions: Int[Tensor, "*batch pos"]
    """Original position ids: [pos], shared by the batch, or [batch pos]."""

    @property
    def batch(self) -> int:
        """Number of prompts; 1 also serves as a prefix that a whole batch shares."""
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

        def join(a: Tensor, b: Tensor, dim: int) -> Tensor:
            return torch.cat([a.expand(batch, *a.shape[1:]), b.expand(batch, *b.shape[1:])], dim)

        if self.positions.ndim == new.positions.ndim == 1:
            positions = torch.cat([self.positions, new.positions])
        else:
            positions = join(self.positions.reshape(-1, len(self)), new.positions.reshape(-1, len(new)), 1)
        return KeyValues(join(self.keys, new.keys, 1), join(self.values, new.values, 1), positions)


@runtime_checkable
class HookedModel(Protocol):
    """A causal language model with hook points, run whole or block by block."""

    @property
    def raw(self) -> Any:
        """The object the user holds."""

    @property
    def name(self) -> str: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def sizes(self) -> Sizes: ...
    @property
    def tokenizer(self) -> Any: ...
    @property
    def obstacle(self) -> str | None:
        """Why `block` refuses this model, in words; None where it does not.

        Either the architecture needs more than explicit positions and cached keys, or a module is the user's own.
        """

    @property
    def learned_positions(self) -> bool:
        """Positions are embedded and added to the first residual, as in GPT-2, rather than rotated into keys."""

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab"]: ...
    @property
    def b_U(self) -> Float[Tensor, " d_vocab"]: ...

    def W_O(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        """What each head's average value is written with."""

    def W_in(self, layer: int) -> Float[Tensor, "d_model d_mlp"]:
        """The MLP's input weights (for a gated MLP those of the linear branch)."""

    def W_out(self, layer: int) -> Float[Tensor, "d_mlp d_model"]:
        """The MLP's output weights: row i is what neuron i writes."""

    def hook_names(self) -> frozenset[str]:
        """Every hook point that can be hooked as the model is set now (some of them may still never fire)."""

    def hooks(self, fwd: Sequence[Hook]) -> AbstractContextManager[None]:
        """Install forward hooks, and take exactly these away again at the end, whatever happens inside.

        Raises `InputError` for an unknown name, before any hook is installed.
        """

    def reordered(self, order: Sequence[int]) -> AbstractContextManager[None]:
        """Run these blocks, in this order, as long as the context lasts; one may come twice, or not at all.

        A block keeps its hook names. `sizes.n_layers` is the length of the order inside. Raises `InputError` for an
        empty order, or a layer that the model has not.
        """

    def forward(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """From tokens to the last residual (`hook_resid_post` of the last block); hooks fire.

        Block by block, see `whole_block`, where that equals the model's own path, which copies weights at every call;
        through that path otherwise. Right padding only: no attention mask is made. Raises `InputError` for too many
        tokens or an unknown token id.
        """

    def read(self, resid: Float[Tensor, "batch *pos d_model"]) -> Float[Tensor, "batch *pos d_vocab"]:
        """Logits of a residual, through the final norm's and unembedding's modules: their hooks fire."""

    def lens(
        self, resid: Float[Tensor, "*any d_model"], tokens: Int[Tensor, " token"] | None = None
    ) -> Float32[Tensor, "*any token"]:
        """The same function as `read`, in silence: no hook fires. `lens(last residual) == read(last
        residual)`; with `tokens`, the logits of these alone. A final norm or an unembedding of the user's own is
        called as [1 row d_model].
        """

    def lens_tiles(
        self, resid: Float[Tensor, "row d_model"], width: int
    ) -> Iterator[tuple[int, Float32[Tensor, "row tile"]]]:
        """`lens`, `width` tokens of the vocabulary at a time: the first token's id, and the logits in memory that
        the next tile takes, free to be overwritten. Without gradients.
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
            positions: the position id of each column of `resid`: [pos], or [batch pos] where prompts differ
                (right padding is harmless). 0, 1, ... by default; must be given together with `past`.
            past: keys and values computed earlier by this layer.

        Returns:
            The block's output and the keys and values of `resid` alone (`past.then(new)` joins them).

        Where something listens inside the block, all its hook points fire with TransformerLens's shapes
        (`hook_pattern` is [batch head query key], past keys first; `hook_k`, `hook_rot_k` and `hook_v` see
        the new keys). Otherwise a faster path gives the same numbers.

        Raises `InputError` where `obstacle` names a reason, which may be a module of the user's own.
        """

    def whole_block(self, layer: int, resid: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        """Apply one block to whole sequences, from position 0 on; all its hook points fire where something listens.

        Serves every architecture but shortformer positions, for which it raises `InputError`. A block that is the
        user's own, holds a module of the user's own, or has PyTorch hooks on a module that is no hook point, runs by
        its own forward pass.
        """
