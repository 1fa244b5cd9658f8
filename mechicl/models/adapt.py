"""From what a user holds to the seam, and a model held still while it is measured."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mechicl.errors import InputError
from mechicl.models.seam import HookedModel

_ATTRIBUTE = "_mechicl_hooked"


def hooked(model: Any) -> HookedModel:
    """Give the seam of a model; cheap, and the same object every time.

    Args:
        model: a `HookedTransformer`, or what this function returned before.

    Raises `InputError` for anything else.
    """
    # Whoever holds a HookedTransformer has imported TransformerLens, so the slow import is never made here.
    library = sys.modules.get("transformer_lens")
    if library is not None and isinstance(model, library.HookedTransformer):
        known = model.__dict__.get(_ATTRIBUTE)
        if known is None or known.raw is not model:
            from mechicl.models.hooked_transformer import HookedTransformerModel

            known = model.__dict__[_ATTRIBUTE] = HookedTransformerModel(model)
        return known  # type: ignore[no-any-return]
    if isinstance(model, type) or not isinstance(model, HookedModel):
        raise InputError(
            f"expected a HookedTransformer, got {type(model).__name__}; "
            "load one with mechicl.load_model(name or directory)"
        )
    return model


@contextmanager
def frozen(model: Any) -> Iterator[None]:
    """Hold a model in evaluation mode, its parameters without gradients; both are restored, come what may."""
    raw = hooked(model).raw
    training = [(module, module.training) for module in raw.modules()]
    gradients = [(parameter, parameter.requires_grad) for parameter in raw.parameters()]
    try:
        raw.eval()
        raw.requires_grad_(False)
        yield
    finally:
        for module, was_training in training:
            module.training = was_training
        for parameter, needed_gradient in gradients:
            parameter.requires_grad_(needed_gradient)
