"""`mechicl cache`: list what is kept between runs, and remove it."""

from __future__ import annotations

from typing import Annotated

import typer

from mechicl.cli.finish import terminal


def cache(clear: Annotated[bool, typer.Option("--clear", help="Remove everything listed.")] = False) -> None:
    """List what mechicl keeps between runs (the real model, results of model comparisons), or clear it.

    The folder is `mechicl` in MECHICL_CACHE, or in the system's cache folder. Cleared files are recreated when they are
    needed. Hugging Face's own client keeps models of the hub elsewhere.

    Example: mechicl cache --clear
    """
    from rich.table import Table

    from mechicl import cache

    if clear:
        print(f"Cleared {cache.folder()}: {cache.clear() / 1e6:.1f} MB.")
        return
    table = Table("kept", "MB", title=str(cache.folder()), title_justify="left")
    for entry in cache.entries():
        table.add_row(entry.name, f"{entry.n_bytes / 1e6:.1f}")
    terminal().print(table if table.row_count else f"Nothing is kept in {cache.folder()}.", soft_wrap=True)
