"""What was sampled, held against what a study can say of it: no demonstrations, few prompts, a single class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from mechicl.claims import FEWEST
from mechicl.errors import InputError
from mechicl.prompts import PromptSet


def check_demonstrations(name: str, materials: Iterable[object]) -> None:
    """Raise InputError where a prompt has no demonstrations; `name` is that of the study."""
    prompts = [prompt for one in materials if isinstance(one, PromptSet) for prompt in one]
    if not all(prompt.demonstrations for prompt in prompts):
        raise InputError(
            f"{name} reads the demonstrations of its prompts, and these prompts have none; use shots=1 or more."
        )


def remarks_on(sets: Sequence[Mapping[str, Any]], model: Any, clean: pd.DataFrame) -> list[str]:
    """What a reader must know of the sample before a finding means much: few prompts, one class, one layer.

    Args:
        sets: the provenance of each prompt set.
        model: the provenance of the model.
        clean: rows with a task and the class that the clean model predicts.

    Returns:
        A sentence for each.
    """
    said = []
    for task in dict.fromkeys(one["task"] for one in sets):
        of_task = [one for one in sets if one["task"] == task]
        names, n = of_task[0].get("class_names", ()), sum(one.get("prompts", FEWEST) for one in of_task)
        if n < FEWEST:
            said.append(f"It rests on {n} prompt{'s' * (n > 1)} of {task}; take {FEWEST} or more.")
            continue
        counts = [sum(numbers) for numbers in zip(*(one.get("gold", ()) for one in of_task), strict=False)]
        asked = [name for name, count in zip(names, counts, strict=False) if count]
        if len(asked) == 1:
            said.append(f"All prompts of {task} ask about the class {asked[0]}; take prompts of other classes, too.")
        predicted = set(clean.loc[clean["task"] == task, "predicted"]) if len(clean) else ()
        if predicted and (never := [name for c, name in enumerate(names) if c not in predicted]):
            said.append(f"The model never predicts {', '.join(never)} on {task}.")
    if sets and isinstance(model, Mapping) and model.get("n_layers") == 1:
        said.append("The model has a single layer, so nothing distinguishes shallow layers from deep ones.")
    return said
