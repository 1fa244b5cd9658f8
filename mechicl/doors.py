"""Check arguments against a function's annotations before it runs, and name a wrong one in one sentence."""

from __future__ import annotations

import operator
from abc import ABCMeta
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache, wraps
from inspect import Parameter, Signature, isabstract, signature
from itertools import chain
from reprlib import repr as shorten
from types import NoneType, SimpleNamespace, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from jaxtyping import jaxtyped

from mechicl.errors import InputError

F = TypeVar("F", bound=Callable[..., Any])
_WORDS: dict[Any, tuple[str, str]] = {
    int: ("a whole number", "whole numbers"), float: ("a number", "numbers"), str: ("a string", "strings"),
    bool: ("True or False", "truth values"), NoneType: ("None", "None"),
}  # fmt: skip
"""One of a kind, and several."""


def door(function: F, *, kinds: bool = True) -> F:
    """A decorator for a function, or a dataclass, that rejects arguments which its annotations do not allow.

    Without `kinds`, only the number of arguments is checked; the function checks the rest itself.

    Raises:
        InputError: on a call with an argument of another kind, one too many, or one too few.
    """
    if isinstance(function, type):
        function.__init__ = door(function.__init__, kinds=kinds)  # type: ignore[misc]
        return function

    @wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        _check(function, args, kwargs, kinds)
        return function(*args, **kwargs)

    return checked  # type: ignore[return-value]


class Parts(ABCMeta):
    """Metaclass of probes and patches: mechicl's own reject wrong arguments; lists become tuples.

    Raises:
        InputError: on creation with an argument of another kind, one too many, or one too few.
    """

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if cls.__module__.startswith("mechicl.") and not isabstract(cls):
            given = {name: _as_tuples(value) for name, value in kwargs.items()}
            _check(cls.__init__, (None, *map(_as_tuples, args)), given)  # type: ignore[misc]
        return super().__call__(*args, **kwargs)


def _as_tuples(value: Any) -> Any:
    """Convert lists, ranges and rows of whole numbers to tuples, as parts do."""
    if getattr(value, "ndim", 0) == 1 and "int" in str(getattr(value, "dtype", "")):
        value = value.tolist()
    return tuple(map(_as_tuples, value)) if isinstance(value, list | range) else value


def _check(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], kinds: bool = True) -> None:
    """Raise InputError if a function, which may be an `__init__`, does not allow its arguments.

    Axes of the same name in the shapes of several arguments must have equal length.
    """
    given = bound(signature_of(function), function.__qualname__.removesuffix(".__init__"), args, kwargs)
    with jaxtyped("context"):
        for name, value in given.items() if kinds else ():
            hint = _hint(function, name)
            numbers = isinstance(value, tuple) and hasattr(hint, "dim_str")  # which a part turns into a tensor
            if not numbers and not _accepts(value, hint):
                raise InputError(f"{_said(name, value, hint)}; give {_in_words(hint)}.")


def bound(expected: Signature, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by name; InputError if there are too many or too few."""
    try:
        return expected.bind(*args, **kwargs).arguments
    except TypeError as error:
        known = ", ".join(one for one in expected.parameters if one not in ("self", "cls"))
        raise InputError(f"{name}(): {error}; its arguments are {known}.") from None


@cache
def signature_of(function: Callable[..., Any]) -> Signature:
    """Cached, because `inspect` is slow."""
    return signature(function)


@cache
def _hint(function: Callable[..., Any], name: str) -> Any:
    """An argument's annotation; Any if it is unknown, such as a type that is imported only for mypy."""
    parameter = signature_of(function).parameters[name]
    written = parameter.annotation
    if written is Parameter.empty or parameter.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD):
        return Any
    alone = SimpleNamespace(__annotations__={name: written})  # an unknown type of another argument has no effect
    try:
        return get_type_hints(alone, function.__globals__, include_extras=True)[name]
    except NameError:
        return Any


