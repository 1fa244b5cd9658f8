"""`mechicl report`: saved results as one page, and their figures as files for papers."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mechicl.cli.completion import several_of
from mechicl.cli.reading import choices
from mechicl.errors import InputError

if TYPE_CHECKING:
    from mechicl.results import Result


def report(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders with results of run or reproduce.")],
    out: Annotated[Path | None, typer.Option(help="Folder for page and figures; default: the first DIR.")] = None,
    export: Annotated[
        str | None,
        typer.Option(
            help="Save figures as files, too: png, svg, pdf; comma-separated.",
            autocompletion=several_of("png", "svg", "pdf"),
        ),
    ] = None,
    width: Annotated[
        str,
        typer.Option(
            help="Widths of these files: page, or a paper's single or double column; comma-separated.",
            autocompletion=several_of("page", "single", "double"),
        ),
    ] = "page",
) -> None:
    """Make one page of all results in the folders; it opens offline."""
    from mechicl.report import write_report
    from mechicl.results import export as export_figures

    results = [result for folder in folders for result in _results(folder)]
    place = out or folders[0]
    if export is not None:
        formats = choices("--export", export, "png", "svg", "pdf")
        for path in export_figures(results, place, formats, choices("--width", width, "page", "single", "double")):
            print(path.resolve())
    print(write_report(results, place).resolve())


def _results(folder: Path) -> "list[Result]":
    """The results in a folder and in its subfolders, as `mechicl reproduce` writes them."""
    from mechicl.studies import saved_results

    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}; give folders that `mechicl run ... --out` has written.")
    places = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
    found = [result for place in places for result in saved_results(place)]
    if not found:
        raise InputError(f"There are no results in {folder}; give folders that `mechicl run ... --out` has written.")
    return found
