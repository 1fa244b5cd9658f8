"""A study's cells measured by several processes, each with the model: `Study.run(..., workers=N)`."""

from __future__ import annotations

import inspect
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pandas as pd
import torch

from mechicl.code_digest import measured_by
from mechicl.engines.on_ray import RaySeat, places_on_ray
from mechicl.engines.workers import OwnProcess, Workers, packed, unpacked
from mechicl.errors import InputError, first_line
from mechicl.limits import free_bytes, in_words
from mechicl.models import hooked, provenance
from mechicl.models.again import again
from mechicl.studies.loading import load_studies
from mechicl.studies.running import Begun, Helpers, Plan, Unit
from mechicl.studies.study import Study

_Stored = Future[tuple[list[pd.DataFrame], list[str]]]
"""A unit's tables, as they are stored, and warnings."""
_LIBRARIES = 2**29
"""Bytes of memory that Python and its libraries take in each worker process."""
_LOADING = 120.0
"""Seconds in which an actor that has room loads its model."""
_HOOKED = "Hooks are installed on the model, which workers would not have; remove them, or leave out workers."


class Team:
    """Worker processes for the studies of one model; they end when the `with` block does.

        with Team(model, 4) as team:
            result = Isolation().run(model, prompts, workers=team)

    Args:
        model: a model that `load_model` made; each worker loads it again.
        n: number of processes; on the CPU they divide this process's threads, otherwise they take the GPUs in turn.
            With `ray`, None means as many as the cluster has room for.
        ray: run them on a Ray cluster: "local", or its address.

    Raises:
        InputError: the model cannot be loaded again, hooks are installed on it, or its copies exceed the memory.
    """

    def __init__(self, model: Any, n: int | None, *, ray: str | None = None) -> None:
        net, load, facts = hooked(model), again(model), provenance(model)
        if "hooked" in facts:
            raise InputError(_HOOKED)
        self._begun: dict[tuple[str, int], tuple[Unit, _Stored]] = {}
        self._keeping, self._ray = threading.Lock(), ray
        if ray is not None:
            n, resources = places_on_ray(ray, n, gpus=load.n_devices if net.device.type == "cuda" else 0)
            self._threads = resources["threads"]
            self._workers = Workers(n, lambda place: RaySeat(load, **resources), loading=_LOADING)
            return
        n = n or 1
        _check_room(net, n)
        self._threads = threads = max(1, torch.get_num_threads() // n)
        devices = _devices(net.device, n, load.n_devices)
        sharing = Counter(devices)
        self._workers = Workers(
            n, lambda place: OwnProcess(load, devices[place], threads=threads, sharing=sharing[devices[place]])
        )

    def __enter__(self) -> Team:
        return self

    def __exit__(self, *error: object) -> None:
        self._workers.close()

    def __len__(self) -> int:
        return len(self._workers)

    def begin(self, plan: Plan) -> Begun:
        """Have a plan's missing cells measured; those begun ahead are not begun again, finished or not."""
        self.ahead(plan)
        every = _named(replace(plan, cells=None).units())
        return [_in_place(unit, *self._begun.pop(name)) for name, unit in every.items() if name in self._begun]

    def ahead(self, plan: Plan) -> None:
        """Have a plan measured while other studies are still running."""
        if "hooked" in plan.model_facts:
            raise InputError(_HOOKED)
        with self._keeping:
            units = _named(plan.units())
        for name, unit in units.items():
            if name not in self._begun:
                self._begun[name] = (unit, self._submitted(plan, unit))

    def closes(self) -> bool:
        """This process writes the results."""
        return True

    def rest(self) -> None:
        """Wait until all workers are idle."""
        self._workers.rest()

    def describe(self) -> Mapping[str, Any]:
        """The number of processes, without those that failed to begin, the threads of each, and the cluster if any."""
        facts = {"processes": len(self), "threads": self._threads}
        return facts if self._ray is None else {**facts, "ray": self._ray}

    def _submitted(self, plan: Plan, unit: Unit) -> _Stored:
        def kept(tables: Sequence[pd.DataFrame]) -> list[pd.DataFrame]:
            with self._keeping:  # or a half-stored unit would be seen, and its rest begun again
                return [plan.kept(key, rows) for key, rows in zip(unit.keys, tables, strict=True)]

        labels = {**unit.part.labels, **(unit.conditions[0] if len(unit.conditions) == 1 else {})}
        where = [f"{name} {value}" for name, value in labels.items() if value not in (None, "")]
        bare = replace(plan, parts=(), keys=(), origin={}, conditions=(), model_facts={}, cells=None)
        parcel = Parcel.of(plan.study, bare, unit)
        return self._workers.submit(measure, parcel, name=", ".join([plan.study.name, *where]), then=kept)


def _named(units: Sequence[Unit]) -> dict[tuple[str, int], Unit]:
    """Units by name, and by number where parts have the same prompts, each of which gets tables of its own."""
    seen, named = Counter[str](), dict[tuple[str, int], Unit]()
    for unit in units:
        name = unit.name
        named[name, seen[name]] = unit
        seen[name] += 1
    return named


def _in_place(unit: Unit, begun: Unit, future: _Stored) -> tuple[Unit, _Stored]:
    """What was begun of a unit, at this unit's place in its plan; some cells may have been stored before."""
    there = [unit.keys.index(key) for key in begun.keys]
    return replace(begun, part=unit.part, places=[unit.places[i] for i in there]), future


@contextmanager
def helping(study: Study, model: Any, workers: int | Helpers) -> Iterator[Helpers]:
    """The given helpers, or a team for this study alone."""
    if study.measures_time:
        raise InputError(f"{study.name} measures time, which workers would disturb; leave out workers.")
    if not isinstance(workers, int):
        yield workers
        return
    with Team(model, workers) as team:
        yield team


@dataclass(frozen=True)
class Parcel:
    """A unit as sent to a worker, which first loads the user's own study files."""

    own: Sequence[tuple[str, str]]
    """Modules of the user's, and their files."""
    content: bytes

    @classmethod
    def of(cls, study: Study, plan: Plan, unit: Unit) -> Parcel:
        """Raise InputError if another process could not recreate the study or its input."""
        module, advice = type(study).__module__, "load it with mi.studies.load_studies, or leave out workers"
        if module == "__main__":
            raise InputError(
                f"Workers cannot read the study {study.name} from a notebook or a running script; put it in a file "
                f"of its own and {advice}."
            )
        own = [] if module.startswith("mechicl.") else [(module, inspect.getfile(type(study)))]
        try:
            return cls(own, packed((plan, unit)))
        except Exception as error:  # whatever Python raises for an object that cannot be pickled
            raise InputError(
                f"What {study.name} is run on cannot be sent to workers ({first_line(error)}); leave out workers."
            ) from error


def measure(model: Any, parcel: Parcel) -> list[pd.DataFrame]:
    """In a worker: the tables of a unit.

    Raises:
        InputError: the model, code or libraries differ from the caller's, so numbers would not be the same.
    """
    for module, file in parcel.own:
        _known(module, file)
    plan, unit = unpacked(parcel.content)
    kind: Any = type(plan.study)
    keys = [plan.study._key(_code(kind), _facts(model), unit.part, one) for one in unit.conditions]
    for mine, asked in zip(keys, unit.keys, strict=True):
        differs = [name for name in mine if asked[name] != "" and mine[name] != asked[name]]
        if differs:
            raise InputError(
                f"A worker's {' and '.join(differs)} differ from this process's, so its results would differ; give "
                "both the same model, code and libraries."
            )
    return list(plan.measured(model, unit))


@cache
def _known(name: str, file: str) -> None:
    """Import a module of the user's where Python finds it under its name, else load its file as `load_studies` did."""
    if any(getattr(module, "__file__", None) == file for module in list(sys.modules.values())):
        return
    if find_spec(name.partition(".")[0]):
        import_module(name)
    else:
        load_studies(file)


@cache
def _code(study: Any) -> str:
    return measured_by(study)


@cache
def _facts(model: Any) -> dict[str, Any]:
    """A worker's own model, which does not change."""
    return provenance(model)


def _devices(device: torch.device, n: int, each: int) -> list[str]:
    """The first device of each worker: GPUs in turn, last of all this process's own, which holds a model already."""
    if device.type != "cuda":
        return [str(device)] * n
    groups, own = torch.cuda.device_count() // each, (device.index or 0) // each
    return [f"cuda:{each * ((own + 1 + place) % groups)}" for place in range(n)]


def _check_room(net: Any, n: int) -> None:
    """Reject more processes, each with libraries and weights, than memory holds; a GPU holds its own weights."""
    weights = sum(parameter.numel() * parameter.element_size() for parameter in net.raw.parameters())
    each = _LIBRARIES + (0 if net.device.type == "cuda" else weights)
    free = free_bytes("cpu")
    if free is not None and n * each > free:
        raise InputError(
            f"{n} workers do not fit: each takes {in_words(each)} for libraries and weights, free memory "
            f"{in_words(free)}; use fewer."
        )
