"""Shared code of the adapters of TransformerLens's two model classes: hook points by name, and checks of tokens."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int
from torch import Tensor

from mechicl.errors import InputError
from mechicl.models.adapter import Hook
from mechicl.models.blockwise import KeyValues
from mechicl.models.spread import at_home


class Positions(NamedTuple):
    """Checked position ids."""

    ids: Int[Tensor, "*batch pos"]
    longest: int
    """One more than the largest: the number of positions that a table needs."""


class TransformerLensModel(ABC):
    """The calls of `Adapter` and `Blockwise` that HookedTransformer and TransformerBridge implement in the same way."""

    def __init__(self, raw: Any) -> None:
        self.raw = raw
        self._last: tuple[Callable[[], Tensor | None], int, int] = (lambda: None, 0, 0)
        """The last checked positions, their version at that time, and one more than the largest."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self.sizes})"  # type: ignore[attr-defined]

    @property
    def name(self) -> str:
        return str(self.raw.cfg.model_name)

    @property
    def device(self) -> torch.device:
        return torch.device(self.raw.embed.W_E.device)

    @property
    def tokenizer(self) -> Any:
        return self.raw.tokenizer

    @property
    def learned_positions(self) -> bool:
        return bool(self.raw.cfg.positional_embedding_type == "standard")

    def W_O(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        return self.raw.blocks[layer].attn.W_O.to(self.device)  # type: ignore[no-any-return]

    def W_in(self, layer: int) -> Float[Tensor, "d_model d_mlp"]:
        return self._mlp_weight(layer, "W_in")

    def W_out(self, layer: int) -> Float[Tensor, "d_mlp d_model"]:
        return self._mlp_weight(layer, "W_out")

    def _mlp_weight(self, layer: int, name: str) -> Tensor:
        weight = getattr(getattr(self.raw.blocks[layer], "mlp", None), name, None)
        if not isinstance(weight, Tensor) or weight.ndim != 2:
            raise InputError(f"{self.name} has no single {name} per layer (no MLP, or a mixture of experts).")
        return weight.to(self.device)

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

    @abstractmethod
    def _points(self) -> Mapping[str, Any]:
        """Every hook point by each of its names."""

    @abstractmethod
    def _closed(self, name: str, point: Any) -> str | None:
        """Why TransformerLens rejects hooks at this point under the current settings, or None."""

    def hook_names(self) -> frozenset[str]:
        return frozenset(name for name, point in self._points().items() if self._closed(name, point) is None)

    def distinct(self, names: Iterable[str]) -> list[str]:
        """One name per hook point among these; a TransformerBridge has several names for some."""
        points = self._points()
        return sorted({id(points[name]): name for name in sorted(names, reverse=True)}.values())

    @contextmanager
    def hooks(self, fwd: Sequence[Hook]) -> Iterator[None]:
        points = [self._point(name) for name, _ in fwd]
        fwd = [at_home(hook, self.device) for hook in fwd]
        added: list[tuple[Any, Any]] = []
        try:
            for point, (_, fn) in zip(points, fwd, strict=True):
                point.add_hook(fn)
                added.append((point, point.fwd_hooks[-1]))
            yield
        finally:
            # Only our own handles: TransformerLens's reset_hooks would also remove the user's.
            for point, handle in added:
                handle.hook.remove()
                point.fwd_hooks[:] = [other for other in point.fwd_hooks if other is not handle]

    def _point(self, name: str) -> Any:
        points = self._points()
        point = points.get(name)
        if point is None:
            near = get_close_matches(name, list(points), n=3)
            hint = f"did you mean {' or '.join(near)}" if near else "hooked(model).hook_names() lists them"
            raise InputError(f"{self.name} has no hook point {name!r}; {hint}.")
        if (reason := self._closed(name, point)) is not None:
            raise InputError(f"Hook point {name} is switched off: {reason}; call the model's set_use_... first.")
        return point

    def _check_order(self, order: Sequence[int]) -> None:
        n_layers = len(self.raw.blocks)
        if not order or not all(0 <= layer < n_layers for layer in order):
            raise InputError(f"Blocks {list(order)}: {self.name} has layers 0-{n_layers - 1}, and needs at least one.")

    def _check_tokens(self, tokens: Tensor) -> None:
        n_ctx, d_vocab = self.raw.cfg.n_ctx, self.raw.cfg.d_vocab
        if tokens.shape[-1] > n_ctx:
            raise InputError(f"{tokens.shape[-1]} tokens exceed the context of {self.name} ({n_ctx}); shorten them.")
        lowest, highest = least_and_most(tokens)
        if lowest < 0 or highest >= d_vocab:
            raise InputError(
                f"Token ids {lowest} to {highest} go outside the vocabulary of {self.name} "
                f"({d_vocab}); use the model's own tokenizer."
            )

    def _positions(
        self, positions: Int[Tensor, "..."] | None, shape: torch.Size, past: KeyValues | None, device: torch.device
    ) -> Positions:
        """Check position ids against the input's shape [batch, pos, ...] and the context length; by default count from
        0.

        Reading a tensor's values on a GPU waits for the GPU, so a tensor that all blocks of a pass share is checked
        once. Raises `InputError` for positions that do not fit, and for a past without positions.
        """
        if positions is None:
            if past is not None:
                raise InputError("A block on top of cached keys needs explicit positions; pass positions=[...].")
            self._check_range(0, shape[1] - 1)
            return Positions(torch.arange(shape[1], device=device), shape[1])
        if positions.shape[-1] != shape[1] or (positions.ndim == 2 and positions.shape[0] not in (1, shape[0])):
            raise InputError(
                f"Positions have shape {list(positions.shape)}, the input is {shape[0]} x {shape[1]} tokens; "
                f"pass [{shape[1]}] or [{shape[0]}, {shape[1]}]."
            )
        known, version, longest = self._last
        if positions.is_inference() or known() is not positions or version != positions._version:
            lowest, highest = least_and_most(positions)
            self._check_range(lowest, highest)
            longest = highest + 1
            if not positions.is_inference():  # such a tensor has no version, so edits cannot be detected
                self._last = (weakref.ref(positions), positions._version, longest)
        return Positions(positions, longest)

    def _check_range(self, lowest: int, highest: int) -> None:
        cfg = self.raw.cfg
        if lowest < 0 or highest >= cfg.n_ctx:
            raise InputError(f"Positions {lowest} to {highest} leave the context of {cfg.model_name} ({cfg.n_ctx}).")

    @abstractmethod
    def _normalised(self, resid: Float[Tensor, "*any d_model"]) -> Float[Tensor, "*any d_model"]:
        """The final norm without hooks."""

    @abstractmethod
    def _cap(self, logits: Tensor) -> Tensor:
        """Operations after the unembedding: a soft cap, a scale."""

    def _unembed(self, normalised: Tensor) -> Tensor:
        # We avoid the module's own forward, which copies the transposed W_U at every call.
        W_U = self.W_U
        return F.linear(normalised.to(W_U.device, W_U.dtype), W_U.T, self.b_U)

    def lens(
        self, resid: Float[Tensor, "*any d_model"], tokens: Int[Tensor, " token"] | None = None
    ) -> Float32[Tensor, "*any token"]:
        normalised = self._normalised(resid)
        if tokens is None:
            return self._cap(self._unembed(normalised)).float()
        W_U, b_U = self.W_U[:, tokens], self.b_U[tokens]
        return self._cap(normalised.to(W_U.device, W_U.dtype) @ W_U + b_U).float()

    @torch.no_grad()
    def lens_tiles(
        self, resid: Float[Tensor, "row d_model"], width: int
    ) -> Iterator[tuple[int, Float32[Tensor, "row tile"]]]:
        W_U, b_U = self.W_U, self.b_U
        rows = self._normalised(resid).to(W_U.device, W_U.dtype)
        memory = rows.new_empty(len(rows) * min(width, W_U.shape[1]))
        for start in range(0, W_U.shape[1], width):
            part = W_U[:, start : start + width]
            tile = memory[: len(rows) * part.shape[1]].view(len(rows), -1)
            torch.addmm(b_U[start : start + width], rows, part, out=tile)
            yield start, self._cap(tile).float()


def least_and_most(numbers: Int[Tensor, "..."]) -> tuple[int, int]:
    """The smallest and the largest number, in one transfer; 0 and -1 if there is none."""
    if not numbers.numel():
        return 0, -1
    least, most = torch.stack(numbers.aminmax()).tolist()
    return least, most
