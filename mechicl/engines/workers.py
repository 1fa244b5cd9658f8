"""Several processes that each hold the model and do the work they are given: on this machine, or anywhere (`on_ray`).

A killed process is restarted, and the next free one redoes its work; work that killed four processes is given up.
Nothing is forked: each process starts fresh, as on Windows and macOS, and loads the model itself.

Python's own serialisation carries work and answers between these processes, only in memory; no file is read with it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from typing import Any, ClassVar

from mechicl.errors import OUT_OF_MEMORY, InputError, NumericalError, first_line, out_of_memory
from mechicl.progress import nothing_shown

Loading = Callable[[str], Any]
"""A function that loads the model onto a device."""
DEATHS = 4
"""Number of process deaths at one piece of work, or at startup, after which it is given up."""
_MEMORY = "most likely memory ran out: use fewer workers, a smaller batch size, or a smaller model"


class Died(Exception):
    """A working process has died."""


class Failed(RuntimeError):
    """A worker's error that is not the user's, with the worker's traceback; `cause` is the last line of that."""

    def __init__(self, traceback: str) -> None:
        super().__init__(f"A worker process failed:\n{traceback}")
        self.cause = f"A worker process failed: {traceback.strip().splitlines()[-1].rstrip('.')}."


class _ByValue(ForkingPickler):
    """Tensors travel by value: memory that processes share is scarce in containers, and lost with a process."""

    _extra_reducers: ClassVar[dict[type, Any]] = {}  # instead of PyTorch's


def packed(value: Any) -> bytes:
    """A value as bytes for our own process; whatever Python raises if it cannot be pickled."""
    return bytes(_ByValue.dumps(value))


def unpacked(payload: bytes) -> Any:
    """What `packed` packed."""
    return ForkingPickler.loads(payload)


def answered(work: bytes, model: Any) -> bytes:
    """In a worker: the result of a packed (function, argument) on the model, with warnings, or the error raised."""
    with warnings.catch_warnings(record=True) as said:
        try:
            function, argument = unpacked(work)
            return packed(("done", function(model, argument), [str(one.message) for one in said]))
        except Exception as error:
            return raised(error)


def raised(error: Exception) -> bytes:
    """In a worker: the answer that raises this error again; memory that ran out is no defect, and has no traceback."""
    if out_of_memory(error):
        return packed((InputError.__name__, OUT_OF_MEMORY, []))
    if isinstance(error, (InputError, NumericalError)):
        return packed((type(error).__name__, str(error), []))
    return packed(("failed", "".join(traceback.format_exception(error)), []))


def result_of(answer: bytes) -> tuple[Any, list[str]]:
    """A worker's result, and its warnings.

    Raises:
        InputError, NumericalError: as the worker raised them.
        Failed: any other error.
    """
    kind, value, said = unpacked(answer)
    if kind == "done":
        return value, said
    if kind == "NumericalError":
        raise NumericalError(value)
    raise Failed(value) if kind == "failed" else InputError(value)


class Seat(ABC):
    """The seat of one worker process."""

    @abstractmethod
    def begin(self) -> None:
        """Wait until the model is loaded; Died if the process is gone, with a message if others would be, too."""

    @abstractmethod
    def do(self, work: bytes) -> bytes:
        """The worker's answer; Died if the worker is gone."""

    @abstractmethod
    def stop(self) -> None:
        """End the process at once."""


@dataclass
class _Work:
    name: str
    payload: bytes
    then: Callable[[Any], Any]
    future: Future[tuple[Any, list[str]]] = field(default_factory=Future)
    deaths: int = 0


