"""A model on the Hugging Face hub, at a revision: a branch, a tag, a commit, or a step of its training."""

from __future__ import annotations

import hashlib
import re
from contextlib import AbstractContextManager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mechicl.errors import InputError, first_line, retold
from mechicl.library import checkpoint_steps, has_hooked_transformer, official_names, special_names
from mechicl.models import hub
from mechicl.models.local import check_unquantised
from mechicl.models.names import REAL, SHIPPED, n_parameters
from mechicl.models.original import Original, loaded
from mechicl.models.tokenizers import clean_tokenizer

_PICKLED = ("NeelNanda/", "ArthurConmy/", "Baidicoot/")
_STEPS = {"EleutherAI/pythia": "step", "stanford-crfm/": "checkpoint-"}
"""Prefixes of the hub's branches for training checkpoints; a step's number follows."""


def hub_original(name: str, revision: str = "", *, trust_remote_code: bool = False) -> Original:
    """The model that TransformerLens knows by a name.

    Args:
        name: a name of TransformerLens or of the hub.
        revision: branch, tag, commit or training step; by default the newest.
        trust_remote_code: let the model run Python code that comes with it.

    Raises:
        InputError: there is no such name, step, or revision; the model is a pickle or needs its own code; the hub is
            not available.
    """
    from huggingface_hub import hf_hub_download, snapshot_download
    from transformers import AutoConfig

    official = name_on_hub(name)
    if official.startswith(_PICKLED):
        raise InputError(f"{official} is published as a pickle, which can run code; mechicl never opens one.")
    with_code, elsewhere = special_names()
    if official in elsewhere:
        raise InputError(f"{official} is not on the hub; give the folder that holds it.")
    if official.startswith(with_code) and not trust_remote_code:
        raise InputError(f"{official} brings its own Python code; pass trust_remote_code=True if you trust it.")
    branch = _branch(official, revision) if revision else None
    label = official.split("/")[-1]
    with _said(official, revision), hub.at_hand():
        # The commit of the revision now; from here on, only its files are read.
        commit = Path(hf_hub_download(official, "config.json", revision=branch)).parent.name
        config = AutoConfig.from_pretrained(official, revision=commit, trust_remote_code=trust_remote_code)
        check_unquantised(official, config.to_dict())
        code = None
        if trust_remote_code and getattr(config, "auto_map", None):
            code = Path(snapshot_download(official, revision=commit, allow_patterns=["*.json", "*.py"]))
    return Original(
        name=f"{label}@{revision}" if revision else label,
        digest=hashlib.sha256(f"{official} {commit}".encode()).hexdigest(),
        parameters=n_parameters(config),
        load=lambda dtype: _load(official, commit, dtype, trust_remote_code),
        tokenizer=lambda: _tokenizer(official, commit, trust_remote_code),
        remote_code=code,
        tokenizer_name=official,
        facts={"hub": official, "revision": branch or "main", "commit": commit},
    )


def name_on_hub(name: str) -> str:
    """The hub's name of a model that TransformerLens knows, such as EleutherAI/pythia-70m for pythia-70m.

    TransformerLens 4 wraps any model, so there every owner/name is valid.
    """
    aliases = official_names()
    if name.lower() not in aliases and not has_hooked_transformer() and name.count("/") == 1:
        return name
    if name.lower() not in aliases:
        near = get_close_matches(name.lower(), [*aliases, SHIPPED, REAL], n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}" if near else "TransformerLens's documentation lists the names"
        raise InputError(f"No model {name!r}: not a name that TransformerLens knows and not a folder here; {hint}.")
    return str(aliases[name.lower()])


def _branch(official: str, revision: str) -> str:
    """The hub's revision; for a model with training checkpoints, one of its steps, by number or by the hub's name."""
    prefix = next((prefix for start, prefix in _STEPS.items() if official.startswith(start)), None)
    step = re.fullmatch(r"(?:step|checkpoint-)?(\d{1,7})", revision) if prefix is not None else None
    if step is None:
        return revision
    labels = checkpoint_steps(official)
    number = int(step[1])
    if number not in labels:
        near = sorted(sorted(labels, key=lambda label: abs(label - number))[:2])
        raise InputError(
            f"{official} has no checkpoint of step {number}; the nearest are {' and '.join(map(str, near))}."
        )
    return f"{prefix}{number}"


def _load(official: str, commit: str, dtype: Any, trust_remote_code: bool) -> Any:
    with _said(official, commit), hub.at_hand():
        hub.announce(official, commit)
        return loaded(official, official, revision=commit, dtype=dtype, trust_remote_code=trust_remote_code)


def _tokenizer(official: str, commit: str, trust_remote_code: bool) -> Any:
    with _said(official, commit), hub.at_hand():
        return clean_tokenizer(official, revision=commit, trust_remote_code=trust_remote_code)


def _said(official: str, revision: str) -> AbstractContextManager[None]:
    """Report a missing network, a proxy, a gated model, a missing revision, or a damaged file in one sentence."""
    from huggingface_hub.errors import RevisionNotFoundError

    def sentence(error: Exception) -> str:
        if isinstance(error, RevisionNotFoundError):
            return f"{official} has no revision {revision!r} on the hub; give a branch, tag or commit."
        return f"{official} could not be fetched from the hub ({first_line(error)}); connect, or give a local folder."

    return retold(sentence)
