"""What was sampled, held against what a study can say of it: few prompts, a single class, a single layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from mechicl.claims import FEWEST


def remarks_on(provenance: Mapping[str, Any], rows: pd.DataFrame, clean: pd.DataFrame) -> list[str]:
    """What a reader must know of the sample before a finding means much: few prompts, one class, one layer.

    Args:
        provenance: a result's, of which prompts and model are read.
        rows: those of its table that are spoken of.
        clean: of these the clean model's predictions, with a task and a class each.

    Returns:
        A sentence for each.
    """
    said, model = [], provenance.get("model")
    tasks = set(rows["task"]) if "task" in rows else set()
    sets = [one for one in provenance.get("prompts", ()) if one["task"] in tasks]
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
