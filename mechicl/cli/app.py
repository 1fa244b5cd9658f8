"""The `mechicl` command. Heavy imports happen inside commands, so that `--help` is instant."""

import os
import re
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperOption

from mechicl import __version__
from mechicl.cli.cache import cache
from mechicl.cli.command import declarations, studies
from mechicl.cli.demo import demo
from mechicl.cli.doctor import doctor
from mechicl.cli.finish import terminal
from mechicl.cli.report import report
from mechicl.cli.reproduce import papers
from mechicl.cli.scan import scan
from mechicl.errors import OUT_OF_MEMORY, InputError, NumericalError, out_of_memory, printable

app = typer.Typer(
    help="Look inside language models while they learn in context.",
    epilog=(
        "Begin with: mechicl demo. Then: mechicl run information-flow --model tiny-icl --task tiny-topics-4 "
        "--out results. List studies and tasks: mechicl list. Help: --help after any command; "
        "mechicl --install-completion makes your shell complete options."
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(studies, name="run")
app.add_typer(papers, name="reproduce")
app.command("demo")(demo)
app.command("scan")(scan)
app.command("report")(report)
app.command("doctor")(doctor)
app.command("cache")(cache)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"mechicl {__version__}")
        raise typer.Exit


@app.callback()
def begin(
    study_files: Annotated[
        list[Path] | None,
        typer.Option(
            "--studies", envvar="MECHICL_STUDIES", metavar="FILE",
            help="Python file with studies of your own, for run, list and report; may be repeated.",
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:  # fmt: skip
    """Load the user's own studies before any command."""
    if study_files:
        from mechicl.studies import load_studies

        for path in study_files:
            load_studies(path)


_shown_type = TyperOption.display_type_rich


def _type_in_help(self: TyperOption, ctx: Any) -> str | None:
    """The type shown for an option in `--help`: none for a flag, which takes no value (typer would write <bool>)."""
    return None if self.is_bool_flag else _shown_type(self, ctx)


TyperOption.display_type_rich = _type_in_help  # type: ignore[method-assign]


@app.command("list")
def list_everything(
    claims: Annotated[bool, typer.Option("--claims", help="List claims instead of studies.")] = False,
) -> None:
    """List the studies with what each shows, the tasks and the models; or the claims that studies test."""
    if claims:
        return _list_claims()
    from rich.table import Table

    from mechicl.tasks import built_in_tasks

    table = Table("study", "what it shows", "paper", title="mechicl run STUDY", title_justify="left")
    for name, study in declarations().items():
        table.add_row(name, study.shows or study.title, study.source)
    console = terminal()
    console.print(table)
    console.print("Tasks: " + ", ".join(built_in_tasks()))
    console.print("Models: tiny-icl, smollm2-135m-q4, hub names, folders, GGUF files.")


def _list_claims() -> None:
    """Print each claim with its quantity, its null and the smallest effect that matters."""
    for name, study in declarations().items():
        for one in study.claims:
            terminal().print(
                f"{name} ({one['id']}): {one['sentence']} ({one['source']})\n"
                f"  {one['quantity']}, against {one['null']}; "
                f"smallest effect that matters: {one['least']:g} {one['unit']}"
            )


_INTERRUPTED = "\nmechicl: Interrupted; run the same command again to resume."


def _tell(message: Warning | str, *where: object, **more: object) -> None:
    """A warning or an error as one line, without its source line."""
    print(f"mechicl: {printable(str(message))}", file=sys.stderr)


def main() -> None:
    """Run the command; errors that a user can fix print one sentence and exit with code 2, an interruption with 130."""
    # Arrow's own allocator reserves a GiB of address space at once, which `ulimit -v` may not allow.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _tell
            code = app(prog_name="mechicl", standalone_mode=False)  # otherwise typer would frame its errors
    except _UsageError as error:
        _refuse(error)
    except (InputError, NumericalError) as error:
        _tell(str(error))
        sys.exit(2)
    except (MemoryError, RuntimeError, ImportError, OSError, SystemError) as error:
        if out_of_memory(error):
            _tell(OUT_OF_MEMORY)
            sys.exit(2)
        if not isinstance(error, OSError):
            raise
        # a path that the system rejects, a closed pipe
        _tell(f"{error.filename or 'a file'} cannot be used: {error.strerror or error}.")
        sys.exit(2)
    except KeyboardInterrupt:
        _leave()
    if code == 130:  # typer's code for an interruption
        _leave()
    sys.exit(code or 0)


_UsageError: type[Exception] = typer.BadParameter.__bases__[0]
"""The exception that typer raises for an invalid command line; it has no public name."""


_END = 200
"""Characters of either end of a long message that are shown."""
_INVALID = (
    (r"Invalid value for '([^']+)': Input should be ([^,]*).*", r"\1 should be \2"),
    (r"Invalid value for '([^']+)': Value error, (.*)", r"\1: \2"),
)
"""typer's messages for a value of the wrong type or out of bounds, and for one that is not among the choices."""


def _refuse(error: Any) -> NoReturn:
    """Print what typer could not parse, and where it is explained; without any arguments, print the help."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        sys.exit(2)
    said = " ".join(error.format_message().split())
    for theirs, ours in _INVALID:
        said = re.sub(theirs, ours, said)
    if len(said) > 2 * _END:  # a prompt without quotes would be repeated whole
        said = f"{said[:_END]} […] {said[-_END:]}"
    where = f" See {error.ctx.command_path} --help." if error.ctx is not None else ""
    _tell(f"{said.rstrip('.')}.{where}")
    sys.exit(2)


def _leave() -> NoReturn:
    """Say how to resume, and exit at once: running native threads would abort the interpreter's regular exit."""
    print(_INTERRUPTED, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(130)
