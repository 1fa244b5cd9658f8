"""`mechicl run STUDY`: one command per study, built from the study's declaration and its kind of input."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Optional, TypeVar, get_origin

import typer
from typer.core import TyperGroup

from mechicl.cli.completion import several_of
from mechicl.cli.finish import close
from mechicl.cli.options import Asked
from mechicl.cli.options_of_stages import kind_for
from mechicl.cli.reading import several
from mechicl.declared import Declaration, DeclaredSwitch, declaration, shipped
from mechicl.errors import InputError

A = TypeVar("A", bound=Asked)
_TYPES = {"int": int, "float": float, "bool": bool, "text": str}


class _Studies(TyperGroup):
    """Commands that are built on request: a user's study has one as soon as its file is read."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(declarations())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        told = declarations().get(cmd_name)
        if told is None and (near := get_close_matches(cmd_name, declarations(), 1)):
            raise InputError(f"There is no study {cmd_name!r}; did you mean {near[0]}?")
        if told is None:
            raise InputError(
                f"There is no study {cmd_name!r}; `mechicl list` names them. A study of your own: "
                "mechicl --studies FILE run ..., with the file before the command."
            )
        return _command(told)


studies = typer.Typer(
    help="Run one study on a model, and on prompts, text or weights.", no_args_is_help=True, cls=_Studies
)


def declarations() -> dict[str, Declaration]:
    """Declarations of all studies by name; only a user's own is read from its class, which needs torch."""
    registry = sys.modules.get("mechicl.studies.study")
    own = {} if registry is None else registry.STUDIES
    return shipped() | {name: declaration(study) for name, study in own.items() if name not in shipped()}


def asking(
    kind: type[A], *, without: tuple[str, ...] = (), **defaults: Any
) -> Callable[[Callable[[A], None]], Callable[..., None]]:
    """Make a command of a function that receives all options."""

    def compose(command: Callable[[A], None]) -> Callable[..., None]:
        parameters = _shared(kind, dict.fromkeys(without) | defaults)
        return _signed(lambda **values: command(kind(**values)), parameters, command.__doc__)

    return compose


def _command(told: Declaration) -> Any:
    """The command of one study."""
    kind = kind_for(told)
    shared = _shared(kind, {"batch_size": told.batch_size, **told.shared})
    names = {one.name for one in shared}
    own = [switch for switch in told.switches if switch.name not in names]

    def run(**values: Any) -> None:
        asked = kind(**{name: value for name, value in values.items() if name in names})
        from mechicl.studies.study import STUDIES

        given = {one.name: _value(one, values[one.name]) for one in told.switches if one.name in values}
        close(asked.result(STUDIES[told.name](**given)), asked)

    app = typer.Typer(add_completion=False)
    text = f"{told.shows or told.title}\n\n{told.title} ({told.source}). {told.claim}"
    example = f"Example: mechicl run {told.name} {kind.example}"
    app.command(told.name, epilog=example)(_signed(run, [*map(_option, own), *shared], text))
    return typer.main.get_command(app)


def _shared(kind: type[Asked], begins: dict[str, Any]) -> list[inspect.Parameter]:
    """The shared options; `begins` overrides some defaults, and None removes an option."""
    return [
        _parameter(one.name, begins.get(one.name, _default(one)), one.type)
        for one in fields(kind)
        if get_origin(one.type) is Annotated and begins.get(one.name, one) is not None
    ]


def _option(switch: DeclaredSwitch) -> inspect.Parameter:
    """A switch as an option, with comma-separated values if it takes several."""
    more: dict[str, Any] = {} if switch.several or switch.min is None else {"min": switch.min}
    help, default = switch.help, switch.default
    kind: Any = _TYPES.get(switch.kind, str)
    if switch.several:
        kind = str
        if default is not None:
            default = ",".join(f"{value:g}" if isinstance(value, float) else str(value) for value in default)
        help += f" Choose from {', '.join(switch.choices)}; comma-separated." if switch.choices else " Comma-separated."
        more = {"autocompletion": several_of(*switch.choices)} if switch.choices else {}
    elif switch.kind == "choice":
        kind = Literal[switch.choices]
    if switch.optional:
        kind = Optional[kind]  # noqa: UP045  # built from a variable
    return _parameter(switch.name, default, Annotated[kind, typer.Option(help=help, **more)])


def _value(switch: DeclaredSwitch, given: Any) -> Any:
    """The value of a switch as written on the command line."""
    return several(switch, given) if switch.several and given is not None else given


def _parameter(name: str, default: Any, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _signed(called: Callable[..., None], parameters: list[inspect.Parameter], doc: str | None) -> Callable[..., None]:
    """The function with the signature that typer turns into options."""

    def command(**values: Any) -> None:
        called(**values)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    command.__doc__ = doc
    return command


def _default(one: Field[Any]) -> Any:
    return inspect.Parameter.empty if one.default is MISSING else one.default
