"""Killed, interrupted, out of space, without permission, twice at once: the table is an undisturbed run's, or nothing.

After each disturbance: no finished cell is lost, none is there twice, no temporary file is left.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mechicl.errors import InputError
from mechicl.models import hooked
from mechicl.patches import Drop
from mechicl.results import Cells
from mechicl.studies import load_result, saved_results
from mechicl.studies.label_words.isolation import Isolation
from tests import tiny
from tests.random_prompts import random_prompts
from tests.studies.killed import MODEL, STUDY, run, run_and_save

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame, float]:
    """Where a run was left in peace, its table, and its seconds."""
    run(tmp_path_factory.mktemp("warm"))
    folder, start = tmp_path_factory.mktemp("undisturbed"), time.monotonic()
    return folder, run_and_save(folder), time.monotonic() - start


@pytest.fixture(scope="module")
def processes() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.studies.killed", "tests.engines.killed"])  # one for the process
    return context


def as_undisturbed(folder: Path, undisturbed: tuple[Path, pd.DataFrame, float]) -> None:
    """Going on later from what is there ends as an undisturbed run does: table, files, and what is read back."""
    for left_behind in folder.rglob("*.part"):
        os.utime(left_behind, (time.time() - 3600,) * 2)
    pd.testing.assert_frame_equal(run_and_save(folder), undisturbed[1])
    assert files(folder) == files(undisturbed[0]), "a file too many, or one lost"
    pd.testing.assert_frame_equal(load_result(folder, STUDY.name).table, undisturbed[1])


@pytest.mark.parametrize("kills", [4, pytest.param(50, marks=pytest.mark.slow)])
def test_kill_9_at_random_moments(
    kills: int, tmp_path: Path, undisturbed: tuple[Path, pd.DataFrame, float], processes: Any
) -> None:
    moments, killed, folder, last = random.Random(kills), 0, tmp_path / "0", set[str]()
    while killed < kills:
        victim = processes.Process(target=run_and_save, args=(folder,))
        victim.start()
        victim.join(moments.uniform(0, 1.2 * undisturbed[2]))
        victim.kill()
        victim.join()
        killed += victim.exitcode == -signal.SIGKILL
        cells = {name for name in files(folder) if name.endswith(".parquet")} if folder.exists() else set()
        assert last <= cells, "a finished cell was lost"
        last = cells
        if victim.exitcode == 0 or killed % 5 == 0:
            as_undisturbed(folder, undisturbed)
            folder, last = tmp_path / str(killed), set()


def test_an_interrupted_command_says_how_to_go_on(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from mechicl.cli import main; main()", "run", "isolation", "--model", "tiny-icl",
               "--task", "tiny-topics-2", "--samples", "16", "--seeds", "1,2,3,4,5,6,7,8", "--n-layers", "1,2",
               "--device", "cpu"]  # fmt: skip
    victim = subprocess.Popen(
        [*command, "--out", str(tmp_path)], stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where tests run in the background
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("cells/*.parquet")) and victim.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    victim.send_signal(signal.SIGINT)
    _, errors = victim.communicate(timeout=120)
    assert victim.returncode == 130, errors
    assert "Traceback" not in errors
    assert "run the same command again" in errors
    assert not [name for name in files(tmp_path) if name.endswith(".part")]
    assert not (tmp_path / "isolation.json").exists(), "no partial result"


def test_other_settings_are_other_cells(tmp_path: Path) -> None:
    run(tmp_path)
    before = set(files(tmp_path))
    Isolation("paper", n_layers=(1,)).run(MODEL, random_prompts(4, seed=0), cells=Cells(tmp_path))
    assert before < set(files(tmp_path))


def test_two_processes_on_the_same_output(
    tmp_path: Path, undisturbed: tuple[Path, pd.DataFrame, float], processes: Any
) -> None:
    both = [processes.Process(target=run_and_save, args=(tmp_path,)) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert [one.exitcode for one in both] == [0, 0]
    as_undisturbed(tmp_path, undisturbed)


def test_two_that_measure_different_times_keep_one_cell(tmp_path: Path) -> None:
    """A column of seconds differs between two processes; the cell is there once, and both read it."""
    first, second = Cells(tmp_path), Cells(tmp_path)
    assert first.find({"k": 1}) is None
    assert second.find({"k": 1}) is None
    first.keep({"k": 1}, pd.DataFrame({"seconds": [1.0]}))
    found = second.keep({"k": 1}, pd.DataFrame({"seconds": [2.0]}))
    assert len(list(first.folder.iterdir())) == 1
    again = Cells(tmp_path).find({"k": 1})
    assert again is not None
    pd.testing.assert_frame_equal(again, found)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 96 KiB."""
    folder, libc = tmp_path / "small", ctypes.CDLL(None, use_errno=True)
    folder.mkdir()
    if libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", 0, b"size=96k") != 0:
        pytest.skip(f"mounting is not allowed here ({os.strerror(ctypes.get_errno())})")
    yield folder
    libc.umount2(str(folder).encode(), 2)