def _accepts(value: Any, hint: Any) -> bool:
    """Whether a value is of the kind; unknown kinds pass."""
    origin, inside = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _accepts(value, inside[0])
    if origin in (Union, UnionType):
        return any(_accepts(value, one) for one in inside)
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in inside)
    if hasattr(hint, "dim_str"):  # a row of a table of numbers is not empty
        return isinstance(value, hint) and (" " not in hint.dim_str or value.shape[-1] > 0)
    if hint in (bool, int, float):
        return _ACCEPTS[hint](value)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping)
    if isinstance(origin, type) and issubclass(origin, Iterable):
        return _holds(value, origin, inside)
    kind = NoneType if hint is None else origin or hint
    try:
        return not isinstance(kind, type) or isinstance(value, hint if origin is None else kind)
    except TypeError:  # a protocol
        return True


def _holds(value: Any, origin: type, inside: Sequence[Any]) -> bool:
    """Whether a value is a collection of the kind; arrays and tensors are lists, but a text is not a list of texts."""
    if isinstance(value, (str, bytes, Mapping)):
        return False
    if not issubclass(origin, Collection):
        return isinstance(value, Iterable) or hasattr(value, "__getitem__")
    if not (isinstance(value, origin) if origin is tuple else hasattr(value, "__len__") and hasattr(value, "__iter__")):
        return False
    if issubclass(origin, Sequence) and not hasattr(value, "__getitem__"):
        return False
    if origin is tuple and inside[-1:] != (...,):
        return len(value) == len(inside) and all(map(_accepts, value, inside))
    try:
        return (
            not inside or set(map(type, value)) <= {inside[0]} or _pairs(value, inside[0])
            or all(_accepts(one, inside[0]) for one in value)
        )  # fmt: skip
    except TypeError:  # a tensor of a single number
        return False


def _pairs(value: Collection[Any], hint: Any) -> bool:
    """Whether a value is a collection of plain pairs, such as every token's characters, which are many."""
    if hint != tuple[int, int] or not set(map(type, value)) <= {tuple}:
        return False
    return set(map(len, value)) <= {2} and set(map(type, chain.from_iterable(value))) <= {int}


def _is_whole(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    try:
        operator.index(value)
    except TypeError:
        return False
    return True


_ACCEPTS: dict[Any, Callable[[Any], bool]] = {
    bool: lambda value: isinstance(value, bool) or type(value).__name__ == "bool_",
    int: _is_whole,
    float: lambda value: _is_whole(value) or isinstance(value, float) or type(value).__module__ == "numpy",
}


def _said(name: str, value: Any, hint: Any) -> str:
    """A description of an argument; for a list of wrong items, of the first one."""
    for kind in get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,):
        origin, inside = get_origin(kind), get_args(kind)[:1]
        if inside and isinstance(value, list | tuple) and isinstance(origin, type) and issubclass(origin, Sequence):
            wrong = next((i for i, one in enumerate(value) if not _accepts(one, inside[0])), None)
            if wrong is not None:
                return f"{name}[{wrong}] is {shorten(value[wrong])}"
    shape = getattr(value, "shape", None)
    return f"{name} is {shorten(value) if shape is None else f'of shape {list(shape)} ({value.dtype})'}"


def _in_words(hint: Any, number: int = 0) -> str:
    """The kind in words, of one value (0) or several (1)."""
    origin, inside = get_origin(hint), get_args(hint)
    if hasattr(hint, "dim_str"):
        return f"{'arrays' if number else f'a {hint.array_type.__name__}'} [{hint.dim_str}] of {hint.dtype.__name__}"
    if origin is Annotated:
        return _in_words(inside[0], number)
    if origin in (Union, UnionType):
        literals = [f"{one!r}" for kind in inside if get_origin(kind) is Literal for one in get_args(kind)]
        return _either([*literals, *(_in_words(kind, number) for kind in inside if get_origin(kind) is not Literal)])
    if origin is Literal:
        return _either(map(repr, inside))
    if hint in (*_WORDS, None):
        return _WORDS[NoneType if hint is None else hint][number]
    if isinstance(origin, type) and issubclass(origin, Iterable) and not issubclass(origin, Mapping):
        kinds = [one for one in inside if one is not ...]
        return f"{'lists' if number else 'a list'} of {_either([_in_words(one, 1) for one in kinds])}"
    return getattr(hint, "__name__", str(hint))


def _either(words: Iterable[str]) -> str:
    *most, last = dict.fromkeys(words)  # each once
    return f"{', '.join(most)} or {last}" if most else last
