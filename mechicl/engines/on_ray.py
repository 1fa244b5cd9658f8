"""Workers on a Ray cluster (extra `ray`): actors that each hold the model; answers come back over Ray.

If an actor or its node is lost, it is restarted wherever the cluster has room.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch

from mechicl.engines.workers import Died, Loading, Seat, answered, packed, prepare, raised, result_of
from mechicl.errors import InputError, first_line

_STORE = 100 * 2**20
"""Bytes of shared memory that a local Ray reserves, as work and answers are small."""


def places_on_ray(address: str, n: int | None, *, gpus: int) -> tuple[int, dict[str, Any]]:
    """Join a cluster, or start one on this machine ("local"): number of workers, and the resources of each.

    A worker lies on one node, so room is counted node by node. If there is room for fewer than `n`, fewer work, with a
    warning, because Ray would let the others wait for ever.

    Args:
        gpus: number that each worker takes; 0: its part of the CPUs.

    Raises:
        InputError: Ray is not installed, the cluster does not answer, or it has no GPU where one is needed.
    """
    rooms = _rooms(_joined(address, None if gpus else n), "GPU" if gpus else "CPU", max(1, gpus))
    if not (room := sum(rooms)):
        wanted = "CPU" if not gpus else "GPU" if gpus == 1 else f"{gpus} GPUs"
        raise InputError(f"The Ray cluster has no {wanted} for a worker; add a node that has.")
    if n is not None and n > room:
        warnings.warn(f"The Ray cluster has room for {room} of the {n} workers, so {room} work.", stacklevel=3)
    n = min(n or room, room)
    threads = 1 if gpus else _threads(rooms, n)
    sharing = 1 if gpus else min(n, max(rooms) // threads)
    return n, {"gpus": gpus, "threads": threads, "sharing": sharing}


def _joined(address: str, cpus: int | None) -> Any:
    """Ray, with a cluster; one that starts on this machine has as many CPUs as threads, and at least one a worker."""
    ray = _ray()
    if ray.is_initialized():
        return ray
    how: dict[str, Any] = {"address": address}
    if address == "local":
        how |= {"object_store_memory": _STORE, "include_dashboard": False}
        how |= {} if cpus is None else {"num_cpus": max(cpus, torch.get_num_threads())}
    try:
        ray.init(**how, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # whatever Ray raises for an address
        raise InputError(
            f"There is no Ray cluster at {address} ({first_line(error)}); start one, or give its address."
        ) from error
    return ray


def _rooms(ray: Any, resource: str, each: int) -> list[int]:
    """Number of workers for which each node has this resource."""
    return [int(node["Resources"].get(resource, 0)) // each for node in ray.nodes() if node["Alive"]]


def _threads(cpus: Sequence[int], n: int) -> int:
    """The most threads with which n workers fit on nodes with so many CPUs."""
    return max(threads for threads in range(1, max(cpus) + 1) if sum(one // threads for one in cpus) >= n)


class RaySeat(Seat):
    """An actor with its GPUs, or with as many CPUs as threads; at most `sharing` are on a device."""

    def __init__(self, load: Loading, *, gpus: int, threads: int, sharing: int) -> None:
        self._ray = ray = _ray()
        # Ray would ask for a CPU besides, which a node full of GPUs may lack.
        asked = {"num_gpus": gpus, "num_cpus": 0} if gpus else {"num_cpus": threads}
        device = "cuda" if gpus else "cpu"
        self._actor = ray.remote(_Holder).options(**asked).remote(load, device, threads, sharing)

    def begin(self) -> None:
        try:
            result_of(self._answer(self._actor.begin.remote()))
        except BaseException:
            self.stop()
            raise

    def do(self, work: bytes) -> bytes:
        return self._answer(self._actor.do.remote(work))

    def _answer(self, promised: Any) -> bytes:
        errors = self._ray.exceptions
        lost = (errors.RayActorError, errors.WorkerCrashedError, errors.NodeDiedError, errors.ObjectLostError)
        try:
            answer: bytes = self._ray.get(promised)
        except (*lost, errors.OutOfMemoryError):  # the last: Ray killed it, because its node's memory ran out
            self.stop()
            raise Died from None
        return answer

    def stop(self) -> None:
        self._ray.kill(self._actor)


class _Holder:
    """In an actor: the model, and its answers."""

    def __init__(self, load: Loading, device: str, threads: int, sharing: int) -> None:
        prepare(threads, sharing)
        self._load, self._device, self._model = load, device, None

    def begin(self) -> bytes:
        """Load the model."""
        try:
            self._model = self._load(self._device)
        except Exception as error:
            return raised(error)
        return packed(("done", None, []))

    def do(self, work: bytes) -> bytes:
        return answered(work, self._model)


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise InputError("Workers on a cluster need Ray: pip install ray.") from None
    return ray
