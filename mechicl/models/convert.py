"""From a Hugging Face model in memory to a HookedTransformer or a TransformerBridge that gives the same logits."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mechicl.errors import InputError, first_line, retold
from mechicl.library import Backend, bridge_config, build_bridge
from mechicl.models.compare import check_same, check_windows, converted_log_probs, dropped, original_log_probs, samples
from mechicl.models.processing import DevicePlacement, Processing, load_state, process
from mechicl.models.settings import corrections, known_settings
from mechicl.models.spread import devices_from, spread

Maker = Callable[[], tuple[Any, dict[str, Tensor] | None]]
"""A function that makes the model and returns its weights under TransformerLens's names, if they differ."""


def convert(
    hf_model: Any,
    how: Processing,
    place: DevicePlacement | None = None,
    *,
    name: str,
    n_ctx: int | None = None,
    compared: bool = False,
    remote_code: Path | None = None,
    backend: Backend = "hooked",
) -> Any:
    """Convert with TransformerLens's converters or wrap in a Bridge, then compare the two models, raw or processed as
    they will be used.

    Args:
        hf_model: a causal language model in evaluation mode. It is converted and compared in its dtype. A Bridge keeps
            its modules.
        place: target device and dtype; default: unchanged.
        name: for `cfg.model_name`.
        n_ctx: longest sequence in tokens; the configuration's by default.
        compared: skip the checks, because the same weights were compared before with the same versions.
        remote_code: the folder whose Python files the configuration needs.
        backend: the class of the new model.

    Raises `InputError` if TransformerLens cannot convert the architecture, or converts it wrongly.
    """
    architecture, place = type(hf_model).__name__, place or DevicePlacement(hf_model.dtype, hf_model.device)
    if getattr(hf_model.config.get_text_config(), "attn_logit_softcapping", None):
        hf_model.set_attn_implementation("eager")  # others ignore the cap in some versions of transformers
    with retold(lambda error: f"TransformerLens cannot convert this {architecture} ({_reason(error)})."):
        if backend == "bridge":
            cfg = bridge_config(hf_model, name)
            make: Maker = partial(_wrapped, hf_model, name)
        else:
            cfg, make = _converted(hf_model, place, name, remote_code)
        context = cfg.n_ctx if n_ctx is None else n_ctx
        check_context(cfg, context)
        if backend == "hooked":
            check_windows(hf_model, cfg, context)
        with_original = [] if compared else samples(hf_model, cfg, context)
        expected = [original_log_probs(hf_model, sample) for sample in with_original]
        model, state = make()
    set_context(model, context)
    process(model, how)
    if backend == "hooked":
        clear_unused(model)
    if not compared:
        check_finite(model)
    for sample, theirs in zip(with_original, expected, strict=True):
        length = sample.tokens.shape[1]
        for ours in converted_log_probs(model, sample):
            check_same(ours, theirs, length, hf_model.dtype, lambda: _wrong(hf_model, state))
    del hf_model, state
    if place.dtype != model.cfg.dtype:
        model.to(place.dtype, print_details=False)
        check_finite(model)
    spread(model, devices_from(torch.device(place.device), place.n_devices))
    return model.eval()


def _wrapped(hf_model: Any, name: str) -> tuple[Any, None]:
    """A Bridge around the model; its weights keep their names."""
    return build_bridge(hf_model, name), None


def _converted(hf_model: Any, place: DevicePlacement, name: str, remote_code: Path | None) -> tuple[Any, Maker]:
    """The configuration, and a function that makes the HookedTransformer and returns it with its weights as loaded."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.loading_from_pretrained import convert_hf_model_config, get_pretrained_state_dict

    architecture = type(hf_model).__name__
    trust = {"trust_remote_code": True} if remote_code else {}
    with _neutral_folder(hf_model, remote_code) as folder:
        settings = known_settings(hf_model.config, architecture) or convert_hf_model_config(folder, **trust)
        settings |= corrections(hf_model.config, settings) | {
            "model_name": name,
            "original_architecture": architecture,
            "tie_word_embeddings": _ties(hf_model),  # folding norms hides it from the weights
            "tokenizer_name": None,  # or HookedTransformer would fetch one
            "init_weights": False,
            "dtype": hf_model.dtype,
            "device": "cpu",
        }
        cfg = HookedTransformerConfig.from_dict(settings)
        state = get_pretrained_state_dict(folder, cfg, hf_model, **trust)

    def make() -> tuple[Any, dict[str, Tensor]]:
        model = HookedTransformer(cfg, move_to_device=False)
        load_state(model, state)
        return model, state

    return cfg, make


def _ties(hf_model: Any) -> bool:
    """Whether the unembedding is the embedding."""
    embedding, unembedding = hf_model.get_input_embeddings(), hf_model.get_output_embeddings()
    return unembedding is not None and embedding.weight is unembedding.weight


def _reason(error: Exception) -> str:
    """A converter's message about an unknown variant; PyTorch puts mismatches after a headline."""
    return next((line.strip() for line in str(error).splitlines() if "mismatch" in line), first_line(error))