class Workers:
    """Seats for workers, each with a thread that hands work to its process and replaces a killed one."""

    def __init__(self, n: int, sit: Callable[[int], Seat], *, loading: float | None = None) -> None:
        self._loading = loading
        self._sit, self._waiting, self._changed = sit, deque[_Work](), threading.Condition()
        self._closed, self._busy = False, 0
        self._causes: dict[str, bool] = {}  # why seats were left, and whether it was said
        self._seats: dict[int, Seat] = {}
        self._threads = [threading.Thread(target=self._serve, args=(place,), daemon=True) for place in range(n)]
        self._able, self._starting = n, set(range(n))
        for thread in self._threads:
            thread.start()

    def __len__(self) -> int:
        """Number of seats that work, or may still begin."""
        return self._able

    def submit(
        self, function: Callable[[Any, Any], Any], argument: Any, *, name: str, then: Callable[[Any], Any]
    ) -> Future[tuple[Any, list[str]]]:
        """Compute `then(function(model, argument))`: the function in a worker, then `then` in this process.

        The future holds the value and the worker's warnings; `name` identifies the work in errors.
        """
        work = _Work(name, packed((function, argument)), then)
        with self._changed:
            self._waiting.append(work)
            self._changed.notify()
            if not self._able:
                self._give_up()
        return work.future

    def rest(self) -> None:
        """Wait until all workers are idle: none works, and none still loads its model.

        A worker that does not begin within `loading` seconds, because a cluster has no room for it, is not waited for.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting and not self._busy)
            self._changed.wait_for(lambda: not self._starting, timeout=self._loading)

    def close(self) -> None:
        """End all processes, and cancel work that has not begun."""
        with self._changed:
            self._closed = True
            for work in self._waiting:
                work.future.cancel()
            self._waiting.clear()
            seats = list(self._seats.values())
            self._changed.notify_all()
        for seat in seats:
            seat.stop()
        for thread in self._threads:
            thread.join(timeout=5)  # one may be waiting for a full cluster

    def _serve(self, place: int) -> None:
        deaths = 0
        while not self._closed:
            try:
                seat = self._sit(place)
                with self._changed:
                    self._seats[place] = seat  # `close` stops the seats that it sees
                    self._starting.add(place)
                seat.begin()
                with self._changed:
                    self._starting.discard(place)
                    self._changed.notify_all()
            except Died as error:
                deaths += 1
                if deaths == DEATHS or error.args:
                    why = f"A worker ended {DEATHS} times before it began; {_MEMORY}."
                    return self._leave(place, str(error) or why)
                continue
            except Exception as error:
                return self._leave(place, error.cause if isinstance(error, Failed) else first_line(error))
            deaths = 0
            while (work := self._next()) is not None and self._done(seat, work):
                pass
            seat.stop()
        return None

    def _next(self) -> _Work | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self._closed:
                return None
            self._busy += 1
            return self._waiting.popleft()

    def _done(self, seat: Seat, work: _Work) -> bool:
        """Whether the process is alive."""
        alive = True
        try:
            if not work.future.running() and not work.future.set_running_or_notify_cancel():
                return True
            value, said = result_of(seat.do(work.payload))
            work.future.set_result((work.then(value), [*said, *self._unsaid()]))
        except Died:
            alive = False
            self._again(work)
        except BaseException as error:
            work.future.set_exception(error)
        finally:
            with self._changed:
                self._busy -= 1
                self._changed.notify_all()
        return alive

    def _again(self, work: _Work) -> None:
        work.deaths += 1
        with self._changed:
            if self._closed:
                work.future.set_exception(InputError("The workers were ended."))
            elif work.deaths < DEATHS:
                self._waiting.appendleft(work)
            else:
                why = f"{work.name}: {DEATHS} worker processes were killed at it; {_MEMORY}."
                work.future.set_exception(InputError(why))

    def _leave(self, place: int, why: str) -> None:
        """Leave a seat empty, of which the next result warns; once all are empty, no work can be done."""
        with self._changed:
            self._starting.discard(place)
            self._able -= 1
            self._causes.setdefault(why, False)
            if not self._able:
                self._give_up()
            self._changed.notify_all()

    def _unsaid(self) -> list[str]:
        """Warnings of empty seats, one for each cause that was not said yet."""
        with self._changed:
            new = [why for why, said in self._causes.items() if not said]
            self._causes |= dict.fromkeys(new, True)
        return [f"A worker did not begin, and the others do its work: {why}" for why in new]

    def _give_up(self) -> None:
        while self._waiting:
            work = self._waiting.popleft()
            if work.future.running() or work.future.set_running_or_notify_cancel():
                work.future.set_exception(InputError(next(reversed(self._causes))))


class OwnProcess(Seat):
    """A process on this machine, with a device that so many processes share, and a number of threads."""

    def __init__(self, load: Loading, device: str, *, threads: int, sharing: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, load, device, threads, sharing), daemon=True)
        if hasattr(signal, "pthread_sigmask"):  # Ctrl-C is for this process only; processes started here ignore it
            resource_tracker.ensure_running()  # started with the process, it would let SIGINT through again
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # for this seat's own thread
        self._process.start()
        theirs.close()  # so that the pipe ends with the process

    def begin(self) -> None:
        try:
            result_of(self._answer())
        except Died:
            self._process.join()
            if self._process.exitcode == 1:  # a Python error at startup
                raise Died(
                    "A worker process failed at startup (its error is above); in a script, put the code that runs "
                    "under `if __name__ == '__main__':`."
                ) from None
            raise
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def do(self, work: bytes) -> bytes:
        try:
            self._pipe.send_bytes(work)
        except OSError:
            raise Died from None
        return self._answer()

    def _answer(self) -> bytes:
        try:
            return self._pipe.recv_bytes()
        except (EOFError, OSError):
            raise Died from None

    def stop(self) -> None:
        self._process.kill()
        self._process.join()


def _work(pipe: Connection, load: Loading, device: str, threads: int, sharing: int) -> None:
    """The loop of a worker process, until its pipe or its parent process ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    prepare(threads, sharing)
    try:
        model = load(device)
    except Exception as error:
        pipe.send_bytes(raised(error))
        return
    pipe.send_bytes(packed(("done", None, [])))
    with suppress(EOFError, OSError):
        while True:
            pipe.send_bytes(answered(pipe.recv_bytes(), model))


def prepare(threads: int, sharing: int) -> None:
    """In a worker: set the number of threads and of processes on its device, and show no progress."""
    import torch
    from threadpoolctl import threadpool_limits

    from mechicl.hooks.running import share_device

    torch.set_num_threads(threads)
    threadpool_limits(threads)
    share_device(sharing)
    nothing_shown()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
