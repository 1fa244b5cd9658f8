"""Work is done once whatever dies: seats without processes show who does what; processes are in tests/studies/test_team."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import mechicl as mi
from mechicl.engines import on_ray
from mechicl.engines.workers import (
    DEATHS,
    Died,
    Failed,
    Seat,
    Workers,
    answered,
    packed,
    prepare,
    raised,
    result_of,
    unpacked,
)
from mechicl.errors import DoesNotFit, InputError, NumericalError
from mechicl.hooks import running
from mechicl.models import hooked
from tests import tiny
from tests.random_prompts import random_prompts

Model = str


class Here(Seat):
    """A seat whose work is done in this process, and which dies when it is told to."""

    def __init__(self, dies: Callable[[Any], bool] = lambda argument: False) -> None:
        self._dies, self.stopped = dies, False

    def begin(self) -> None:
        pass

    def do(self, work: bytes) -> bytes:
        if self._dies(unpacked(work)[1]):
            raise Died
        return answered(work, "the model")

    def stop(self) -> None:
        self.stopped = True


def twice(model: Model, argument: int) -> int:
    assert model == "the model"
    return 2 * argument


def warned(model: Model, argument: str) -> str:
    warnings.warn(argument, stacklevel=1)
    return argument


def fails(model: Model, error: Exception) -> None:
    raise error


def too_long(model: Model, argument: None) -> None:
    raise DoesNotFit("It is too long", "take fewer shots")


@pytest.fixture
def many() -> Iterator[Workers]:
    workers = Workers(3, lambda place: Here())
    yield workers
    workers.close()


def same(value: Any) -> Any:
    return value


def test_each_work_is_done_and_kept(many: Workers) -> None:
    kept: list[int] = []
    futures = [many.submit(twice, i, name=str(i), then=lambda value: kept.append(value) or value) for i in range(20)]
    assert [one.result()[0] for one in futures] == [2 * i for i in range(20)]
    assert sorted(kept) == [2 * i for i in range(20)], "once each"
    many.rest()


def test_values_errors_and_warnings_travel(many: Workers) -> None:
    tensor = torch.arange(6.0).reshape(2, 3)
    assert torch.equal(unpacked(packed(tensor)), tensor)
    assert not torch.multiprocessing.reductions.shared_cache, "by value: nothing is left in shared memory"
    assert many.submit(warned, "careful", name="", then=same).result() == ("careful", ["careful"])
    with pytest.raises(InputError, match=r"^It is too long; take fewer shots\.$"):
        many.submit(too_long, None, name="", then=same).result()
    with pytest.raises(NumericalError, match="layer 3"):
        many.submit(fails, NumericalError("NaN in layer 3"), name="", then=same).result()
    with pytest.raises(InputError, match=r"^Memory ran out; use shorter prompts"):
        many.submit(fails, torch.OutOfMemoryError("CUDA out of memory"), name="", then=same).result()
    with pytest.raises(RuntimeError, match=r"(?s)A worker process failed.*ZeroDivisionError: by zero"):
        many.submit(fails, ZeroDivisionError("by zero"), name="", then=same).result()
    with pytest.raises(ZeroDivisionError):  # here, while it is kept
        many.submit(twice, 1, name="", then=lambda value: value / 0).result()


def test_a_killed_worker_begins_anew_and_its_work_is_done_elsewhere() -> None:
    seated: list[int] = []
    killed = threading.Event()

    def first_time(argument: Any) -> bool:
        return argument == 3 and not killed.is_set() and (killed.set() or True)

    def sit(place: int) -> Here:
        seated.append(place)
        return Here(first_time)

    workers = Workers(2, sit)
    futures = [workers.submit(twice, i, name=str(i), then=same) for i in range(8)]
    assert [one.result()[0] for one in futures] == [2 * i for i in range(8)]
    workers.close()
    assert killed.is_set()
    assert len(seated) == 3, "two at first, and one in the place of the killed"


def test_what_kills_every_worker_is_given_up_in_one_sentence() -> None:
    workers = Workers(2, lambda place: Here(lambda argument: argument == 1))
    futures = [workers.submit(twice, i, name=f"isolation, seed {i}", then=same) for i in range(3)]
    with pytest.raises(InputError, match=rf"^isolation, seed 1: {DEATHS} worker processes were killed at it; [^.]*\.$"):
        futures[1].result()
    assert [futures[i].result()[0] for i in (0, 2)] == [0, 4], "the others are done"
    workers.close()


def test_workers_that_cannot_begin_say_why() -> None:
    def sit(place: int) -> Seat:
        raise InputError("There is no folder x; give another.")

    workers = Workers(2, sit)
    early = workers.submit(twice, 1, name="", then=same)
    for future in (early, workers.submit(twice, 2, name="", then=same)):
        with pytest.raises(InputError, match=r"^There is no folder x; give another\.$"):
            future.result(timeout=10)
    workers.rest()
    workers.close()

    def dies(place: int) -> Seat:
        raise Died

    workers = Workers(1, dies)
    with pytest.raises(InputError, match="before it began; most likely memory ran out"):
        workers.submit(twice, 1, name="", then=same).result(timeout=10)
    workers.close()


def test_closing_stops_seats_and_cancels_what_waits() -> None:
    begun, go_on, seats = threading.Event(), threading.Event(), list[Here]()

    class Waits(Here):
        def do(self, work: bytes) -> bytes:
            begun.set()
            go_on.wait(10)
            raise Died  # as a process that is stopped

        def stop(self) -> None:
            super().stop()
            go_on.set()

    def sit(place: int) -> Here:
        seats.append(Waits())
        return seats[-1]

    workers = Workers(1, sit)
    at_work, waiting = (workers.submit(twice, i, name="", then=same) for i in range(2))
    assert begun.wait(10)
    workers.close()
    with pytest.raises(CancelledError):
        waiting.result()
    with pytest.raises(InputError):
        at_work.result()
    assert all(seat.stopped for seat in seats)


def test_an_answer_is_read_as_it_was_made() -> None:
    assert result_of(answered(packed((twice, 4)), "the model")) == (8, [])


class Broken(Here):
    """A seat whose process cannot load the model, for a reason that is not the user's."""

    def begin(self) -> None:
        result_of(raised(OSError("the disk is gone")))