def _wrong(hf_model: Any, state: dict[str, Tensor] | None) -> str:
    if state is None:
        return f"TransformerLens's Bridge of this {type(hf_model).__name__} computes something else than the original"
    lost = dropped(hf_model, state)
    more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
    why = f"it drops {lost[0]}{more}" if lost else "its configuration has a feature that the converter does not know"
    return f"TransformerLens converts this {type(hf_model).__name__} wrongly: {why}"


@contextmanager
def _neutral_folder(hf_model: Any, remote_code: Path | None) -> Iterator[str]:
    """A folder with the model's configuration under a neutral name.

    TransformerLens infers the architecture from the *path* if it contains "llama" or "gemma", and then finds no
    configuration for it; a user's folder may have any name.
    """
    with tempfile.TemporaryDirectory(prefix="model-") as folder:
        if any(word in folder.lower() for word in ("llama", "gemma", "wav2vec2")):
            raise InputError(f"The temporary folder {folder} names an architecture; set TMPDIR to another.")
        if remote_code is not None:
            for file in [*remote_code.glob("*.json"), *remote_code.glob("*.py")]:
                shutil.copy(file, folder)
        else:
            config = json.loads(hf_model.config.to_json_string(use_diff=False))
            config["architectures"] = [type(hf_model).__name__]
            # TransformerLens asks GPT-2 for a field that newer configurations no longer write.
            config.setdefault("n_ctx", config.get("n_positions"))
            (Path(folder) / "config.json").write_text(json.dumps(config), encoding="utf-8")
        yield folder


def set_context(model: Any, n_ctx: int) -> None:
    """Let a model take sequences of at most `n_ctx` tokens; raises `InputError` if it lacks positions for them."""
    check_context(model.cfg, n_ctx)
    model.cfg.n_ctx = n_ctx


def check_context(cfg: Any, n_ctx: int) -> None:
    """Raise `InputError` for a context for which a configuration lacks positions."""
    if not isinstance(n_ctx, int) or isinstance(n_ctx, bool) or n_ctx < 1:
        raise InputError(f"n_ctx is {n_ctx!r}; give a whole number of tokens, at least 1.")
    if n_ctx > cfg.n_ctx and cfg.positional_embedding_type == "standard":
        raise InputError(
            f"n_ctx is {n_ctx}, and {cfg.model_name} has {cfg.n_ctx} learned positions; pass at most {cfg.n_ctx}."
        )


def clear_unused(model: Any) -> None:
    """Zero the position embeddings of an ALiBi model: TransformerLens allocates them, never fills and never reads them.

    Otherwise they contain uninitialised memory, which may be nan and differs from run to run.
    """
    if model.cfg.positional_embedding_type == "alibi":
        with torch.no_grad():
            model.pos_embed.W_pos.zero_()


def check_finite(model: Any) -> None:
    """Raise `InputError` if a weight is nan or infinite (as large ones are in float16)."""
    for name, parameter in model.named_parameters():
        # A sum is not finite if a number is not; the converse is rare, and checked.
        if not bool(parameter.sum(dtype=torch.float32).isfinite()) and not bool(parameter.isfinite().all()):
            dtype = str(parameter.dtype).removeprefix("torch.")
            raise InputError(
                f"Weight {name} of {model.cfg.model_name} is not finite in {dtype}: "
                "a damaged file, or a number too large for this dtype."
            )
