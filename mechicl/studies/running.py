"""Run a study cell by cell, in one process or in several; finished cells are read from disk."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Protocol

import pandas as pd

from mechicl.code_digest import measured_by
from mechicl.errors import InputError
from mechicl.models import hooked, provenance
from mechicl.progress import progress
from mechicl.results import Cells, Result
from mechicl.studies.estimate import memory_needed
from mechicl.studies.parts import Material, Part, check_same_tokenizers
from mechicl.versions import machine, versions

if TYPE_CHECKING:
    from mechicl.studies.study import Condition, Study


@dataclass(frozen=True)
class Unit:
    """Cells measured at once: conditions of one part, with each one's key and place [part, condition]."""

    part: Part
    conditions: Sequence[Condition]
    keys: Sequence[Mapping[str, Any]]
    places: Sequence[tuple[int, int]]
    together: Sequence[Mapping[str, Any]] = ()
    """The keys of all cells that are measured at once, also of those that were stored already."""

    @property
    def name(self) -> str:
        """An identifier of this unit, the same in every process, whatever of it is stored."""
        return sha256(repr(self.together).encode()).hexdigest()[:24]


Begun = list[tuple[Unit, "Future[tuple[list[pd.DataFrame], list[str]]]"]]
"""Units under measurement, with futures of their stored tables and warnings."""


class Helpers(Protocol):
    """What measures cells on behalf of this process."""

    def ahead(self, plan: Plan) -> None:
        """Start on a plan that `run` will ask for later."""

    def closes(self) -> bool:
        """Whether this process writes the results of everything that was begun."""

    def begin(self, plan: Plan) -> Begun:
        """Start measuring the missing cells of a plan."""

    def rest(self) -> None:
        """Wait until all work is done."""

    def describe(self) -> Mapping[str, Any]:
        """A description of the helpers, for provenance."""


@dataclass(frozen=True)
class Plan:
    """A study, the parts of its input, and the key of every cell [part][condition]."""

    study: Study
    parts: Sequence[Part]
    origin: Mapping[str, Any]
    conditions: Sequence[Condition]
    keys: Sequence[Sequence[Mapping[str, Any]]]
    model_facts: Mapping[str, Any]
    surroundings: Mapping[str, Any]
    batch_size: int
    cells: Cells | None

    def found(self, key: Mapping[str, Any]) -> pd.DataFrame | None:
        return None if self.cells is None else self.cells.find(key)

    def kept(self, key: Mapping[str, Any], rows: pd.DataFrame) -> pd.DataFrame:
        return rows if self.cells is None else self.cells.keep(key, rows)

    def measured(self, model: Any, unit: Unit) -> Iterator[pd.DataFrame]:
        """The tables of a unit's cells, each checked."""
        conditions = unit.conditions
        tables = self.study.measure_all(model, unit.part.material, conditions, batch_size=self.batch_size)
        for condition in conditions:
            yield self.study._checked(tables, unit.part, condition)

    def units(self) -> list[Unit]:
        """The missing cells, in the smallest units that give the same numbers as a run in one process."""
        from mechicl.studies.study import Study

        apart = type(self.study).measure_all is Study.measure_all
        units = []
        for i, (part, keys) in enumerate(zip(self.parts, self.keys, strict=True)):
            missing = [j for j, key in enumerate(keys) if self.found(key) is None]
            for some in [[j] for j in missing] if apart else [missing] * bool(missing):
                conditions = [self.conditions[j] for j in some]
                of_some = [keys[j] for j in some]
                units.append(Unit(part, conditions, of_some, [(i, j) for j in some], of_some if apart else keys))
        return units


