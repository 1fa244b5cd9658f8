"""A lease is held by one, as long as it lives."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from mechicl.files.leases import Leases


def test_one_holds_a_lease_until_it_is_released(tmp_path: Path) -> None:
    folder = tmp_path / "leases"
    with Leases(folder) as mine, Leases(folder) as theirs:
        assert mine.take("a")
        assert mine.take("a"), "it is held here"
        assert not theirs.take("a")
        assert theirs.take("b")
        mine.release("a")
        assert theirs.take("a")
        mine.release("a")
        assert not mine.take("a"), "another's lease is not released"
    assert not folder.exists(), "nothing is left behind"


def test_the_lease_of_the_dead_is_taken_and_not_that_of_the_living(tmp_path: Path) -> None:
    dead = Leases(tmp_path, stale=3600)
    assert dead.take("a")  # and it never shows a sign of life
    with Leases(tmp_path, stale=60) as living:
        assert not living.take("a"), "not yet"
        os.utime(tmp_path / "a.lease", (time.time() - 61,) * 2)
        assert living.take("a")
        dead.release("a")
        assert (tmp_path / "a.lease").exists(), (
            "the dead one's release, should it live, takes nothing from the new holder"
        )


@pytest.mark.parametrize("machine_is", ["an hour ahead", "an hour behind"])
def test_clocks_of_machines_may_differ(machine_is: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    off = 3600 if machine_is == "an hour ahead" else -3600
    with Leases(tmp_path, stale=60) as mine:
        assert mine.take("a")
        monkeypatch.setattr(time, "time", lambda now=time.time: now() + off)
        with Leases(tmp_path, stale=60) as theirs:
            assert not theirs.take("a")


def test_a_mark_lasts(tmp_path: Path) -> None:
    with Leases(tmp_path / "leases") as mine:
        assert mine.marked("a") == ""
        mine.mark("a", "2/3")
        assert mine.take("a"), "a mark is no lease"
    with Leases(tmp_path / "leases") as theirs:
        assert theirs.marked("a") == "2/3"


def test_holders_show_signs_of_life(tmp_path: Path) -> None:
    with Leases(tmp_path, stale=0.5) as mine:
        assert mine.take("a")
        before = (tmp_path / "a.lease").stat().st_mtime
        deadline = time.monotonic() + 10
        while (tmp_path / "a.lease").stat().st_mtime == before and time.monotonic() < deadline:
            time.sleep(0.02)
        assert (tmp_path / "a.lease").stat().st_mtime > before
