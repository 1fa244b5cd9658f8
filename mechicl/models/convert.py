"""From a Hugging Face model in memory to a HookedTransformer that gives the same logits."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechicl.errors import InputError
from mechicl.models.processing import Placement, Processing
from mechicl.models.settings import known_settings

_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 2e-1}
"""Largest difference of log-probabilities, relative to their size: loose enough for rounding in any depth of
model, and far below what a dropped bias or a wrong rotation does."""


def convert(
    hf_model: Any,
    how: Processing,
    place: Placement | None = None,
    *,
    name: str,
    remote_code: Path | None = None,
) -> Any:
    """Convert with TransformerLens's converters, then compare the two models on a few tokens.

    Args:
        hf_model: a causal language model in evaluation mode, in the dtype wanted.
        place: where to; by default where and how it is.
        name: for `cfg.model_name`.
        remote_code: the directory whose Python files the configuration needs.

    Raises `InputError` where TransformerLens cannot convert the architecture, or converts it wrongly.
    """
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.loading_from_pretrained import convert_hf_model_config, get_pretrained_state_dict

    architecture = type(hf_model).__name__
    trust = {"trust_remote_code": True} if remote_code else {}
    try:
        with _neutral_directory(hf_model, remote_code) as directory:
            settings = known_settings(hf_model.config, architecture) or convert_hf_model_config(directory, **trust)
            settings |= {
                "model_name": name,
                "original_architecture": architecture,
                "tokenizer_name": None,  # or HookedTransformer would fetch one
                "init_weights": False,
            }
            settings |= (place or Placement(hf_model.dtype)).arguments()
            cfg = HookedTransformerConfig.from_dict(settings)
            state = get_pretrained_state_dict(directory, cfg, hf_model, **trust)
        expected = _sample_log_probs(lambda tokens: hf_model(tokens).logits, cfg, hf_model.device)
        model = HookedTransformer(cfg, move_to_device=False)
        model.load_and_process_state_dict(state, **how.possible_for(cfg).flags())
    except InputError:
        raise
    except Exception as error:  # its converters fail in many ways on a variant that they do not know
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"TransformerLens cannot convert this {architecture}: {reason}") from error
    clear_unused(model)
    check_finite(model)
    model.move_model_modules_to_device()
    found = _sample_log_probs(model, cfg, model.embed.W_E.device)
    _compare(found, expected, architecture, hf_model.dtype)
    return model.eval()


@contextmanager
def _neutral_directory(hf_model: Any, remote_code: Path | None) -> Iterator[str]:
    """A directory with the model's configuration under a name that says nothing.

    TransformerLens reads the architecture out of the *path* where it contains "llama" or "gemma", then finds
    no configuration for it; a user's directory may be called anything.
    """
    with tempfile.TemporaryDirectory(prefix="model-") as directory:
        if any(word in directory.lower() for word in ("llama", "gemma", "wav2vec2")):
            raise InputError(f"the temporary directory {directory} names an architecture; set TMPDIR to another")
        if remote_code is not None:
            for file in [*remote_code.glob("*.json"), *remote_code.glob("*.py")]:
                shutil.copy(file, directory)
        else:
            config = json.loads(hf_model.config.to_json_string(use_diff=False))
            config["architectures"] = [type(hf_model).__name__]
            # TransformerLens asks GPT-2 for a field that newer configurations no longer write.
            config.setdefault("n_ctx", config.get("n_positions"))
            (Path(directory) / "config.json").write_text(json.dumps(config), encoding="utf-8")
        yield directory


def _sample_log_probs(model: Any, cfg: Any, device: torch.device) -> Float[Tensor, "1 pos d_vocab"]:
    n = min(cfg.n_ctx, 16)
    tokens = (torch.arange(1, n + 1) * 7919 % cfg.d_vocab)[None]
    with torch.no_grad():
        log_probs: Tensor = model(tokens.to(device)).float().log_softmax(-1).cpu()
    return log_probs


def _compare(found: Tensor, expected: Tensor, architecture: str, dtype: torch.dtype) -> None:
    error = float((found - expected).abs().max())
    if not error <= _TOLERANCE.get(dtype, 1e-3) * max(1.0, float(expected.abs().max())):
        raise InputError(
            f"TransformerLens converts this {architecture} wrongly (log-probabilities off by {error:.2g}): "
            "its configuration has a feature that the converter does not know"
        )


def clear_unused(model: Any) -> None:
    """Zero the position embeddings of an ALiBi model: TransformerLens allocates them, never fills and never reads them.

    Left alone they hold whatever memory held, which may be nan and differs from run to run.
    """
    if model.cfg.positional_embedding_type == "alibi":
        with torch.no_grad():
            model.pos_embed.W_pos.zero_()


def check_finite(model: Any) -> None:
    """Raise `InputError` where a weight is nan or infinite (as float16 makes of large ones)."""
    for name, parameter in model.named_parameters():
        if not bool(parameter.isfinite().all()):
            dtype = str(parameter.dtype).removeprefix("torch.")
            raise InputError(
                f"weight {name} of {model.cfg.model_name} is not finite in {dtype}: "
                "a damaged file, or a number too large for this dtype"
            )
