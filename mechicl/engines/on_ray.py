"""Workers on a Ray cluster (extra `ray`): actors that each hold the model; answers come back over Ray.

If an actor or its node is lost, it is restarted wherever the cluster has room.
"""

from __future__ import annotations

from typing import Any

from mechicl.engines.workers import Died, Loading, Seat, answered, packed, prepare, result_of
from mechicl.errors import InputError, first_line

_STORE = 100 * 2**20
"""Bytes of shared memory that a local Ray reserves, as work and answers are small."""


def places_on_ray(address: str, n: int | None, *, gpus: int) -> tuple[int, dict[str, Any]]:
    """Join a cluster, or start one on this machine ("local"): number of workers, and the resources of each.

    Args:
        gpus: number that each worker takes; 0: its part of the CPUs.

    Raises:
        InputError: Ray is not installed, the cluster does not answer, or it has no GPU where one is needed.
    """
    ray = _ray()
    if not ray.is_initialized():
        how: dict[str, Any] = {"address": address}
        if address == "local":
            how |= {"object_store_memory": _STORE, "include_dashboard": False}
            how |= {} if n is None or gpus else {"num_cpus": n}
        try:
            ray.init(**how, log_to_driver=False, logging_level="ERROR")
        except Exception as error:  # whatever Ray raises for an address
            raise InputError(f"There is no Ray cluster at {address} ({first_line(error)}); start one, or give its "
                             "address.") from error  # fmt: skip
    room = int(ray.cluster_resources().get("GPU" if gpus else "CPU", 0)) // max(1, gpus)
    if not room:
        wanted = "CPU" if not gpus else "GPU" if gpus == 1 else f"{gpus} GPUs"
        raise InputError(f"The Ray cluster has no {wanted} for a worker; add a node that has.")
    n = n or room
    return n, {"gpus": gpus, "threads": 1 if gpus else max(1, room // n)}


class RaySeat(Seat):
    """An actor with its GPUs, or with as many CPUs as threads."""

    def __init__(self, load: Loading, *, gpus: int, threads: int) -> None:
        self._ray = ray = _ray()
        asked = {"num_gpus": gpus} if gpus else {"num_cpus": threads}
        self._actor = ray.remote(_Holder).options(**asked).remote(load, "cuda" if gpus else "cpu", threads)

    def begin(self) -> None:
        try:
            result_of(self._answer(self._actor.begin.remote()))
        except InputError:
            self.stop()
            raise

    def do(self, work: bytes) -> bytes:
        return self._answer(self._actor.do.remote(work))

    def _answer(self, promised: Any) -> bytes:
        errors = self._ray.exceptions
        try:
            answer: bytes = self._ray.get(promised)
        except (errors.RayActorError, errors.WorkerCrashedError, errors.NodeDiedError, errors.ObjectLostError):
            self.stop()
            raise Died from None
        return answer

    def stop(self) -> None:
        self._ray.kill(self._actor)


class _Holder:
    """In an actor: the model, and its answers."""

    def __init__(self, load: Loading, device: str, threads: int) -> None:
        prepare(threads)
        self._load, self._device, self._model = load, device, None

    def begin(self) -> bytes:
        """Load the model."""
        try:
            self._model = self._load(self._device)
        except InputError as error:
            return packed(("InputError", str(error), []))
        return packed(("done", None, []))

    def do(self, work: bytes) -> bytes:
        return answered(work, self._model)


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise InputError("Workers on a cluster need Ray: pip install ray.") from None
    return ray
