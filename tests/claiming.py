"""A study that answers three claims with evidence by arithmetic, for tests of how verdicts are shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mechicl.claims import Claim, Evidence
from mechicl.results import Result
from mechicl.studies.study import STUDIES, Study

HOSTILE = "<script>window.hurt = 1</script>"


def claim(name: str, sentence: str) -> Claim:
    return Claim(name, sentence, "a test", "value", "times an average key", "random text tokens", 0.5, "16.7 points")


CLAIMS = (
    claim("up", "In shallow layers, information gathers from the demonstrations' text into the label words."),
    claim("down", "The target reads label words that were re-weighted in deep layers."),
    claim("blind", f"Nobody measured the null of this one {HOSTILE}."),
)


@dataclass(frozen=True)
class Claiming(Study):
    """A row per prompt; its value is what the first claim rests on."""

    name = "claiming"
    title = "A study with claims"
    source = "a test"
    claim = "Verdicts are shown."
    claims = CLAIMS
    no_paper_protocol = "there is no paper"

    def measure(self, model: Any, prompts: Any, condition: Any, *, batch_size: int) -> pd.DataFrame:
        return pd.DataFrame({"prompt": range(len(prompts)), "value": np.linspace(1, 2, len(prompts))})

    def evidence(self, claim: Claim, table: pd.DataFrame) -> Evidence:
        values = table["value"].to_numpy() * {"up": 1.0, "down": -1.0}.get(claim.id, 1.0)
        return Evidence(values, None if claim.id == "blind" else 0.25, table["seed"].to_numpy())

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        means = table.groupby(["model", "task"], as_index=False)["value"].mean().rename(columns={"value": "mean"})
        return means.assign(metric="value", low=np.nan, high=np.nan, n=len(table), layer=0)

    def finding(self, result: Result) -> str:
        return f"The mean is {result.table['value'].mean():.2f}."


del STUDIES["claiming"]  # only a test that wants it has it


def result_of(tasks: Sequence[str] = ("sst2",), model: str = "tiny", seeds: Sequence[int] = (1, 2, 3, 4)) -> Result:
    """A result without a model: eight prompts of each task and seed."""
    rows = [
        {"model": model, "task": task, "seed": seed, "shots": 1, "prompt": prompt, "demonstration_set": 0,
         "value": 1 + prompt / 7 + seed / 10}
        for task in tasks for seed in seeds for prompt in range(8)
    ]  # fmt: skip
    prompts = [{"task": task, "seed": seed, "shots": 1, "prompts": 8} for task in tasks for seed in seeds]
    return Result(Claiming(), pd.DataFrame(rows), {"settings": {}, "model": {"name": model}, "prompts": prompts})
