"""Work is done once whatever dies: seats without processes show who does what; processes are in tests/studies/test_team."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest
import torch

from mechicl.engines.workers import DEATHS, Died, Seat, Workers, answered, packed, result_of, unpacked
from mechicl.errors import DoesNotFit, InputError, NumericalError

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


def raised(model: Model, error: Exception) -> None:
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
        many.submit(raised, NumericalError("NaN in layer 3"), name="", then=same).result()
    with pytest.raises(InputError, match=r"^Memory ran out; use shorter prompts"):
        many.submit(raised, torch.OutOfMemoryError("CUDA out of memory"), name="", then=same).result()
    with pytest.raises(RuntimeError, match=r"(?s)A worker process failed.*ZeroDivisionError: by zero"):
        many.submit(raised, ZeroDivisionError("by zero"), name="", then=same).result()
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
        raise InputError("There is not a folder x; give another.")

    workers = Workers(2, sit)
    early = workers.submit(twice, 1, name="", then=same)
    for future in (early, workers.submit(twice, 2, name="", then=same)):
        with pytest.raises(InputError, match=r"^There is not a folder x; give another\.$"):
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
