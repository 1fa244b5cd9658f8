"""How many numbers a model has, by its configuration alone: neither weights nor memory are needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mechicl import hub
from mechicl.limits import numbers_in
from mechicl.models.names import understood


def parameters_by_name(name: str) -> int | None:
    """Parameters of the model that `load_model` would load; None where they are not known without fetching it.

    Raises:
        InputError: there is no such model.
    """
    from mechicl.models import smollm2
    from mechicl.models.gguf import read_facts
    from mechicl.models.local import check_weights, read_config
    from mechicl.models.published import name_on_hub

    named = understood(name)
    if named.kind == "shipped":
        return numbers_in(sorted((Path(__file__).parent.parent / "shipped" / "tiny_icl").glob("*.safetensors")))
    if named.kind in ("real", "wheel"):
        return smollm2.PARAMETERS
    if named.kind == "gguf":
        return int(read_facts(named.path)["parameters"])
    if named.kind == "folder":
        read_config(named.path)
        weights = any(named.path.glob("*.safetensors"))
        return numbers_in(check_weights(named.path)) if weights else parameters_of(named.path)
    return parameters_of(name_on_hub(named.hub))


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
