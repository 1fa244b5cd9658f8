"""One progress display for nested work: cells of a study, batches of a cell, steps of a training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_display: Progress | None = None
_shown = True


def nothing_shown() -> None:
    """Draw nothing in this process from now on, because it works for another one that has the terminal."""
    global _shown
    _shown = False


@contextmanager
def progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar with an estimate of the remaining time; yields `advance(n)`.

    The outermost call opens the display and closes it, even if the work raises; inner calls add their bar to it.
    Nothing is drawn without a description, or if standard error is not a terminal or a notebook.
    """
    global _display
    if not description:
        yield lambda n: None
        return
    outermost = _display is None
    if _display is None:
        console = Console(stderr=True)
        _display = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not (_shown and (console.is_terminal or console.is_jupyter)),
        )
        _display.start()
    display = _display
    task = display.add_task(description, total=total)
    try:
        yield lambda n: display.advance(task, n)
    finally:
        display.remove_task(task)
        if outermost:
            display.stop()
            _display = None