def plan(study: Study, model: Any, material: Material, batch_size: int, cells: Cells | None, *, shared: bool) -> Plan:
    """The plan for this material and model; `shared` if other processes use the same cells.

    Raises:
        InputError: as `Study.run`.
    """
    net = hooked(model)
    study = study.for_material(material).for_model(model)
    parts, origin = study.parts(material)
    check_same_tokenizers(net, parts)
    memory_needed(net, max(study.lengths(parts), default=1), **study.memory(net, batch_size))
    model_facts, surroundings = provenance(model), study.surroundings(model)
    cells = None if "hooked" in model_facts else cells
    code = ""
    if cells is not None or shared:
        try:
            code = measured_by(type(study))
        except InputError as error:
            if cells is not None:
                warnings.warn(f"{study.name} keeps no cells, so an interrupted run starts over: {error}", stacklevel=4)
            cells = None
    conditions = study.conditions(model)
    keys = [[study._key(code, model_facts, part, one) | surroundings for one in conditions] for part in parts]
    return Plan(study, parts, origin, conditions, keys, model_facts, surroundings, batch_size, cells)


def run(
    study: Study, model: Any, material: Material, batch_size: int, cells: Cells | None, helpers: Helpers | None
) -> Result:
    """Implements `Study.run`; with helpers, it waits for cells that others measure."""
    start = time.monotonic()
    asked = plan(study, model, material, batch_size, cells, shared=helpers is not None)
    name, study = hooked(model).name, asked.study
    with progress(study.name, len(asked.parts) * len(asked.conditions)) as advance:
        measured = _alone(asked, model, advance) if helpers is None else _by(helpers, asked, advance)
        tables = [
            part.label(rows, name, condition)
            for part, of_part in zip(asked.parts, measured, strict=True)
            for condition, rows in zip(asked.conditions, of_part, strict=True)
        ]
    facts = {
        "settings": study.settings(),
        "model": asked.model_facts,
        **({"surroundings": asked.surroundings} if asked.surroundings else {}),
        **asked.origin,
        "versions": versions(),
        "machine": machine(),
        **({} if helpers is None else {"workers": helpers.describe()}),
        "seconds": round(time.monotonic() - start, 2),
    }
    return Result(study, pd.concat(tables, ignore_index=True), facts)


def _alone(plan: Plan, model: Any, advance: Callable[[int], None]) -> list[list[pd.DataFrame]]:
    """Every cell, read or measured here one by one; a part's missing conditions share the work that they can."""
    found = []
    for part, keys in zip(plan.parts, plan.keys, strict=True):
        stored = [plan.found(key) for key in keys]
        missing = [j for j, rows in enumerate(stored) if rows is None]
        unit = Unit(part, [plan.conditions[j] for j in missing], [], [])
        measured = plan.measured(model, unit)
        of_part = []
        for key, rows in zip(keys, stored, strict=True):
            of_part.append(plan.kept(key, next(measured)) if rows is None else rows)
            advance(1)
        found.append(of_part)
    return found


def _by(helpers: Helpers, plan: Plan, advance: Callable[[int], None]) -> list[list[pd.DataFrame]]:
    """Every cell, read or measured by helpers; the first error, in the order of cells, ends the run."""
    begun = helpers.begin(plan)
    sizes = {future: len(unit.places) for unit, future in begun}
    advance(len(plan.parts) * len(plan.conditions) - sum(sizes.values()))
    tables: dict[tuple[int, int], pd.DataFrame] = {}
    said: dict[str, None] = {}
    try:
        for future in as_completed(sizes):
            if future.exception():
                break
            advance(sizes[future])
        for unit, future in begun:
            rows, more = future.result()
            tables |= zip(unit.places, rows, strict=True)
            said |= dict.fromkeys(more)
    except BaseException:
        for future in sizes:
            future.cancel()
        raise
    for text in said:
        warnings.warn(text, stacklevel=4)
    places = [[(i, j) for j in range(len(plan.conditions))] for i in range(len(plan.parts))]
    return [[_there(tables, plan, place) for place in of_part] for of_part in places]


def _there(tables: Mapping[tuple[int, int], pd.DataFrame], plan: Plan, place: tuple[int, int]) -> pd.DataFrame:
    if place in tables:
        return tables[place]
    rows = plan.found(plan.keys[place[0]][place[1]])
    if rows is None:
        raise InputError("Finished cells were removed while the study ran; run it again.")
    return rows
