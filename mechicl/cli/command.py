"""A command of shared options and a few of its own; a study's command says no more than its own."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar, get_origin

import typer

from mechicl.cli.asked import Asked
from mechicl.cli.completion import one_of
from mechicl.cli.finish import finish

if TYPE_CHECKING:
    from mechicl.studies.study import Study

studies = typer.Typer(help="Run one experiment on a model and a task.", no_args_is_help=True)

ProtocolName = Annotated[
    str,
    typer.Option(
        "--protocol",
        help="corrected, or paper: what the authors' code did.",
        autocompletion=one_of("corrected", "paper"),
    ),
]
"""The switch of every study that the authors' code measures otherwise than a careful reader would."""

A = TypeVar("A", bound=Asked)
P = ParamSpec("P")


def study(
    name: str, kind: type[Asked], *, without: tuple[str, ...] = (), **defaults: Any
) -> Callable[[Callable[P, "Study"]], Callable[P, "Study"]]:
    """Make `mechicl run NAME` of a function from a study's own options to the study.

    Its docstring is the command's help; its annotations must not be strings. `kind` is what the study is run on;
    `without` names shared options that make no sense for it, `defaults` those that start elsewhere.
    """

    def register(make: Callable[P, "Study"]) -> Callable[P, "Study"]:
        def command(asked: Asked, *args: P.args, **own: P.kwargs) -> None:
            finish(make(*args, **own), asked)

        parameters = list(inspect.signature(make).parameters.values())
        example = f"Example: mechicl run {name} {kind.example}"
        studies.command(name, help=make.__doc__, epilog=example)(
            _composed(command, kind, parameters, without, defaults)
        )
        return make

    return register


def asking(
    kind: type[A], *, without: tuple[str, ...] = (), **defaults: Any
) -> Callable[[Callable[[A], None]], Callable[..., None]]:
    """Make a command of a function that is given all that is asked, without options of its own."""

    def compose(command: Callable[[A], None]) -> Callable[..., None]:
        return _composed(command, kind, [], without, defaults)

    return compose


def _composed(
    command: Callable[..., None],
    kind: type[Asked],
    own: list[inspect.Parameter],
    without: tuple[str, ...],
    defaults: dict[str, Any],
) -> Callable[..., None]:
    """The command as typer reads it: a function whose signature has the shared options and its own."""
    shared = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=defaults.get(field.name, _default(field)),
            annotation=field.type,
        )
        for field in fields(kind)
        if get_origin(field.type) is Annotated and field.name not in without
    ]
    names = {parameter.name for parameter in shared}

    def called(**values: Any) -> None:
        command(
            kind(**{name: value for name, value in values.items() if name in names}),
            **{name: value for name, value in values.items() if name not in names},
        )

    parameters = [*shared, *(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own)]
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    called.__doc__ = command.__doc__
    return called


def _default(field: Field[Any]) -> Any:
    return inspect.Parameter.empty if field.default is MISSING else field.default
