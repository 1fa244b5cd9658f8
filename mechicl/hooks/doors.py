"""Check the arguments of `run`, with a specific message for each common mistake."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mechicl.corpora import TokenCorpus
from mechicl.errors import InputError
from mechicl.hooks.parts import Patch, Probe
from mechicl.prompts import Prompt, PromptSet

_EXPECTED = (
    "Expected prompts (task.prompts(model.tokenizer, ...)) or running text (mi.load_corpus(model.tokenizer, ...))"
)


def material_of(given: Any) -> PromptSet | TokenCorpus:
    """The input that `run` passes through the model; a prompt, or a list of them, becomes a set.

    Raises:
        InputError: it is something else; a list with anything but prompts is rejected as a whole.
    """
    if isinstance(given, PromptSet | TokenCorpus):
        return given
    if isinstance(given, Prompt):
        return PromptSet.of([given])
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise InputError(f"{_EXPECTED}, not {'a text' if isinstance(given, str) else f'a {type(given).__name__}'}.")
    others = [(place, item) for place, item in enumerate(given) if not isinstance(item, Prompt)]
    if others:
        place, item = others[0]
        raise InputError(f"{_EXPECTED}, and item {place} of the list is a {type(item).__name__}.")
    return PromptSet.of(given)


def prompts_of(given: Any) -> PromptSet:
    """Prompts as a set, for functions that cannot take running text.

    Raises:
        InputError: it is something else.
    """
    material = material_of(given)
    if isinstance(material, TokenCorpus):
        raise InputError("Expected prompts (task.prompts(model.tokenizer, ...)), not running text.")
    return material


def check_parts(probes: Any, patches: Any) -> None:
    """Reject anything but a list of probes and a list of patches.

    Raises:
        InputError: a single probe instead of a list, a class instead of an object, a patch among the probes, ...
    """
    for name, given, kind, other in (("probes", probes, Probe, Patch), ("patches", patches, Patch, Probe)):
        if not isinstance(given, Sequence) or isinstance(given, str):
            raise InputError(f"{name} is {_named(given)}; give a list: {name}=[...].")
        for item in given:
            if isinstance(item, kind):
                continue
            if isinstance(item, type) and issubclass(item, kind):
                raise InputError(f"{name} holds the class {item.__name__}; make an object of it: {item.__name__}(...).")
            if isinstance(item, other):
                right = "patches" if kind is Probe else "probes"
                raise InputError(f"{name} holds {_named(item)}; give it in {right}=[...].")
            hint = (
                " A hook (name, function) of your own goes into a Patch or a Probe, or through model.run_with_hooks."
                if isinstance(item, tuple)
                else ""
            )
            raise InputError(f"{name} holds {_named(item)}; expected a {kind.__name__}.{hint}")
    if len(set(probes)) != len(probes):
        raise InputError("The same probe was given twice; a reading is looked up by its probe, so give each once.")


def _named(item: Any) -> str:
    text = repr(item)
    return text if len(text) <= 60 else f"a {type(item).__name__}"
