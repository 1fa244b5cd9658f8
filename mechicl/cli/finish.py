"""The steps that every study's command shares: measure, save, draw, and print the page's path."""

from __future__ import annotations

import json
import math
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mechicl.cli.verdicts import print_verdicts

if TYPE_CHECKING:
    import pandas as pd

    from mechicl.cli.options import Asked
    from mechicl.results import Cells, Result
    from mechicl.studies.parts import Material
    from mechicl.studies.running import Helpers
    from mechicl.studies.study import Study


_METRICS_WITH_INTERVALS, _METRICS_ON_SCREEN = 4, 7
"""Most metrics that a terminal shows, with intervals or at all; the page has everything."""
_LONGEST_VALUE, _SHORTEST_QUANTITY = 18, 20
"""Characters per line of published and measured values."""
_NAMED = 4
"""Largest number of omitted metrics that are named; for more, only their number is given."""
_said: WeakKeyDictionary[Helpers, list[Study]] = WeakKeyDictionary()
"""For each group of helpers, the studies whose needs were printed."""


def run(
    study: Study, model: Any, material: Material, asked: Asked, cells: Cells, helpers: Helpers | None = None
) -> Result:
    """Print on standard error what a study will need, unless that was said, and run it, with helpers if any.

    A study that measures time waits until all workers are idle, and runs alone.
    """
    how = ""
    if study.measures_time and helpers is not None:
        helpers.rest()
        helpers, how = None, ", alone, because it measures time"
    if helpers is None or not any(one is study for one in _said.get(helpers, ())):
        say_needs(study, model, material, asked, helpers, how)
    workers = 1 if helpers is None else helpers
    return study.run(model, material, batch_size=asked.batch_size, cells=cells, workers=workers)


def say_needs(
    study: Study, model: Any, material: Material, asked: Asked, helpers: Helpers | None, how: str = ""
) -> float:
    """Print on standard error the memory of each worker and the time of all; return this time in seconds.

    Raises:
        InputError: the study cannot fit.
    """
    facts = {} if helpers is None else helpers.describe()
    n = max(1, facts.get("processes", 1))
    with _threads(facts.get("threads")):
        needs = study.estimate(model, material, batch_size=asked.batch_size)
    text = str(shared := replace(needs, seconds=needs.seconds / n))
    if n > 1:
        text = text.replace("memory:", f"memory in each of {n} workers:").replace("time:", f"time with {n} workers:")
    print(f"mechicl: {study.name}. {text}{how}.", file=sys.stderr)
    if helpers is not None:
        _said.setdefault(helpers, []).append(study)
    return shared.seconds


@contextmanager
def _threads(n: int | None) -> Iterator[None]:
    """Compute with a worker's number of threads, if there is one: each has a part of the CPU."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(n or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def close(result: Result, asked: Asked) -> None:
    """Print and save a result, and end with the path of the page to open."""
    told = as_json(result)  # first, because a result that cannot be reported must not be saved
    keep(result, asked.out)
    path = str(page(asked.out).resolve())
    if asked.as_json:
        print(json.dumps({**told, "page": path}))
    else:
        show(result)
        print(path)


def as_json(result: Result) -> dict[str, Any]:
    """A result as JSON: study, protocol, verdicts, finding, details, and the rows of the summary (NaN is null)."""
    return {
        "study": result.name,
        "protocol": result.study.protocol,
        "claims": [verdict.facts() for verdict in result.claims],
        "finding": result.finding(),
        "details": result.details(),
        "summary": json.loads(result.summary().to_json(orient="records", double_precision=15)),
    }


def keep(result: Result, out: Path) -> Result:
    """Save a result with the command that made it; return it as saved. Say so if it replaces another result."""
    command = shlex.join(["mechicl", *sys.argv[1:]])
    before = _command_of(out, result.name)
    provenance = json.loads(json.dumps({**result.provenance, "command": command}, default=str))
    result = replace(result, provenance=provenance)
    # First, because a result that cannot be reported must not be saved.
    result.summary(), result.finding(), result.details()
    result.save(out)
    if before not in (None, command):
        print(f"mechicl: Replaced the earlier {result.name} result in {out} (from: {before}).", file=sys.stderr)
    return result


def _command_of(folder: Path, name: str) -> str | None:
    """The command that made this study's result in a folder, if there is one."""
    from mechicl.errors import InputError
    from mechicl.results import load_table

    try:
        return load_table(folder, name)[1].get("command")
    except InputError:
        return None


def page(folder: Path) -> Path:
    """One page with all results saved in the folder."""
    from mechicl.report import write_report
    from mechicl.studies import saved_results

    return write_report(saved_results(folder), folder)


def show(result: Result) -> None:
    """Print a short table, the finding, further numbers, and the verdicts."""
    console = terminal()
    table, missing = fitting(result.name, result.summary(), console)
    console.print(table)
    say_left_out(missing, console)
    if said := result.besides_verdicts():
        console.print(said)
    for text in (*result.claims.limits(), *result.details()):
        console.print(Padding(f"- {text}", (0, 0, 0, 2)))
    print_verdicts(result.claims, console)


