"""Shards of an array job share the cells: none is measured twice, and the table is that of one process."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest

from mechicl.errors import InputError
from mechicl.files.leases import Leases
from mechicl.results import Cells
from mechicl.studies import load_result
from mechicl.studies.extensions.anchor_sweep import AnchorSweep
from mechicl.studies.label_words.isolation import Isolation
from mechicl.studies.running import plan
from mechicl.studies.shard import Shard
from tests import tiny
from tests.random_prompts import random_prompts
from tests.studies import killed

STUDY = Isolation(n_layers=(1,), modes=("presoftmax",))
PROMPTS = [random_prompts(3, seed=seed) for seed in range(3)]


@pytest.fixture(scope="module")
def serial() -> pd.DataFrame:
    return STUDY.run(tiny.model("gpt2"), PROMPTS).table


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_shards_measure_each_cell_once_and_one_closes(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.studies.killed", "tests.engines.killed"])  # one for the process
    shards = [context.Process(target=killed.share, args=(tmp_path, f"{number}/3")) for number in (1, 2, 3)]
    for one in shards:
        one.start()
    for one in shards:
        one.join(120)
    assert [one.exitcode for one in shards] == [0, 0, 0]
    kept = (tmp_path / "kept.txt").read_text().splitlines()
    assert len(kept) == len(set(kept)) == len(list((tmp_path / "cells").iterdir()))
    pd.testing.assert_frame_equal(load_result(tmp_path).table, killed.run(tmp_path / "alone"), check_exact=True)
    assert [path.suffix for path in (tmp_path / "leases").iterdir()] == [".mark"], "no lease is left behind"


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


def test_a_shard_that_starts_after_the_end_does_not_close_again(tmp_path: Path) -> None:
    def closes(share: str, job: str = "a") -> bool:
        with Shard(tiny.model("gpt2"), Cells(tmp_path), share, job=job) as shard:
            return shard.closes() and shard.closes()

    assert closes("2/3")
    assert [closes("1/3"), closes("3/3"), closes("1/3")] == [False, False, False]
    assert closes("1/3", job="b"), "another job"
    assert closes("2/3"), "the job runs again"
    assert closes("1/4"), "the job runs again, with more shards"


def test_a_shard_that_fails_to_write_the_results_has_not_closed(tmp_path: Path) -> None:
    with pytest.raises(InputError), Shard(tiny.model("gpt2"), Cells(tmp_path), "2/3") as shard:  # noqa: PT012
        assert shard.closes()
        raise InputError("The disk is full.")
    with Shard(tiny.model("gpt2"), Cells(tmp_path), "1/3") as shard:
        assert shard.closes()


@pytest.mark.parametrize("share", ["0/2", "3/2", "1", "a/b", "1/2/3", "-1/2"])
def test_a_share_is_one_of_several(share: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give one of several, from 1 on, such as 2/8"):
        Shard(tiny.model("gpt2"), Cells(tmp_path), share)


def test_a_unit_keeps_its_name_while_its_cells_are_stored_one_by_one(tmp_path: Path) -> None:
    """Or another shard would take the rest of a unit that is still being measured."""
    model = tiny.model("gpt2")
    asked = plan(AnchorSweep(windows=(1,)), model, PROMPTS, 16, Cells(tmp_path), shared=True)
    unit = asked.units()[0]
    asked.kept(unit.keys[0], next(asked.measured(model, unit)))
    again = asked.units()[0]
    assert len(again.keys) == len(unit.keys) - 1
    assert again.name == unit.name
