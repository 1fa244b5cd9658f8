"""What measures a command's cells: this process, several workers, a Ray cluster, or the shards of an array job."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import typer

from mechicl.cli.finish import say_needs
from mechicl.errors import InputError, NumericalError

if TYPE_CHECKING:
    from mechicl.cli.options import Asked
    from mechicl.results import Cells
    from mechicl.studies.parts import Material
    from mechicl.studies.running import Helpers
    from mechicl.studies.study import Study


@contextmanager
def helpers_of(asked: Asked, model: Any, cells: Cells) -> Iterator[Helpers | None]:
    """The helpers that --workers, --ray or --shard name; they end with the `with` block."""
    from mechicl.studies.shard import Shard
    from mechicl.studies.team import Team

    with_workers = asked.ray is not None or (asked.workers or 1) > 1
    if asked.shard is not None and with_workers:
        raise InputError("--shard shares a folder with other commands, without --workers and --ray; leave these out.")
    if asked.shard is not None:
        with Shard(model, cells, asked.shard, job=job_of(sys.argv[1:], asked.shard)) as shard:
            yield shard
    elif with_workers:
        with Team(model, asked.workers, ray=asked.ray) as team:
            yield team
    else:
        yield None


def job_of(words: Sequence[str], share: str) -> str:
    """What all shards of a command have in common."""
    return shlex.join(words).replace(f"--shard {share}", "").replace(f"--shard={share}", "")


def announce(helpers: Helpers | None, study: Study, model: Any, material: Material, asked: Asked) -> float:
    """Say what a study needs of helpers; return its estimated seconds, 0 if unknown.

    Errors are raised only when its result is requested.
    """
    if helpers is not None and not study.measures_time:
        with suppress(InputError, NumericalError):
            return say_needs(study, model, material, asked, helpers)
    return 0.0


def begin(helpers: Helpers | None, study: Study, model: Any, material: Material, asked: Asked, cells: Cells) -> None:
    """Let helpers start on a study; errors are raised only when its result is requested."""
    from mechicl.studies.running import plan

    if helpers is not None and not study.measures_time:
        with suppress(InputError, NumericalError):
            helpers.ahead(plan(study, model, material, asked.batch_size, cells, shared=True))


def end_unless_last(helpers: Helpers | None, asked: Asked) -> None:
    """End the command of a shard that leaves writing the results to another."""
    if helpers is not None and not helpers.closes():
        print(f"mechicl: Shard {asked.shard} is done; another shard writes the results.", file=sys.stderr)
        raise typer.Exit