def test_a_worker_for_which_there_is_no_room_is_not_waited_for() -> None:
    room = threading.Event()

    class Pending(Here):
        def begin(self) -> None:
            assert room.wait(60)

    workers = Workers(2, lambda place: Pending() if place else Here(), loading=0.1)
    assert workers.submit(twice, 2, name="", then=same).result(timeout=10)[0] == 4
    began = time.monotonic()
    workers.rest()
    assert time.monotonic() - began < 30
    room.set()
    workers.close()


def test_a_defect_at_startup_is_told_with_its_cause() -> None:
    workers = Workers(2, lambda place: Broken())
    with pytest.raises(InputError, match=r"^A worker process failed: OSError: the disk is gone\.$"):
        workers.submit(twice, 1, name="", then=same).result(timeout=10)
    workers.close()
    with pytest.raises(Failed, match=r"(?s)^A worker process failed:\nOSError: the disk is gone"):
        Broken().begin()


def test_a_seat_that_cannot_begin_is_told_once_and_not_counted() -> None:
    workers = Workers(3, lambda place: Here() if place else Broken())
    workers.rest()
    assert len(workers) == 2
    (first, warned_of), (second, nothing) = (
        workers.submit(twice, i, name="", then=same).result(timeout=10) for i in (1, 2)
    )
    assert (first, second) == (2, 4)
    assert warned_of == [
        "A worker did not begin, and the others do its work: A worker process failed: OSError: the disk is gone."
    ]
    assert nothing == []
    workers.close()


def test_processes_on_one_device_divide_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mechicl.engines.workers.nothing_shown", lambda: None)
    monkeypatch.setattr(running, "_processes", 1)  # for whatever runs later in this process
    monkeypatch.setattr(running, "prompts_that_fit", lambda *sizes: 9)
    model, prompts, sizes = tiny.model("gpt2"), random_prompts(12), dict[int, list[int]]()
    for processes in (1, 4, 20):
        prepare(torch.get_num_threads(), processes)
        sizes[processes] = []
        seen = lambda value, hook, at=processes: sizes[at].append(len(value))  # noqa: E731
        with hooked(model).hooks([("hook_embed", seen)]):
            mi.run(model, prompts)
    assert {processes: max(many) for processes, many in sizes.items()} == {1: 9, 4: 2, 20: 1}


class Ray:
    """What mechicl uses of Ray, on nodes with these resources; whatever is asked of an actor raises `error`."""

    class exceptions:
        RayActorError, WorkerCrashedError, NodeDiedError, ObjectLostError, OutOfMemoryError = (
            type(name, (Exception,), {}) for name in ("Actor", "Worker", "Node", "Lost", "Memory")
        )

    def __init__(self, *nodes: dict[str, float], error: Exception | None = None) -> None:
        self._nodes, self._error, self.options_given, self.killed = nodes, error, dict[str, Any](), 0

    def is_initialized(self) -> bool:
        return True

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": one} for one in self._nodes] + [{"Alive": False, "Resources": {"CPU": 64}}]

    def remote(self, kind: type) -> Any:
        ask = SimpleNamespace(remote=lambda *arguments: "promised")
        made = SimpleNamespace(remote=lambda *arguments: SimpleNamespace(begin=ask, do=ask))
        return SimpleNamespace(options=lambda **given: self.options_given.update(given) or made)

    def get(self, promised: Any) -> bytes:
        assert self._error is not None
        raise self._error

    def kill(self, actor: Any) -> None:
        self.killed += 1


