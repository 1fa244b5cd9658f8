"""What every study's command does once it knows what is asked: measure, save, draw, say where."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    import pandas as pd

    from mechicl.cli.asked import Asked
    from mechicl.results import Cells, Result
    from mechicl.studies.study import Material, Study


_METRICS_WITH_INTERVALS, _METRICS_ON_SCREEN = 4, 7
"""More of them do not fit a terminal's width, with their intervals or at all; the page has everything."""


def finish(study: Study, asked: Asked) -> None:
    """Run a study on what is asked, cell by cell, and end with the path of the page to open."""
    close(measure(study, asked), asked)


def measure(study: Study, asked: Asked) -> Result:
    """Run a study on what is asked; finished cells are read from the folder."""
    from mechicl.results import Cells

    cells = Cells(asked.out)
    model = asked.load_model()
    return run(study, model, asked.material(study, model), asked, cells)


def run(study: Study, model: Any, material: Material, asked: Asked, cells: Cells) -> Result:
    """Say on standard error what a study is going to need, or that it cannot fit, and run it."""
    needs = study.estimate(model, material, batch_size=asked.batch_size)
    less = ", less what is finished already" if any(cells.folder.iterdir()) else ""
    print(f"mechicl: {study.name} needs {needs}{less}.", file=sys.stderr)
    return study.run(model, material, batch_size=asked.batch_size, cells=cells)


def close(result: Result, asked: Asked) -> None:
    """Show a result, keep it, and end with the path of the page to open."""
    told = as_json(result)  # first: a result that cannot be told must not be saved
    keep(result, asked.out)
    path = str(page(asked.out).resolve())
    if asked.as_json:
        print(json.dumps({**told, "page": path}))
    else:
        show(result)
        print(path)


def as_json(result: Result) -> dict[str, Any]:
    """What was found, for programs: study, protocol, finding, and the rows of the summary (NaN is null)."""
    rows = json.loads(result.summary().to_json(orient="records", double_precision=15))
    return {"study": result.name, "protocol": result.study.protocol, "finding": result.finding(), "summary": rows}


def keep(result: Result, out: Path) -> None:
    """Save a result, with the command that made it; a result that it takes the place of is named."""
    command = shlex.join(["mechicl", *sys.argv[1:]])
    before = _command_of(out, result.name)
    replace(result, provenance={**result.provenance, "command": command}).save(out)
    if before not in (None, command):
        print(f"mechicl: this {result.name} took the place of the one in {out} that was made by: {before}",
              file=sys.stderr)  # fmt: skip


def _command_of(folder: Path, name: str) -> str | None:
    """The command that made the result of this study in a folder, if there is one."""
    from mechicl.errors import InputError
    from mechicl.results import load_table

    try:
        return load_table(folder, name)[1].get("command")
    except InputError:
        return None


def page(folder: Path) -> Path:
    """One page with every result that is saved in the folder."""
    from mechicl.report import write_report
    from mechicl.studies import saved_results

    return write_report(saved_results(folder), folder)


def show(result: Result) -> None:
    """Print a short table and the finding."""
    console = Console()
    table = overview(result.summary())
    printed = Table(title=result.name, title_justify="left")
    for column in table.columns:  # folded rather than cut: two names with one beginning must differ
        printed.add_column(str(column), overflow="fold")
    for row in table.itertuples(index=False):
        printed.add_row(*map(str, row))
    console.print(printed)
    console.print(result.finding(), highlight=False)


def overview(summary: pd.DataFrame) -> pd.DataFrame:
    """A summary with a column per metric, without columns that never change.

    An entry is "mean [low, high]", or, where there are too many metrics for that, the mean. The first metrics are
    shown.
    """
    summary = summary[summary["metric"].isin(summary["metric"].unique()[:_METRICS_ON_SCREEN])]
    values = summary[["mean", "low", "high"]].to_numpy()
    short = summary["metric"].nunique() > _METRICS_WITH_INTERVALS
    written = summary.assign(
        value=[f"{row[0]:.3f}" if short or row[1] != row[1] else _interval(*row) for row in values]
    )
    index = [
        column
        for column in summary.columns
        if column not in ("metric", "mean", "low", "high", "n", "seeds", "count", "depth")
        and summary[column].nunique() > 1
    ]
    metrics = list(dict.fromkeys(summary["metric"]))
    wide = written.pivot(index=index, columns="metric", values="value")[metrics]
    order = summary[index].drop_duplicates()
    return wide.reindex(order.set_index(index).index).reset_index()


def _interval(mean: float, low: float, high: float) -> str:
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"
