"""Warnings about a sample that is too small to conclude from: few prompts, one class, one layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from mechicl.claims import FEWEST


def remarks_on(provenance: Mapping[str, Any], rows: pd.DataFrame, clean: pd.DataFrame) -> list[str]:
    """Limits of the sample that qualify a finding: few prompts, one class, one layer.

    Args:
        provenance: the result's provenance; its prompts and model are read.
        rows: the table's rows that the finding rests on.
        clean: those of the rows that hold the clean model's predictions, each with a task and a class.

    Returns:
        One sentence per limit.
    """
    said, model = [], provenance.get("model")
    tasks = set(rows["task"]) if "task" in rows else set()
    sets = [one for one in provenance.get("prompts", ()) if one["task"] in tasks]
    for task in dict.fromkeys(one["task"] for one in sets):
        of_task = [one for one in sets if one["task"] == task]
        names, n = of_task[0].get("class_names", ()), sum(one.get("prompts", FEWEST) for one in of_task)
        if n < FEWEST:
            said.append(f"This result rests on {n} prompt{'s' * (n > 1)} of {task}; use {FEWEST} or more.")
            continue
        if len({tuple(one.get("class_names", ())) for one in of_task}) > 1:  # seeds drew other classes
            continue
        counts = [sum(numbers) for numbers in zip(*(one.get("gold", ()) for one in of_task), strict=False)]
        asked = [name for name, count in zip(names, counts, strict=False) if count]
        if len(asked) == 1:
            said.append(f"All prompts of {task} ask about the class {asked[0]}; use prompts of other classes, too.")
        predicted = set(clean.loc[clean["task"] == task, "predicted"]) if len(clean) else ()
        if predicted and (never := [name for c, name in enumerate(names) if c not in predicted]):
            said.append(f"The model never predicts {', '.join(never)} on {task}.")
    if sets and isinstance(model, Mapping) and model.get("n_layers") == 1:
        said.append("The model has a single layer, so nothing distinguishes shallow layers from deep ones.")
    return said
