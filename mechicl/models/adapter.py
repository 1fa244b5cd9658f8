"""The adapter: the little that probes, patches and `run` ask of a model, whatever class it is of.

A HookedTransformer is wrapped in one (`hooked_transformer.py`), and so is a TransformerBridge (`bridge.py`); a class of
your own that answers `Adapter` is one. Engines ask for more (`blockwise.py`), and work on both of these, or whatever
answers that too.
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
    """The final norm takes the mean out (LayerNorm); an RMS norm does not."""


class Adapter(Protocol):
    """A causal language model with hook points, run whole.

    Hook points have TransformerLens's names and shapes. Which of them a model needs follows from what is asked of it: a
    probe or a patch needs those that it names, a gradient `hook_embed`, where it ends.
    """

    @property
    def raw(self) -> torch.nn.Module:
        """What holds the parameters: `frozen` holds them still, and provenance digests them, and the module's code."""

    @property
    def name(self) -> str:
        """What tables and messages call it."""

    @property
    def device(self) -> torch.device:
        """Where tokens are put before `forward` sees them."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the activations, from which the memory of a batch is estimated."""

    @property
    def sizes(self) -> Sizes:
        """Layers, heads and widths."""

    @property
    def tokenizer(self) -> Any:
        """A Hugging Face tokenizer; None where prompts and text are made elsewhere."""

    def hook_names(self) -> frozenset[str]:
        """Every hook point that can be hooked as the model is set now (some of them may still never fire)."""

    def hooks(self, fwd: Sequence[Hook]) -> AbstractContextManager[None]:
        """Install forward hooks, and take exactly these away again at the end, whatever happens inside.

        Hooks on one point run in the order given; what one returns, unless it is None, the next one sees. Raises
        `InputError` for an unknown name, before any hook is installed.
        """

    def forward(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """From tokens to the last residual (`hook_resid_post` of the last block); hooks fire.

        Right padding only: no attention mask is made. Raises `InputError` for too many tokens or an unknown token id.
        """

    def read(self, resid: Float[Tensor, "batch *pos d_model"]) -> Float[Tensor, "batch *pos d_vocab"]:
        """Logits of a residual, through the final norm's and unembedding's modules: their hooks fire."""

    def lens(
        self, resid: Float[Tensor, "*any d_model"], tokens: Int[Tensor, " token"] | None = None
    ) -> Float32[Tensor, "*any token"]:
        """The same function as `read`, in silence: no hook fires. `lens(last residual) == read(last residual)`; with
        `tokens`, the logits of these alone.
        """


if TYPE_CHECKING:
    from transformer_lens import HookedTransformer
    from transformer_lens.model_bridge import TransformerBridge

    Model: TypeAlias = HookedTransformer | TransformerBridge | Adapter
else:  # the import of TransformerLens is slow
    Model = Any
"""What the functions of mechicl take as a model: one of TransformerLens, or an object that answers `Adapter`."""

_ATTRIBUTE = "_mechicl_hooked"
_CLASSES = (("HookedTransformer", "HookedTransformer"), ("model_bridge.bridge", "TransformerBridge"))
"""TransformerLens's modules and model classes; version 4 has the second alone."""


def hooked(model: Any) -> Adapter:
    """The adapter of a model; cheap, and the same object every time.

    Args:
        model: a `HookedTransformer`, a `TransformerBridge`, or what answers `Adapter`: an object of your own, or what
            this function returned.

    Raises `InputError` for anything else.
    """
    # Whoever holds a model of TransformerLens's has imported its class, so the slow import is never made here.
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
    """Members of a protocol that an object has not; properties are not evaluated, as `isinstance` would."""
    members = sorted(name for kind in protocol.__mro__ for name in vars(kind) if name[0] != "_")
    return [name for name in members if not hasattr(type(model), name) and not hasattr(model, name)]


@contextmanager
def frozen(model: Any) -> Iterator[None]:
    """Hold a model in evaluation mode, its parameters without gradients; both are restored, come what may."""
    raw = hooked(model).raw
    # A Bridge does not hold the outermost of the modules that it wraps.
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
