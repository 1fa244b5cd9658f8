"""What every study is: a frozen set of switches that can be measured, summarised and drawn."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import pandas as pd
import plotly.graph_objects as go

from mechicl.errors import InputError
from mechicl.models import hooked, provenance
from mechicl.progress import progress
from mechicl.prompts import Prompt, PromptSet
from mechicl.results import Cells, Result, versions

Protocol = Literal["paper", "corrected"]
Condition = Mapping[str, Any]


@dataclass(frozen=True)
class Study(ABC):
    """One experiment. Its fields are its switches; class attributes say what it is.

    `protocol="paper"` does what the authors' code did, `"corrected"` what a careful reader would.
    """

    protocol: Protocol = "corrected"

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    """Where in the paper."""
    claim: ClassVar[str]
    """What the paper says, in a sentence."""

    def __post_init__(self) -> None:
        if self.protocol not in ("paper", "corrected"):
            raise InputError(f"The protocol is 'paper' or 'corrected', not {self.protocol!r}.")

    def conditions(self, model: Any) -> list[Condition]:
        """The parts that are measured, and kept on disk, one by one."""
        return [{}]

    @abstractmethod
    def measure(self, model: Any, prompts: PromptSet, condition: Condition, *, batch_size: int) -> pd.DataFrame:
        """One row per observation; rows carry `prompt`, the index of the prompt in its set."""

    @abstractmethod
    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """The numbers of the figure: a row per point, with mean, low and high."""

    @abstractmethod
    def figure(self, result: Result) -> go.Figure:
        """The paper's figure, drawn from a result alone."""

    @abstractmethod
    def finding(self, result: Result) -> str:
        """What was measured, in a sentence."""

    def run(
        self,
        model: Any,
        prompts: PromptSet | Sequence[PromptSet] | Sequence[Prompt],
        *,
        batch_size: int = 16,
        cells: Cells | None = None,
    ) -> Result:
        """Measure every condition on every prompt set; finished cells are read from `cells` instead of made again."""
        start = time.monotonic()
        sets = _prompt_sets(prompts)
        model_facts = provenance(model)
        conditions = self.conditions(model)
        tables = []
        with progress(self.name, len(sets) * len(conditions)) as advance:
            for prompt_set in sets:
                for condition in conditions:

                    def make(prompt_set: PromptSet = prompt_set, condition: Condition = condition) -> pd.DataFrame:
                        return self.measure(model, prompt_set, condition, batch_size=batch_size)

                    key = self._key(model_facts, prompt_set, condition)
                    rows = cells.get(key, make) if cells is not None else make()
                    tables.append(_labelled(rows, hooked(model).name, prompt_set, condition))
                    advance(1)
        return Result(
            self,
            pd.concat(tables, ignore_index=True),
            {
                "settings": asdict(self),
                "model": model_facts,
                "prompts": [prompt_set.provenance() for prompt_set in sets],
                "versions": versions(),
                "seconds": round(time.monotonic() - start, 2),
            },
        )

    def _key(self, model_facts: Mapping[str, Any], prompts: PromptSet, condition: Condition) -> dict[str, Any]:
        model = {name: model_facts[name] for name in ("weight_digest", "processing", "dtype")}
        return {
            "study": self.name,
            "settings": asdict(self),
            "condition": dict(condition),
            "model": model,
            "prompts": prompts.digest(),
            "versions": versions(),
        }


def _prompt_sets(prompts: PromptSet | Sequence[PromptSet] | Sequence[Prompt]) -> list[PromptSet]:
    if isinstance(prompts, PromptSet):
        return [prompts]
    sets = [item for item in prompts if isinstance(item, PromptSet)]
    if sets and len(sets) == len(prompts):
        return sets
    return [PromptSet.of([item for item in prompts if isinstance(item, Prompt)])]


def _labelled(rows: pd.DataFrame, model: str, prompts: PromptSet, condition: Condition) -> pd.DataFrame:
    """Rows with what they have in common in front: model, task, seed, shots, and the condition."""
    common = {"model": model, "task": prompts.task, "seed": prompts.seed, "shots": prompts.shots, **condition}
    for place, (column, value) in enumerate(common.items()):
        rows.insert(place, column, value)
    return rows
