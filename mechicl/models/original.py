"""A model as its authors published it: its files, their contents, and how to load them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mechicl.errors import InputError

_BUFFERS = re.compile(r"(inv_freq|masked_bias|attn\.bias|attention\.bias|position_ids|cos_cached|sin_cached)$")
"""Numbers that older checkpoints store with the weights although they follow from the configuration."""


@dataclass(frozen=True)
class Original:
    """A causal language model on disk, not yet in memory."""

    name: str
    """For `cfg.model_name` and tables."""
    digest: str
    """Digest of all files that determine the weights."""
    parameters: int | None
    load: Callable[[Any], Any]
    """Function from a dtype to the Hugging Face model in evaluation mode."""
    tokenizer: Callable[[], Any]
    """The tokenizer; None if there is none."""
    remote_code: Path | None = None
    tokenizer_name: str | None = None
    """The hub's name of the tokenizer, for TransformerLens's own helpers."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Facts for provenance."""


def loaded(source: object, name: str, **options: Any) -> Any:
    """A Hugging Face model in evaluation mode; `options` are those of `from_pretrained`.

    Raises `InputError` if the configuration and the checkpoint of `source` disagree on which weights there are:
    transformers would fill in missing weights with random numbers, and drop those that it has no place for.
    """
    from transformers import AutoModelForCausalLM

    hf_model, info = AutoModelForCausalLM.from_pretrained(name, output_loading_info=True, **options)
    missing = sorted(info.get("missing_keys", ()))
    if missing:
        raise InputError(f"The weights in {source} lack {_named(missing)}; copy them again, or correct config.json.")
    unused = sorted(name for name in info.get("unexpected_keys", ()) if not _BUFFERS.search(name))
    if unused:
        raise InputError(
            f"{source} holds weights that its configuration has no place for ({_named(unused)}), so the model would "
            "not be the one that was trained; correct config.json (architecture, number of layers)."
        )
    if mismatched := sorted(str(entry) for entry in info.get("mismatched_keys", ())):
        raise InputError(
            f"Weights in {source} differ in size from what config.json says ({_named(mismatched)}); copy both anew."
        )
    embedding, unembedding = hf_model.get_input_embeddings(), hf_model.get_output_embeddings()
    ties = getattr(hf_model.config.get_text_config(), "tie_word_embeddings", False) and unembedding is not None
    if ties and not torch.equal(embedding.weight, unembedding.weight):
        raise InputError(
            f"{source} holds an unembedding of its own, and its configuration ties it to the embedding; correct "
            "tie_word_embeddings in config.json."
        )
    return hf_model.eval()


def _named(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
