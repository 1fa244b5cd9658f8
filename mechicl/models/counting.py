"""How many numbers a model has, by its configuration alone: neither weights nor memory are needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mechicl import hub


def n_parameters(config: Any) -> int:
    """Parameters of the causal language model that a Hugging Face configuration describes; tied ones once."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):  # shapes without storage
        model = AutoModelForCausalLM.from_config(config)
    return sum(parameter.numel() for parameter in model.parameters())


def parameters_of(name: str | Path) -> int | None:
    """The same for a local folder's config.json, or a hub name's, which is fetched; None where there is none to be had.

    Code that comes with a model is not run.
    """
    from transformers import AutoConfig

    try:
        with hub.at_hand():
            return n_parameters(AutoConfig.from_pretrained(str(name), trust_remote_code=False))
    except Exception:  # no network, no such name, code of its own, a config that nobody can build: it stays unknown
        return None
