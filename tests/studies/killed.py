"""A run to be killed: imported once by the fork server, so that each victim starts at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from mechicl.results import Cells
from mechicl.studies.label_words.isolation import Isolation
from mechicl.studies.running import plan
from mechicl.studies.shard import Shard
from tests import tiny
from tests.random_prompts import random_prompts

torch.set_num_threads(1)  # a pool of threads does not survive a fork
MODEL = tiny.model("gpt2")
STUDY = Isolation(n_layers=(1, 2), modes=("presoftmax",))
SEEDS = range(3)


def run(folder: Path) -> pd.DataFrame:
    prompts = [random_prompts(4, seed=seed) for seed in SEEDS]
    return STUDY.run(MODEL, prompts, cells=Cells(folder)).table


def run_and_save(folder: Path) -> pd.DataFrame:
    """The same as a command does it: cells, then the result."""
    prompts = [random_prompts(4, seed=seed) for seed in SEEDS]
    result = STUDY.run(MODEL, prompts, cells=Cells(folder))
    result.save(folder)
    return result.table


class Counted(Cells):
    """Cells that write down which they keep."""

    def keep(self, key: Mapping[str, Any], table: pd.DataFrame) -> pd.DataFrame:
        with (self.folder.parent / "kept.txt").open("a") as file:
            file.write(f"{key['prompts']} {key['condition']}\n")
        return super().keep(key, table)


def share(folder: Path, of: str) -> None:
    """One shard of the run, as a command does it; who closes saves the result."""
    prompts = [random_prompts(4, seed=seed) for seed in SEEDS]
    cells = Counted(folder)
    with Shard(MODEL, cells, of) as shard:
        shard.ahead(plan(STUDY, MODEL, prompts, 16, cells, shared=True))
        if shard.closes():
            STUDY.run(MODEL, prompts, cells=cells, workers=shard).save(folder)
