"""A model's untrained twin: the same architecture with random weights, a null for everything due to training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from mechicl.errors import InputError, check_seed
from mechicl.library import build_bridge
from mechicl.limits import return_freed_memory
from mechicl.models.adapter import Adapter, Model, hooked
from mechicl.models.convert import clear_unused
from mechicl.models.provenance import remember
from mechicl.models.spread import place, places


def has_twin(model: Model) -> bool:
    """Whether `untrained` can make a twin: only for TransformerLens's own classes, not for user-defined ones."""
    return _class(hooked(model)) in _MAKERS


def untrained(model: Model, seed: int) -> Any:
    """A new, freshly initialised model of the same configuration; the given model is unchanged.

    Dtype, devices, tokenizer and settings are the model's. A HookedTransformer gets TransformerLens's initialisation:
    normal weights of the configuration's `initializer_range`, biases 0, gains 1, so that folded norms have nothing to
    fold. A TransformerBridge gets that of its Hugging Face class. If the model's unembedding is its embedding, so is
    the twin's, because the logit lens then begins with the current token; a model that was processed elsewhere no
    longer shows this, unless its configuration says so. Weights are drawn on the CPU, so a seed gives the same twin on
    every device, and PyTorch's generators are unchanged. The twin has none of the user's replaced modules or hooks.

    Raises:
        InputError: the model is of a user-defined class.
    """
    check_seed(seed)
    net = hooked(model)
    make = _MAKERS.get(_class(net) or "")
    if make is None:
        raise InputError(
            f"{net.name} ({type(model).__name__}) has no untrained twin: mechicl knows the initialisation of a "
            "HookedTransformer or a TransformerBridge alone; leave the twins out (untrained=0)."
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every device
        twin = make(net.raw)
    twin.tokenizer = net.tokenizer
    twin.cfg.model_name = f"{net.name}, untrained, seed {seed}"
    remember(twin, source=twin.cfg.model_name, processing="none")
    place(twin, net.device, places(net.raw))
    return twin.eval()


@contextmanager
def untrained_twin(model: Model, seed: int) -> Iterator[Any]:
    """A context with an `untrained` model, whose weights are freed at the end.

    Models have reference cycles, so their weights would otherwise remain until Python's garbage collector runs.
    """
    twin = untrained(model, seed)
    try:
        yield twin
    finally:
        for tensor in (*twin.parameters(), *twin.buffers()):
            tensor.data = torch.empty(0)
        return_freed_memory()


def _class(net: Adapter) -> str | None:
    """The name of the TransformerLens class that mechicl's own adapter wraps; None for a user-defined adapter."""
    if not type(net).__module__.startswith("mechicl."):
        return None
    return next((kind.__name__ for kind in type(net.raw).__mro__ if kind.__module__.startswith("transformer_lens")), "")


def _hooked_transformer(raw: Any) -> Any:
    from transformer_lens import HookedTransformer

    cfg = copy.deepcopy(raw.cfg)
    cfg.device, cfg.n_devices, cfg.seed, cfg.tokenizer_name, cfg.init_weights = "cpu", 1, None, None, True
    twin = HookedTransformer(cfg, move_to_device=False)
    if cfg.tie_word_embeddings or torch.equal(raw.embed.W_E.T, raw.unembed.W_U):
        twin.unembed.W_U.data = twin.embed.W_E.data.T.clone()
    clear_unused(twin)
    return twin


def _bridge(raw: Any) -> Any:
    original = raw.original_model
    fresh = type(original)._from_config(copy.deepcopy(original.config), dtype=raw.embed.W_E.dtype)
    twin = build_bridge(fresh.eval(), raw.cfg.model_name)
    twin.cfg.n_ctx = raw.cfg.n_ctx
    twin.cfg.default_prepend_bos = raw.cfg.default_prepend_bos
    twin.cfg.tokenizer_prepends_bos = raw.cfg.tokenizer_prepends_bos
    return twin


_MAKERS: dict[str | None, Callable[[Any], Any]] = {
    "HookedTransformer": _hooked_transformer,
    "TransformerBridge": _bridge,
}