@pytest.mark.parametrize(
    ("nodes", "n", "gpus", "expected"),
    [
        ([2, 2, 2], 2, 0, (2, 2, 1)),
        ([2, 2, 2], 4, 0, (4, 1, 2)),
        ([0, 2, 8], None, 0, (10, 1, 8)),
        ([0, 1.5, 7], 2, 0, (2, 3, 2)),
        ([4, 3], 2, 2, (2, 1, 1)),
        ([1, 4], None, 2, (2, 1, 1)),
    ],
)
def test_every_worker_fits_on_a_node_of_the_cluster(
    nodes: list[float], n: int | None, gpus: int, expected: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = Ray(*({"GPU" if gpus else "CPU": float(has)} for has in nodes))
    monkeypatch.setattr(on_ray, "_ray", lambda: ray)
    found, resources = on_ray.places_on_ray("auto", n, gpus=gpus)
    assert (found, resources["threads"], resources["sharing"]) == expected
    on_ray.RaySeat(lambda device: None, **resources)
    assert ray.options_given == ({"num_gpus": gpus, "num_cpus": 0} if gpus else {"num_cpus": expected[1]})


def test_more_workers_than_a_cluster_has_room_for_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_ray, "_ray", lambda: Ray({"CPU": 2}, {"CPU": 1}))
    with pytest.warns(UserWarning, match=r"^The Ray cluster has room for 3 of the 8 workers, so 3 work\.$"):
        assert on_ray.places_on_ray("auto", 8, gpus=0)[0] == 3
    with pytest.raises(InputError, match="has no 2 GPUs for a worker"):
        on_ray.places_on_ray("auto", 8, gpus=2)


def test_an_actor_that_ray_ends_for_want_of_memory_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = Ray(error=Ray.exceptions.OutOfMemoryError())
    monkeypatch.setattr(on_ray, "_ray", lambda: ray)
    seat = on_ray.RaySeat(lambda device: None, gpus=0, threads=1, sharing=1)
    with pytest.raises(Died):
        seat.do(b"")
    assert ray.killed == 1


def test_an_actor_that_cannot_load_the_model_says_why_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_ray, "prepare", lambda *how: None)

    def load(device: str) -> Any:
        raise OSError("the disk is gone")

    with pytest.raises(Failed, match="OSError: the disk is gone"):
        result_of(on_ray._Holder(load, "cpu", 1, 1).begin())
    ray = Ray(error=RuntimeError("what nobody expects"))
    monkeypatch.setattr(on_ray, "_ray", lambda: ray)
    with pytest.raises(RuntimeError, match="nobody expects"):
        on_ray.RaySeat(load, gpus=0, threads=1, sharing=1).begin()
    assert ray.killed == 1, "no actor stays behind"


def living(group: int) -> list[int]:
    """The processes of a group that are not dead, with or without a parent that knows it."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it has just ended
            continue
        if int(of) == group and state not in "ZX":
            found.append(int(stat.parent.name))
    return found


@pytest.mark.thorough
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_an_interrupted_command_leaves_no_worker_behind(tmp_path: Path) -> None:
    """Ctrl-C reaches all processes of the terminal's group, and two workers are among them."""
    command = [sys.executable, "-c", "from mechicl.cli import main; main()", "run", "isolation", "--model", "tiny-icl",
               "--task", "tiny-topics-2", "--samples", "16", "--seeds", "1,2,3,4,5,6,7,8", "--n-layers", "1,2",
               "--device", "cpu", "--workers", "2"]  # fmt: skip
    victim = subprocess.Popen(
        [*command, "--out", str(tmp_path)], stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where tests run in the background
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("cells/*.parquet")) and victim.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    at_work = living(victim.pid)
    os.killpg(victim.pid, signal.SIGINT)
    _, errors = victim.communicate(timeout=120)
    assert len(at_work) >= 3, errors
    assert victim.returncode == 130, errors
    assert "Traceback" not in errors
    assert "run the same command again" in errors
    deadline = time.monotonic() + 30
    while (left := living(victim.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []
    assert not (tmp_path / "isolation.json").exists(), "no partial result"
