"""A local Hugging Face folder, without the network and without opening a pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mechicl.errors import InputError, first_line, retold
from mechicl.files.json_files import read_object
from mechicl.limits import numbers_in
from mechicl.models.digests import files_digest
from mechicl.models.original import Original, loaded
from mechicl.models.tokenizers import clean_tokenizer


def folder_original(path: Path, *, trust_remote_code: bool = False, digest: str | None = None) -> Original:
    """The model in a Hugging Face folder.

    Args:
        path: the folder.
        trust_remote_code: let it run Python code that comes with it.
        digest: digest of its files, if known already.

    Raises `InputError` if the folder is incomplete or damaged, not a causal language model, or quantised.
    """
    config = read_config(path)
    if "auto_map" in config and not trust_remote_code:
        raise InputError(f"{path} brings Python code of its own; pass trust_remote_code=True if you trust it.")
    files = check_weights(path)
    code = path if "auto_map" in config else None
    determining = [path / "config.json", *files, *(path.glob("*.py") if code else ())]
    return Original(
        name=path.resolve().name,
        digest=digest or files_digest(determining),
        parameters=numbers_in(files),
        load=lambda dtype: _load_weights(path, dtype, trust_remote_code),
        tokenizer=lambda: clean_tokenizer(path, trust_remote_code=trust_remote_code),
        remote_code=code,
    )


def read_config(path: Path) -> dict[str, Any]:
    """The folder's config.json; raises `InputError` unless it is that of a causal language model, not quantised."""
    file = path / "config.json"
    if not file.is_file():
        if (path / "adapter_config.json").is_file():
            raise InputError(
                f"{path} holds a PEFT adapter, not a model; merge it into its base model with merge_and_unload(), save "
                "that with save_pretrained, and give the new folder."
            )
        raise InputError(f"{path} has no config.json; give a folder written by save_pretrained.")
    # Some configurations contain Infinity.
    config = read_object(file, "configuration", remedy="copy the folder again", lenient=True)
    architectures = config.get("architectures")
    name = architectures[0] if isinstance(architectures, list) and architectures else None
    if not isinstance(name, str):
        raise InputError(f'{file} names no architecture; expected e.g. "architectures": ["GPT2LMHeadModel"].')
    causal = name.endswith(("ForCausalLM", "LMHeadModel", "LMHeadCustomModel", "Gemma3ForConditionalGeneration"))
    if not causal or config.get("is_encoder_decoder"):
        raise InputError(f"{path} holds a {name}, which is not a causal language model.")
    check_unquantised(path, config)
    return config


def check_unquantised(source: object, config: dict[str, Any]) -> None:
    """Raise `InputError` for a checkpoint whose weights are stored quantised (GPTQ, AWQ, bitsandbytes, ...)."""
    quantised = config.get("quantization_config")
    if quantised:
        method = quantised.get("quant_method", "unknown") if isinstance(quantised, dict) else "unknown"
        raise InputError(
            f"The weights of {source} are quantised ({method}), and their hook points would not hold what the original "
            "computes; give the model that is not quantised, or a GGUF file, which is dequantised."
        )


def check_weights(path: Path) -> list[Path]:
    """The safetensors files that the folder needs; raises `InputError` unless all exist and are complete."""
    from safetensors import SafetensorError, safe_open

    files = sorted(path.glob("*.safetensors"))
    index = path / "model.safetensors.index.json"
    if index.is_file():
        files = [path / name for name in _indexed(index)]
        if missing := [file.name for file in files if not file.is_file()]:
            raise InputError(f"{path} lacks {', '.join(missing)}; copy the missing files.")
    if not files:
        if pickles := sorted(path.glob("*.bin")) or sorted(path.glob("*.pt*")):
            raise InputError(
                f"{path} holds its weights only as a pickle ({pickles[0].name}), which can run code; "
                "save them again with save_pretrained(safe_serialization=True)."
            )
        if ggufs := sorted(path.glob("*.gguf")):
            raise InputError(f"{path} has no model.safetensors; to load its GGUF file, give {ggufs[0]}.")
        raise InputError(f"{path} has no model.safetensors; give a folder that holds weights.")
    for file in files:
        try:
            with safe_open(str(file), framework="pt"):
                pass
        except SafetensorError as error:
            raise InputError(f"{file} is damaged or truncated ({error}); copy it again.") from error
    return files


def _indexed(index: Path) -> list[str]:
    """The names of the files in an index of weights."""
    weight_map = read_object(index, "index of weights", remedy="copy it again").get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise InputError(f"The index of weights {index} has no weight_map of file names; copy it again.")
    return sorted(set(weight_map.values()))


def _load_weights(path: Path, dtype: torch.dtype, trust_remote_code: bool) -> Any:
    options = {"local_files_only": True, "use_safetensors": True, "trust_remote_code": trust_remote_code}
    with retold(lambda error: f"{path} cannot be loaded by transformers ({first_line(error)})."):
        return loaded(path, str(path), dtype=dtype, **options)
