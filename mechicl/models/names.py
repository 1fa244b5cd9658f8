"""The meaning of a model's name: the shipped model, the real one, something on this disk, or a name on the hub; and its
number of parameters, from its configuration alone, without weights or memory."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mechicl.errors import InputError
from mechicl.limits import numbers_in
from mechicl.models import hub

SHIPPED = "tiny-icl"
REAL = "smollm2-135m-q4"


@dataclass(frozen=True)
class Named:
    """A parsed model name."""

    kind: Literal["shipped", "real", "wheel", "gguf", "folder", "hub"]
    path: Path
    """Path on this disk, if any."""
    hub: str = ""
    revision: str = ""
    """A branch, tag, commit or training step on the hub; empty for the newest."""


def understood(name: str | Path) -> Named:
    """Parse a name. A folder takes precedence over a name on the hub, and a Path is never a hub name.

    Raises:
        InputError: the name is empty, has a revision without there being any, or there is no such file or folder.
    """
    text = str(name)
    if not text.strip() or text == ".":
        raise InputError(f"The model's name is {text!r}; give a name, a folder, or a GGUF file.")
    if text in (SHIPPED, REAL):
        return Named("shipped" if text == SHIPPED else "real", Path(text))
    path = Path(os.path.expanduser(text))
    if os.path.isdir(path):  # False for overlong names, on which Path.is_dir raises on some systems
        return Named("folder", path)
    if path.suffix.lower() == ".gguf":
        return Named("gguf", path)
    if path.suffix == ".whl":
        return Named("wheel", path)
    before, at, revision = text.partition("@")
    if before in (SHIPPED, REAL):
        raise InputError(f"{before} has no revisions; leave out {at}{revision}.")
    if isinstance(name, Path) or before.startswith((".", "/", "~")) or before.count("/") > 1 or "\\" in before:
        raise InputError(f"There is no folder {name}; give a Hugging Face model folder, a hub name or {SHIPPED!r}.")
    if not before or (at and not revision):
        raise InputError(f"{text!r} is not a model name; give name@revision, such as EleutherAI/pythia-70m@step1000.")
    return Named("hub", path, before, revision)


def parameters_by_name(name: str) -> int | None:
    """Number of parameters of the model that `load_model` would load; None if unknown without downloading it.

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


def n_parameters(config: Any) -> int | None:
    """Number of parameters of the causal language model of a Hugging Face configuration; tied ones count once.

    None if it cannot be built without its own code.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with suppress(Exception), torch.device("meta"):  # shapes without storage
        return int(sum(parameter.numel() for parameter in AutoModelForCausalLM.from_config(config).parameters()))
    return None


def parameters_of(name: str | Path) -> int | None:
    """The same for a local folder's config.json, or for a hub name's, which is downloaded; None if unavailable.

    Code that comes with a model never runs.
    """
    from transformers import AutoConfig

    with suppress(Exception), hub.at_hand():  # no network, no such name, or custom code
        return n_parameters(AutoConfig.from_pretrained(str(name), trust_remote_code=False))
    return None
