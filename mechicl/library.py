"""Differences between TransformerLens 3.9 and 4, and its non-public parts: imported only from here."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Literal

from mechicl.errors import InputError
from mechicl.versions import versions

Backend = Literal["hooked", "bridge"]
"""A HookedTransformer, which TransformerLens 4 no longer has, or a TransformerBridge."""


def has_hooked_transformer() -> bool:
    """Whether this TransformerLens has HookedTransformer, without any slow import."""
    return find_spec("transformer_lens.HookedTransformer") is not None


def chosen(backend: str | None) -> Backend:
    """The requested backend; default: HookedTransformer if there is one.

    Raises `InputError` for a HookedTransformer if this TransformerLens has none.
    """
    if backend == "hooked" and not has_hooked_transformer():
        raise InputError(
            f"TransformerLens {versions()['transformer-lens']} has no HookedTransformer; leave backend out, or install "
            "transformer-lens<4."
        )
    return "bridge" if backend == "bridge" or not has_hooked_transformer() else "hooked"


def official_names() -> dict[str, str]:
    """The hub's names of the models that TransformerLens knows, by those names and their aliases in lower case."""
    from transformer_lens.supported_models import MODEL_ALIASES, OFFICIAL_MODEL_NAMES

    aliases = {alias.lower(): name for name in OFFICIAL_MODEL_NAMES for alias in MODEL_ALIASES.get(name, ())}
    return aliases | {name.lower(): name for name in OFFICIAL_MODEL_NAMES}


def special_names() -> tuple[tuple[str, ...], list[str]]:
    """Prefixes of models that TransformerLens 3.9 loads with their own Python code, and names that are not on the hub;
    empty with TransformerLens 4.
    """
    if not has_hooked_transformer():
        return (), []
    from transformer_lens.loading_from_pretrained import NEED_REMOTE_CODE_MODELS, NON_HF_HOSTED_MODEL_NAMES

    return NEED_REMOTE_CODE_MODELS, NON_HF_HOSTED_MODEL_NAMES


def checkpoint_steps(name: str) -> list[int]:
    """The training steps with a checkpoint of a model on the hub."""
    if has_hooked_transformer():
        from transformer_lens.loading_from_pretrained import get_checkpoint_labels
    else:
        from transformer_lens.tools.model_registry.checkpoints import get_checkpoint_labels
    return list(get_checkpoint_labels(name)[0])


def bridge_config(hf_model: Any, name: str) -> Any:
    """TransformerLens's configuration of a Hugging Face model; the model is unchanged."""
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_config_from_hf

    return build_bridge_config_from_hf(hf_model.config, type(hf_model).__name__, name, hf_model.dtype)


def build_bridge(hf_model: Any, name: str) -> Any:
    """A TransformerBridge around a Hugging Face model, whose modules it puts its wrappers on."""
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    architecture = type(hf_model).__name__
    return build_bridge_from_module(hf_model, architecture, hf_config=hf_model.config, model_name=name)