def test_a_full_disk(small_disk: Path, tmp_path: Path, undisturbed: tuple[Path, pd.DataFrame, float]) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(64 * 1024))
    with pytest.raises(InputError, match=r"No space left.*free some space"):
        run_and_save(small_disk)
    assert not [name for name in files(small_disk) if name.endswith(".part")]
    assert not (small_disk / "isolation.json").exists()
    kept = [name for name in files(small_disk) if name != "ballast"]
    assert kept, "what was finished is kept"
    for name in kept:
        (tmp_path / "again" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "again" / name).write_bytes((small_disk / name).read_bytes())
    as_undisturbed(tmp_path / "again", undisturbed)


def test_output_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    run(tmp_path)
    before = files(tmp_path)
    monkeypatch.setattr(
        "mechicl.files.writing.os.replace", denied
    )  # root may write anywhere: the system is asked to refuse
    with pytest.raises(InputError, match="Permission denied"):
        STUDY.run(MODEL, [random_prompts(4, seed=9)], cells=Cells(tmp_path))
    assert files(tmp_path) == before
    monkeypatch.setattr("mechicl.files.writing.tempfile.TemporaryFile", denied)
    with pytest.raises(InputError, match=r"Permission denied.*choose another folder"):
        run(tmp_path)


@pytest.mark.parametrize("damage", ["cut off", "changed", "emptied", "another cell"])
def test_damaged_cells_are_measured_again(
    damage: str, tmp_path: Path, undisturbed: tuple[Path, pd.DataFrame, float]
) -> None:
    run_and_save(tmp_path)
    cells = sorted((tmp_path / "cells").iterdir())
    content = cells[3].read_bytes()
    new = {"cut off": content[:-9], "emptied": b"", "another cell": cells[4].read_bytes()}
    cells[3].write_bytes(new.get(damage, content[:90] + bytes([content[90] ^ 1]) + content[91:]))
    as_undisturbed(tmp_path, undisturbed)


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    cells = Cells(tmp_path).folder
    cells.mkdir()
    for folder in (tmp_path, cells):
        for name, age in {".written now.part": 0, ".left behind.part": 3600, "somebody's own.part": 3600}.items():
            (folder / name).write_text("")
            os.utime(folder / name, (time.time() - age,) * 2)
    Cells(tmp_path)
    for folder in (tmp_path, cells):
        assert sorted(path.name for path in folder.glob("*.part")) == [".written now.part", "somebody's own.part"]


def test_a_result_torn_in_two_is_told_and_left_out(tmp_path: Path) -> None:
    run_and_save(tmp_path)
    (tmp_path / "isolation.parquet").write_bytes(b"half")
    with pytest.raises(InputError, match="run the study again"):
        load_result(tmp_path, "isolation")
    with pytest.warns(UserWarning, match="run the study again"):
        assert saved_results(tmp_path) == []
    run_and_save(tmp_path)
    assert len(saved_results(tmp_path)) == 1


def test_what_a_cell_does_not_know_is_never_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other code, other settings of the same weights, hooks on the model, weights edited behind PyTorch's back."""
    model, prompts, cells = tiny.fresh("gpt2"), [random_prompts(3)], Cells(tmp_path)

    def measured() -> pd.DataFrame:
        return STUDY.run(model, prompts, cells=cells).table

    def n_cells() -> int:
        return len(list(cells.folder.iterdir()))

    plain, n = measured(), n_cells()
    pd.testing.assert_frame_equal(measured(), plain)
    assert n_cells() == n

    with Drop(1).on(model):
        assert not measured().equals(plain), "a hook's numbers are not the model's"
    with hooked(model).hooks([("hook_embed", lambda value, hook: value * 1.5)]):
        assert not measured().equals(plain)
    assert n_cells() == n, "and are not kept"

    scale = model.blocks[0].attn.attn_scale
    model.cfg.attn_scale, model.blocks[0].attn.attn_scale = 3.0, 3.0
    assert not measured().equals(plain)
    model.cfg.attn_scale, model.blocks[0].attn.attn_scale = scale, scale

    model.blocks[2].mlp.W_out.data[3] += 1.0
    assert not measured().equals(plain), "an edit through .data is seen"
    n = n_cells()
    monkeypatch.setattr("mechicl.studies.running.measured_by", lambda study: "edited")
    measured()
    assert n_cells() > n, "edited code measures anew"
