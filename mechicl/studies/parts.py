"""A study's input, split into the parts that are measured and stored together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from mechicl.corpora import TokenCorpus, WordPairs
from mechicl.declared import INPUTS, Reads
from mechicl.errors import InputError
from mechicl.models import Adapter, check_same_tokenizer
from mechicl.prompts import Prompt, PromptSet
from mechicl.tasks.benchmarks import Benchmarks

Material = PromptSet | Sequence[PromptSet] | Sequence[Prompt] | TokenCorpus | WordPairs | Benchmarks | None
"""A study's input; None if it reads the weights alone."""
DEMONSTRATION_SET = "demonstration_set"
DOCUMENT = "document"


def set_names(rows: pd.DataFrame | pd.Index) -> np.ndarray:
    """The demonstration set of each row of a table, or of an index that starts with seed and demonstration set."""
    places = rows if isinstance(rows, pd.Index) else zip(rows["seed"], rows[DEMONSTRATION_SET], strict=True)
    return np.array([f"{seed} {number}" for seed, number, *_ in places])


@dataclass(frozen=True)
class Part:
    """The input of one cell, and the values that its rows share."""

    material: PromptSet | TokenCorpus | WordPairs | Benchmarks | None
    labels: Mapping[str, Any] = field(default_factory=dict)
    first: int = 0
    """Index of its first sequence in the corpus."""

    def label(self, rows: pd.DataFrame, model: str, condition: Mapping[str, Any]) -> pd.DataFrame:
        """Prepend the columns that all rows share: model; for prompts task, seed and shots; and the condition.

        After `prompt` comes the number of its demonstration set (prompts with the same demonstrations share it);
        after `sequence`, the document that most of its tokens come from.
        """
        if "sequence" in rows:
            if isinstance(self.material, TokenCorpus):
                documents = np.take(self.material.document_of.numpy(), rows["sequence"])
                rows.insert(list(rows).index("sequence") + 1, DOCUMENT, documents)
            rows["sequence"] += self.first
        if "prompt" in rows and isinstance(self.material, PromptSet):
            known: dict[Any, int] = {}
            of_prompt = [known.setdefault(one.tokens[: one.query_start], len(known)) for one in self.material]
            rows.insert(list(rows).index("prompt") + 1, DEMONSTRATION_SET, np.take(of_prompt, rows["prompt"]))
        facts = pd.DataFrame({"model": model, **self.labels, **condition}, index=rows.index)
        return pd.concat([facts, rows], axis=1)


def parts_of(
    material: Material, reads: Reads, *, name: str, sequences: int, zero_shot: bool = True
) -> tuple[list[Part], dict[str, Any]]:
    """The input of the study `name`, split into parts (running text by number of sequences), and its provenance.

    Raises:
        InputError: the study does not read such input, or a prompt has no demonstrations (unless `zero_shot`).
    """
    material = [material] if isinstance(material, Prompt) else material
    given = _reads(material)
    sets = _prompt_sets(material) if given == "prompts" else []
    if not all(map(len, sets)):
        raise InputError(f"{name} is run on prompts, and a set of them is empty; give at least one prompt.")
    if given != reads or (given == "prompts" and not sets):
        known = sets or given != "prompts"
        what = str(INPUTS[given]) if known else f"{type(material).__name__} {str(material)[:40]!r}"
        raise InputError(f"{name} is run on {INPUTS[reads]}; it was given {what}.")
    if not zero_shot and not all(prompt.demonstrations for one in sets for prompt in one):
        raise InputError(
            f"{name} reads the demonstrations of its prompts, and these prompts have none; use shots=1 or more."
        )
    if material is None:
        return [Part(None)], {}
    if isinstance(material, WordPairs | Benchmarks):
        return [Part(material)], {given: material.provenance()}
    if isinstance(material, TokenCorpus):
        starts = range(0, len(material), sequences)
        parts = [Part(material[first : first + sequences], {}, first) for first in starts]
        return parts, {"text": material.provenance()}
    _check_distinct(sets)
    in_words = any(isinstance(one.shots, str) for one in sets)  # a column holds either numbers or strings
    parts = [
        Part(one, {"task": one.task, "seed": one.seed, "shots": str(one.shots) if in_words else one.shots})
        for one in sets
    ]
    return parts, {"prompts": [one.provenance() for one in sets]}


def _check_distinct(sets: Sequence[PromptSet]) -> None:
    """Reject sets whose rows could not be told apart in a table; prompts of one's own have no seed."""
    seen = set()
    for one in sets:
        about = (one.task, one.seed, str(one.shots))
        if one.seed is not None and about in seen:
            raise InputError(
                f"Two sets of prompts have the task {one.task}, the seed {one.seed} and {one.shots} demonstrations per "
                "class, so that their rows could not be told apart; give them different seeds, or run them separately."
            )
        seen.add(about)


def _reads(material: Material) -> Reads:
    """The kind of an input; "prompts" unless it is of another kind."""
    if material is None:
        return "weights"
    kind = type(material).__name__
    return next((reads for reads, one in INPUTS.items() if one.type == kind), "prompts")


def check_same_tokenizers(net: Adapter, parts: Sequence[Part]) -> None:
    """Reject input made with another tokenizer; benchmarks are tokenized only when they run."""
    for part in parts:
        if isinstance(part.material, PromptSet | TokenCorpus | WordPairs):
            check_same_tokenizer(net, part.material)


def _prompt_sets(given: Any) -> list[PromptSet]:
    """Prompt sets from one set, several, or a list of prompts; empty for anything else, such as a mixed list."""
    if isinstance(given, PromptSet):
        return [given]
    items = list(given) if isinstance(given, Iterable) else []
    if all(isinstance(item, PromptSet) for item in items):
        return items
    return [PromptSet.of(items)] if all(isinstance(item, Prompt) for item in items) else []
