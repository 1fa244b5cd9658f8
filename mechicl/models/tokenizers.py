"""The tokenizer as its author meant it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mechicl.errors import InputError

_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "tokenizer_config.json",
)


def clean_tokenizer(source: str | Path, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a hub name (at a revision) or a folder, padding on the right; None where there is none."""
    from transformers import AutoTokenizer

    local = isinstance(source, Path)
    if isinstance(source, Path) and not any((source / file).exists() for file in _FILES):
        return None
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(source),
            revision=revision or "main",
            local_files_only=local,
            trust_remote_code=trust_remote_code,
            padding_side="right",
        )
    except Exception as error:
        if not local:
            raise
        first = str(error).strip().splitlines()[0]
        raise InputError(f"the tokenizer in {source} cannot be read ({first}); save it again") from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer


def give_tokenizer(model: Any, tokenizer: Any) -> None:
    """Put this very tokenizer on the model.

    `HookedTransformer.set_tokenizer` would load it again with `add_bos_token=True`:
    `model.tokenizer("great")` would then begin with a token that `tokenizer("great")` does not have, and
    every position computed with the one would be off by one in the other. Here both are the same object;
    `model.to_tokens(text, prepend_bos=...)` still works, because TransformerLens asks
    `cfg.tokenizer_prepends_bos` what the tokenizer does by itself.
    """
    model.tokenizer = tokenizer
    if tokenizer is not None:
        if tokenizer.bos_token is None:
            tokenizer.bos_token = tokenizer.eos_token
        model.cfg.tokenizer_prepends_bos = len(tokenizer.encode("")) > 0
