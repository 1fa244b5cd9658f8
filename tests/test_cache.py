"""What is kept between runs: whole or not at all, made once, and gone when it is cleared."""

from __future__ import annotations

import errno
import multiprocessing
import os
from collections import namedtuple
from pathlib import Path

import pytest

from mechicl import cache
from mechicl.errors import InputError


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MECHICL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mechicl"


def fill(folder: Path) -> None:
    (folder / "a").write_bytes(b"12345")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_dir()} if folder.is_dir() else set()


def test_a_thing_is_made_once_and_listed_and_cleared(kept: Path) -> None:
    made = cache.made_once("thing", fill, needs_bytes=5)
    assert made == kept / "thing"
    assert (made / "a").read_bytes() == b"12345"
    cache.made_once("thing", lambda folder: pytest.fail("made twice"), needs_bytes=5)
    assert [(entry.name, entry.n_bytes) for entry in cache.entries()] == [("thing", 5)]
    assert cache.clear() == 5
    assert cache.entries() == []


def test_what_breaks_leaves_nothing(kept: Path) -> None:
    def broken(folder: Path) -> None:
        fill(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.made_once("thing", broken, needs_bytes=5)
    assert names(kept) == set()


def test_what_a_killed_process_left_is_cleared_away(kept: Path) -> None:
    (kept / "unfinished-thing-x1").mkdir(parents=True)
    (kept / "unfinished-other-x1").mkdir()
    assert cache.entries() == []
    cache.made_once("thing", fill, needs_bytes=5)
    assert names(kept) == {"thing", "unfinished-other-x1"}  # the other may be at work


def _make(log: str) -> None:
    def slow(folder: Path) -> None:
        import time

        with open(log, "a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.3)
        fill(folder)

    cache.made_once("thing", slow, needs_bytes=5)


def test_two_processes_make_it_once(kept: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    started = [multiprocessing.get_context("fork").Process(target=_make, args=(str(log),)) for _ in range(3)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0, 0, 0]
    assert len(log.read_text().split()) == 1


def test_a_full_disk_and_a_cache_that_cannot_be_written_are_sentences(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(1e6))
    with pytest.raises(InputError, match="needs 545 MB and has 1 MB free"):
        cache.made_once("thing", fill, needs_bytes=545_000_000)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MECHICL_CACHE", str(tmp_path / "file" / "cache"))
    for ask in (lambda: cache.made_once("thing", fill, needs_bytes=1), cache.entries, cache.clear):
        with pytest.raises(InputError, match=r"cannot be used: .*file is not a folder; set MECHICL_CACHE"):
            ask()


def test_a_disk_that_fills_up_meanwhile_is_a_sentence_and_other_errors_keep_their_own(kept: Path) -> None:
    def fails(number: int) -> None:
        raise OSError(number, os.strerror(number))

    with pytest.raises(InputError, match="No space left"):
        cache.made_once("thing", lambda folder: fails(errno.ENOSPC), needs_bytes=1)
    with pytest.raises(FileNotFoundError):
        cache.made_once("thing", lambda folder: fails(errno.ENOENT), needs_bytes=1)
    assert names(kept) == set()


def test_clearing_spares_what_others_keep_and_what_is_being_made(kept: Path) -> None:
    (kept.parent / "thesis").mkdir(parents=True)
    (kept.parent / "notes.txt").write_text("mine")
    cache.made_once("thing", fill, needs_bytes=5)

    def clear(folder: Path) -> None:
        fill(folder)
        with pytest.raises(InputError, match="Another process is writing other"):
            cache.clear()

    cache.made_once("other", clear, needs_bytes=5)
    assert "other" in names(kept)
    cache.clear()
    assert {path.name for path in kept.parent.iterdir()} == {"thesis", "notes.txt", "mechicl"}


def test_what_is_kept_has_the_usual_permissions(kept: Path) -> None:
    made = cache.made_once("thing", fill, needs_bytes=5)
    mask = os.umask(0)
    os.umask(mask)
    assert (made.stat().st_mode & 0o777, (made / "a").stat().st_mode & 0o777) == (0o777 & ~mask, 0o666 & ~mask)


def test_a_cache_that_cannot_be_written_is_still_read(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.made_once("thing", fill, needs_bytes=5)
    monkeypatch.setattr("filelock.FileLock.acquire", lambda *_, **__: pytest.fail("wrote"))
    assert cache.made_once("thing", fill, needs_bytes=5) == kept / "thing"
