"""Shards of an array job share the cells: none is measured twice, and the table is that of one process."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mechicl.errors import InputError
from mechicl.files.leases import Leases
from mechicl.results import Cells
from mechicl.studies.label_words.isolation import Isolation
from mechicl.studies.running import plan
from mechicl.studies.shard import Shard
from tests import tiny
from tests.random_prompts import random_prompts

STUDY = Isolation(n_layers=(1,), modes=("presoftmax",))
PROMPTS = [random_prompts(3, seed=seed) for seed in range(3)]


class Counted(Cells):
    """Cells that count how often each is kept, in all shards."""

    def __init__(self, folder: Path, kept: Counter[str]) -> None:
        super().__init__(folder)
        self.kept = kept

    def keep(self, key: Mapping[str, Any], table: pd.DataFrame) -> pd.DataFrame:
        self.kept[repr(key)] += 1
        return super().keep(key, table)


@pytest.fixture(scope="module")
def serial() -> pd.DataFrame:
    return STUDY.run(tiny.model("gpt2"), PROMPTS).table


def test_shards_measure_each_cell_once_and_one_closes(tmp_path: Path, serial: pd.DataFrame) -> None:
    model, kept = tiny.model("gpt2"), Counter[str]()
    closing, tables, both = list[int](), list[pd.DataFrame](), threading.Barrier(3)

    def shard(number: int) -> None:
        cells = Counted(tmp_path, kept)
        with Shard(model, cells, f"{number}/3") as one:
            both.wait()
            one.ahead(plan(STUDY, model, PROMPTS, 16, cells, shared=True))
            if one.closes():
                closing.append(number)
                tables.append(STUDY.run(model, PROMPTS, cells=cells, workers=one).table)
            both.wait()

    threads = [threading.Thread(target=shard, args=(number,)) for number in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(closing) == 1
    pd.testing.assert_frame_equal(tables[0], serial, check_exact=True)
    assert set(kept.values()) == {1}
    assert not (tmp_path / "leases").exists()


def test_what_a_dead_shard_was_at_is_done_by_the_one_that_closes(tmp_path: Path, serial: pd.DataFrame) -> None:
    model, cells = tiny.model("gpt2"), Cells(tmp_path)
    asked = plan(STUDY, model, PROMPTS, 16, cells, shared=True)
    dead = Leases(tmp_path / "leases", stale=60)
    at = asked.units()[1]
    assert dead.take(at.name)

    def dies() -> None:
        done.append("all but one")
        os.utime(tmp_path / "leases" / f"{at.name}.lease", (time.time() - 100,) * 2)

    done: list[str] = []
    with Shard(model, cells, "1/1", stale=60) as shard:
        shard.ahead(asked)
        assert [unit.name for unit in asked.units()] == [at.name], "it is left to its holder"
        threading.Timer(0.5, dies).start()
        table = STUDY.run(model, PROMPTS, cells=cells, workers=shard).table
    assert done, "it was waited for"
    pd.testing.assert_frame_equal(table, serial, check_exact=True)


@pytest.mark.parametrize("share", ["0/2", "3/2", "1", "a/b", "1/2/3", "-1/2"])
def test_a_share_is_one_of_several(share: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give one of several, from 1 on, such as 2/8"):
        Shard(tiny.model("gpt2"), Cells(tmp_path), share)
