"""A run that is killed again and again ends with the table of an undisturbed one."""

from __future__ import annotations

import multiprocessing
import random
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from mechicl.results import Cells
from mechicl.studies.label_words import Isolation
from tests.random_prompts import random_prompts
from tests.studies.killed import MODEL, SEEDS, STUDY, run


def cells(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "cells").iterdir()) if (folder / "cells").exists() else []


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
def test_kill_9_at_any_moment(tmp_path: Path) -> None:
    expected = run(tmp_path / "undisturbed")
    n_cells = len(SEEDS) * len(STUDY.conditions(MODEL))
    assert len(cells(tmp_path / "undisturbed")) == n_cells

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.studies.killed"])
    moments, finished = random.Random(0), [0]
    while finished[-1] < n_cells:
        victim = context.Process(target=run, args=(tmp_path / "killed",))
        victim.start()
        while victim.is_alive() and len(cells(tmp_path / "killed")) < min(n_cells, finished[-1] + 2):
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.02))
        victim.kill()
        victim.join()
        finished.append(len([name for name in cells(tmp_path / "killed") if name.endswith(".parquet")]))
    assert len(finished) > 3, "it was killed in the middle of the work"
    assert finished == sorted(finished), "a finished cell is never lost"

    pd.testing.assert_frame_equal(run(tmp_path / "killed"), expected)
    assert cells(tmp_path / "killed") == cells(tmp_path / "undisturbed"), "nothing twice, no temporary file left"


def test_other_settings_are_other_cells(tmp_path: Path) -> None:
    run(tmp_path)
    before = cells(tmp_path)
    Isolation("paper", n_layers=(1,)).run(MODEL, random_prompts(4, seed=0), cells=Cells(tmp_path))
    assert set(before) < set(cells(tmp_path))
