"""The adapter: the small interface that probes, patches and `run` need of a model of any class.

A HookedTransformer is wrapped in one (`hooked_transformer.py`), and so is a TransformerBridge (`bridge.py`); your own
class that implements `Adapter` is one. Engines need more (`blockwise.py`), and work on both of these, or on any class
that implements that, too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from mechicl.errors import InputError

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
    parallel: bool = False
    """Attention and MLP both read the block's input, as in GPT-J: there is no `hook_resid_mid`."""
    gated: bool = False
    """The MLP is gated, as in Llama: `act(x W_gate) * (x W_in)`."""
    centred: bool = True
    """The final norm subtracts the mean (LayerNorm); an RMS norm does not."""


class Adapter(Protocol):
    """A causal language model with hook points that runs as a whole.

    Hook points have TransformerLens's names and shapes. Which of them a model needs depends on its use: a probe or a
    patch needs those that it names, and a gradient needs `hook_embed`, where it ends.
    """

    @property
    def raw(self) -> torch.nn.Module:
        """The module with the parameters: `frozen` freezes them, and provenance digests them and the module's code."""

    @property
    def name(self) -> str:
        """Its name in tables and messages."""

    @property
    def device(self) -> torch.device:
        """The device to which tokens are moved before `forward`."""

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the activations, from which a batch's memory is estimated."""

    @property
    def sizes(self) -> Sizes:
        """Layers, heads and widths."""

    @property
    def tokenizer(self) -> Any:
        """A Hugging Face tokenizer; None if prompts and text are made elsewhere."""

    def hook_names(self) -> frozenset[str]:
        """Every hook point that can be hooked with the model's current settings (some may still never fire)."""

    def hooks(self, fwd: Sequence[Hook]) -> AbstractContextManager[None]:
        """A context that installs forward hooks, and always removes exactly these on exit.

        Hooks on one point run in the order given; the next one sees what the previous returned, unless None. Raises
        `InputError` for an unknown name, before any hook is installed.
        """

    def forward(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """The last residual (`hook_resid_post` of the last block) of tokens; hooks fire.

        Only right padding is supported: there is no attention mask. Raises `InputError` for too many tokens or an
        unknown token id.
        """

    def read(self, resid: Float[Tensor, "batch *pos d_model"]) -> Float[Tensor, "batch *pos d_vocab"]:
        """Logits of a residual, through the final norm's and unembedding's modules: their hooks fire."""

    def lens(
        self, resid: Float[Tensor, "*any d_model"], tokens: Int[Tensor, " token"] | None = None
    ) -> Float32[Tensor, "*any token"]:
        """The same function as `read`, but no hook fires. `lens(last residual) == read(last residual)`; with
        `tokens`, the logits of these alone.
        """


if TYPE_CHECKING:
    from transformer_lens import HookedTransformer
    from transformer_lens.model_bridge import TransformerBridge

    Model: TypeAlias = HookedTransformer | TransformerBridge | Adapter
else:  # importing TransformerLens is slow
    Model = Any
"""A model as mechicl's functions accept it: one of TransformerLens, or an object that implements `Adapter`."""

_ATTRIBUTE = "_mechicl_hooked"
_CLASSES = (("HookedTransformer", "HookedTransformer"), ("model_bridge.bridge", "TransformerBridge"))
"""TransformerLens's modules and model classes; version 4 has only the second."""


def hooked(model: Any) -> Adapter:
    """The adapter of a model; cheap, and the same object every time.

    Args:
        model: a `HookedTransformer`, a `TransformerBridge`, or an object that implements `Adapter`: your own, or one
            that this function returned.

    Raises `InputError` for anything else.
    """
    # A model of TransformerLens implies that its class is imported, so this never triggers the slow import.
    for module, name in _CLASSES:
        kind = getattr(sys.modules.get(f"transformer_lens.{module}"), name, None)
        if kind is not None and isinstance(model, kind):
            known = model.__dict__.get(_ATTRIBUTE)
            if known is None or known.raw is not model:
                known = model.__dict__[_ATTRIBUTE] = _adapter(name, model)
            return known  # type: ignore[no-any-return]
    missing = lacking(model, Adapter)
    if isinstance(model, type) or len(missing) > 3:
        raise InputError(
            f"Expected a HookedTransformer or a TransformerBridge, got {type(model).__name__}; "
            "load one with mechicl.load_model(name or directory)."
        )
    if missing:
        raise InputError(
            f"{type(model).__name__} lacks {', '.join(missing)} of mechicl.models.Adapter; add what is missing."
        )
    return model  # type: ignore[no-any-return]


def _adapter(kind: str, model: Any) -> Any:
    if kind == "HookedTransformer":
        from mechicl.models.hooked_transformer import HookedTransformerModel

        return HookedTransformerModel(model)
    from mechicl.models.bridge import BridgeModel

    return BridgeModel(model)


def lacking(model: Any, protocol: type) -> list[str]:
    """Members of a protocol that an object lacks; unlike `isinstance`, this does not evaluate properties."""
    members = sorted(name for kind in protocol.__mro__ for name in vars(kind) if name[0] != "_")
    return [name for name in members if not hasattr(type(model), name) and not hasattr(model, name)]


@contextmanager
def frozen(model: Any) -> Iterator[None]:
    """A context with a model in evaluation mode and its parameters without gradients; both are always restored."""
    raw = hooked(model).raw
    # A Bridge does not contain the outermost of the modules that it wraps.
    roots = [raw, *filter(None, [getattr(raw, "original_model", None)])]
    training = [module for root in roots for module in root.modules() if module.training]
    gradients = [parameter for parameter in raw.parameters() if parameter.requires_grad]
    try:
        for module in training:
            module.training = False
        for parameter in gradients:
            parameter.requires_grad_(False)
        yield
    finally:
        for module in training:
            module.training = True
        for parameter in gradients:
            parameter.requires_grad_(True)
