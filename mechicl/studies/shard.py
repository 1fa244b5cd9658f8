"""One process of an array job (`--shard 2/8`): all share a folder, and each measures cells that no other has taken."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from hashlib import sha256
from typing import Any

from mechicl.errors import InputError
from mechicl.files.leases import STALE, Leases
from mechicl.progress import progress
from mechicl.results import Cells
from mechicl.studies.running import Begun, Plan, Unit

_PAUSE = 1.0
"""Seconds between checks of what the others have finished."""


def closing_lease(job: str) -> str:
    """The lease of the shard that writes an array job's results."""
    return f"closing-{sha256(job.encode()).hexdigest()[:16]}"


class Shard:
    """Shard `number` of `of`: it begins at its own place among the cells, then takes any that are left.

    A lease marks a unit of cells as being measured; it lasts while its holder is alive. The first shard that finds
    nothing left to take waits for the others, redoes units whose holders died, and writes the results.

    Args:
        model: a model.
        cells: the finished cells, in a folder that all shards share.
        share: such as "2/8".
        job: an identifier of the array job, whose shards close together; a folder may hold the results of several.
        stale: seconds without a sign of life after which a shard counts as dead.

    Raises:
        InputError: the share is not of this form.
    """

    def __init__(self, model: Any, cells: Cells, share: str, *, job: str = "", stale: float = STALE) -> None:
        found = re.fullmatch(r"(\d+)/(\d+)", share)
        self.number, self.of = map(int, found.groups()) if found else (0, 0)
        if not 1 <= self.number <= self.of:
            raise InputError(f"--shard is {share!r}; give one of several, from 1 on, such as 2/8.")
        self._share, self._closing, self._closes = share, closing_lease(job), False
        self._model, self._leases = model, Leases(cells.folder.parent / "leases", stale=stale)

    def __enter__(self) -> Shard:
        self._leases.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        if self._closes and error[0] is None:
            with suppress(InputError):  # without a mark, a shard that starts later writes the same results again
                self._leases.mark(self._closing, self._share)
        self._leases.__exit__(*error)

    def ahead(self, plan: Plan) -> None:
        """Measure the cells that no other shard has measured or is measuring."""
        if plan.cells is not None:
            self._pass(plan)

    def closes(self) -> bool:
        """Whether this shard waits for the others and writes the results; exactly one does.

        The one that did leaves a mark, for shards that start later. If the job runs again, that one writes them again.
        """
        if not self._may_close() or not self._leases.take(self._closing):
            return False
        self._closes = self._may_close()  # another one may have closed in between
        if not self._closes:
            self._leases.release(self._closing)
        return self._closes

    def _may_close(self) -> bool:
        by = self._leases.marked(self._closing)
        return by in ("", self._share) or by.partition("/")[2] != str(self.of)  # another number of shards

    def begin(self, plan: Plan) -> Begun:
        """Measure missing cells, and wait for those of others, until all exist."""
        if plan.cells is None:  # shards cannot see each other's cells
            return [(unit, self._measured(plan, unit)) for unit in plan.units()]
        while self._pass(plan):
            time.sleep(_PAUSE)
        return []

    def rest(self) -> None:
        """A shard has no workers."""

    def describe(self) -> Mapping[str, Any]:
        return {"shards": self.of}

    def _pass(self, plan: Plan) -> bool:
        """Whether other shards are still measuring."""
        units, left = plan.units(), False
        first = len(units) * (self.number - 1) // self.of
        with progress(f"{plan.study.name}, shard {self.number}/{self.of}", len(units)) as advance:
            for unit in units[first:] + units[:first]:
                if not self._leases.take(unit.name):
                    left = True
                    continue
                try:
                    if any(plan.found(key) is None for key in unit.keys):  # still not measured
                        self._measured(plan, unit)
                finally:
                    self._leases.release(unit.name)
                advance(1)
        return left

    def _measured(self, plan: Plan, unit: Unit) -> Future[Any]:
        done: Future[Any] = Future()
        tables = plan.measured(self._model, unit)
        done.set_result(([plan.kept(key, next(tables)) for key in unit.keys], []))
        return done
