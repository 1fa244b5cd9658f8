"""A local Hugging Face directory, without the network and without opening a pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from mechicl.errors import InputError
from mechicl.limits import check_weights_fit, numbers_in
from mechicl.models.convert import convert
from mechicl.models.processing import Placement, Processing
from mechicl.models.tokenizers import clean_tokenizer, give_tokenizer


def load_directory(path: Path, how: Processing, place: Placement, *, trust_remote_code: bool = False) -> Any:
    """Load a Hugging Face model directory as a `HookedTransformer` whose logits were compared with the
    original's.

    Raises `InputError` where the directory is incomplete, damaged, not a causal language model, or not one
    that TransformerLens converts faithfully.
    """
    config = read_config(path)
    if "auto_map" in config and not trust_remote_code:
        raise InputError(f"{path} brings Python code of its own; pass trust_remote_code=True if you trust it")
    check_weights_fit(path, numbers_in(check_weights(path)), place.dtype.itemsize, "cpu")
    hf_model = _load_weights(path, place.dtype, trust_remote_code)
    code = path if "auto_map" in config else None
    model = convert(hf_model, how, place, name=path.resolve().name, remote_code=code)
    tokenizer = clean_tokenizer(path, trust_remote_code=trust_remote_code)
    try:
        give_tokenizer(model, tokenizer)
    except Exception as error:  # it is asked to encode something, with whatever settings it has read
        raise InputError(f"the tokenizer in {path} does not work ({error}); save it again") from error
    return model


def read_config(path: Path) -> dict[str, Any]:
    """The directory's config.json; raises `InputError` unless it describes a causal language model."""
    file = path / "config.json"
    if not file.is_file():
        raise InputError(f"{path} has no config.json; give a directory written by save_pretrained")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file} is not valid JSON ({error}); copy the directory again") from error
    architectures = config.get("architectures") if isinstance(config, dict) else None
    name = architectures[0] if isinstance(architectures, list) and architectures else None
    if not isinstance(name, str):
        raise InputError(f'{file} names no architecture; expected e.g. "architectures": ["GPT2LMHeadModel"]')
    causal = name.endswith(("ForCausalLM", "LMHeadModel", "LMHeadCustomModel"))
    if not causal or config.get("is_encoder_decoder"):
        raise InputError(f"{path} holds a {name}, which is not a causal language model")
    return dict(config)


def check_weights(path: Path) -> list[Path]:
    """The safetensors files that the directory needs; raises `InputError` unless all are there and whole."""
    from safetensors import SafetensorError, safe_open

    files = sorted(path.glob("*.safetensors"))
    index = path / "model.safetensors.index.json"
    if index.is_file():
        files = [path / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
        if missing := [file.name for file in files if not file.is_file()]:
            raise InputError(f"{path} lacks {', '.join(missing)}; copy the missing files")
    if not files:
        if pickles := sorted(path.glob("*.bin")) or sorted(path.glob("*.pt*")):
            raise InputError(
                f"{path} holds its weights only as a pickle ({pickles[0].name}), which can run code; "
                "save them again with save_pretrained(safe_serialization=True)"
            )
        raise InputError(f"{path} has no model.safetensors; give a directory that holds weights")
    for file in files:
        try:
            with safe_open(str(file), framework="pt"):
                pass
        except SafetensorError as error:
            raise InputError(f"{file} is damaged or truncated ({error}); copy it again") from error
    return files


def _load_weights(path: Path, dtype: torch.dtype, trust_remote_code: bool) -> Any:
    from transformers import AutoModelForCausalLM

    try:
        hf_model, info = AutoModelForCausalLM.from_pretrained(
            str(path),
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
    except Exception as error:  # whatever transformers raises here, the remedy is another directory
        first = str(error).strip().splitlines()[0]
        raise InputError(f"{path} cannot be loaded by transformers: {first}") from error
    # transformers would go on with random numbers in their place.
    if missing := sorted(info["missing_keys"]):
        raise InputError(f"the weights in {path} lack {len(missing)} tensors ({missing[0]}, ...); copy it again")
    return hf_model.eval()