def say_left_out(names: Sequence[str], console: Console) -> None:
    """Say what is left out of a table and only on the page, if anything."""
    if names:
        console.print(f"The page has {' and '.join(names)}.", style="dim")


def terminal() -> Console:
    """Standard output that prints text literally, even if it looks like markup."""
    return Console(markup=False, emoji=False, highlight=False)


def fitting(title: str, summary: pd.DataFrame, console: Console) -> tuple[Table, list[str]]:
    """The fullest table that fits the terminal without breaking a word, and what was left out.

    Intervals are left out first, then metrics from the last.
    """
    metrics = list(summary["metric"].unique())
    most = min(len(metrics), _METRICS_ON_SCREEN)
    tries = [(True, most)] if most <= _METRICS_WITH_INTERVALS else []
    tries += [(False, number) for number in range(most, 0, -1)]
    unbounded = console.options.update(max_width=10_000)
    for intervals, number in tries:
        table = overview(summary, intervals=intervals, metrics=number)
        shown = printed(title, table, numbers=metrics)
        if Measurement.get(console, unbounded, shown).maximum <= console.width:
            break
    left_out = metrics[number:]
    if len(left_out) > _NAMED:
        left_out = [f"{len(left_out)} more metrics"]
    there = not intervals and summary["low"].notna().any()
    return shown, [*(["the intervals"] if there else []), *([", ".join(left_out)] if left_out else [])]


def compared(table: pd.DataFrame, console: Console) -> tuple[Table, list[str]]:
    """Published and measured values, and what was left out to make them fit.

    The quantity gets the width that the other columns leave; if that is small, intervals are left out.
    """
    whole = table.rename(columns=lambda name: name.removeprefix("measured, ")).map(str)
    shorter = {r"^(mean|average) of tasks$": "mean", r"\bquery at ": "", r" \(published: mean of .*\)$": ""}
    whole = whole.replace(shorter, regex=True)
    short = whole.replace(r" \[.*\]$", "", regex=True)
    for shown in (whole, short):
        longest = (max(map(len, [*shown[name], name])) for name in shown.columns[1:])
        room = console.width - sum(min(_LONGEST_VALUE, one) + 2 for one in longest)
        if room >= _SHORTEST_QUANTITY:
            break
    numbers = [name for name in shown.columns[1:] if name not in ("unit", "task", "place", "text")]
    widths = (_LONGEST_VALUE, _LONGEST_VALUE, max(room, _SHORTEST_QUANTITY))
    left_out = ["the intervals"] if shown is short and not short.equals(whole) else []
    return printed("published and measured", shown, numbers=numbers, widths=widths), left_out


def printed(
    title: str, table: pd.DataFrame, *, numbers: Sequence[str], widths: tuple[int, int, int] = (14, 24, 14)
) -> Table:
    """A printed table: names on the left, numbers on the right, broken only between words.

    `widths` are the approximate line widths of names, of numbers, and of the first column.
    """
    shown = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False,
                  show_edge=False)  # fmt: skip
    for column in table.columns:
        side: Any = "right" if column in numbers else "left"
        shown.add_column(_lines(re.sub(r"(?<=\w\w)_", " ", str(column)), 10), justify=side, overflow="fold")
    for row in table.itertuples(index=False):
        limits = [widths[2], *(widths[column in numbers] for column in table.columns[1:])]
        shown.add_row(*(_lines(str(value), limit) for value, limit in zip(row, limits, strict=True)))
    return shown


def _lines(text: str, width: int) -> Text:
    """A text in lines of about this width, broken only between words."""
    longest = max(map(len, text.split()), default=1)
    return Text("\n".join(wrap(text, max(width, longest), break_on_hyphens=False)))


def overview(summary: pd.DataFrame, *, intervals: bool = True, metrics: int = _METRICS_ON_SCREEN) -> pd.DataFrame:
    """A summary with a column per metric, for the first metrics, without constant columns.

    An entry is "mean [low, high]", or only the mean without `intervals`.
    """
    summary = summary[summary["metric"].isin(summary["metric"].unique()[:metrics])]
    values = summary[["mean", "low", "high"]].to_numpy()
    written = summary.assign(_shown=[_number(*row) if intervals else _number(row[0]) for row in values])
    index = [
        column
        for column in summary.columns
        if column not in ("metric", "mean", "low", "high", "n", "sets", "seeds", "seed_sd", "count", "depth")
        and summary[column].nunique() > 1
    ] or ["model"]
    shown = list(dict.fromkeys(summary["metric"]))
    written = written.drop_duplicates([*index, "metric"])
    wide = written.pivot(index=index, columns="metric", values="_shown")[shown].fillna("–")
    order = summary[index].drop_duplicates()
    table: pd.DataFrame = wide.reindex(order.set_index(index).index).reset_index()
    return table


def _number(mean: float, low: float = math.nan, high: float = math.nan) -> str:
    if math.isnan(mean):
        return "–"
    return f"{mean:.3f}" if math.isnan(low) else f"{mean:.3f} [{low:.3f}, {high:.3f}]"
