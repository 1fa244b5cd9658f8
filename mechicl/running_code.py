"""Digest of what a study measures by, for the keys of its cells.

mechicl's own classes are read in their source (see `code_digest`). A user's study, in a file, a notebook or a terminal,
is read as it runs: bytecode without docstrings and lines, the values of what it closes over and of the global variables
that it reads, and so on from there, up to installed libraries, which are known by their versions.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import importlib
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import CodeType, EllipsisType, FunctionType, MemberDescriptorType, MethodType, ModuleType, NoneType
from typing import Any, Literal

import numpy as np
import torch

from mechicl.code_digest import MEASURING, SHOWING, Imported, Reach, digest, measuring_code
from mechicl.errors import InputError

_PLAIN = (NoneType, EllipsisType, bool, int, float, complex, str, bytes, range, slice, Path, re.Pattern, np.generic,
          np.ufunc, torch.dtype, torch.device)  # fmt: skip
_MADE_UP = "<string>"
"""The file of the methods that dataclasses and named tuples are given."""


def measured_by(study: type) -> str:
    """Digest of all code by which a study measures; how results are shown is not in it.

    Raises:
        InputError: the study reads an object of which nobody can tell whether it has changed.
    """
    own = any(_owner(kind.__module__) == "user" for kind in study.__mro__)
    return digest([measuring_code(), _read(study) if own else _read_once(study)])


def _read(study: type) -> str:
    reach = Reach()
    running = _Running(reach)
    running.seen.update((kind, kind.__qualname__) for kind in study.__mro__)
    for kind in study.__mro__:
        if _owner(kind.__module__) == "mechicl":
            reach.study(kind.__module__, kind.__qualname__)
        elif _owner(kind.__module__) == "user":
            running.members(kind, MEASURING)
    reach.follow()
    return digest(reach.texts)


_read_once = functools.cache(_read)


class _Running:
    """Follows code of the user's own through the objects that it reads; what it finds goes to `reach`."""

    def __init__(self, reach: Reach) -> None:
        self.reach = reach
        self.seen: dict[Any, str] = {}

    def members(self, kind: type, starts: Iterable[str]) -> None:
        """Of a class that shows: `starts`, special methods, and what these mention sooner or later."""
        switches = {field.name for field in fields(kind)} if is_dataclass(kind) else set()
        for name, member in vars(kind).items():
            count = functools.partial(self._count, f"{kind.__qualname__}.{name}", member)
            if name in starts or (name.startswith("__") and _is_written(member)):
                count()
            elif not name.startswith("__") and name not in switches:  # the values of switches are in every key
                self.reach.wait(name, count)

    def _count(self, name: str, value: Any) -> None:
        self.reach.texts.add(f"{name} {self.described(value, name)}")

    def described(self, value: Any, name: str) -> str:
        """A description that changes when a value may behave differently; `name` is what an error calls it."""
        below = functools.partial(self.described, name=name)
        kind = type(value).__qualname__
        if isinstance(value, Enum):
            return f"{value!r} {below(type(value))}"
        if isinstance(value, _PLAIN) or type(value).__module__ == "typing":
            return repr(value)
        if isinstance(value, torch.Tensor | np.ndarray):
            return _numbers(value)
        if isinstance(value, list | tuple):
            return f"{below(type(value))} {[below(one) for one in value]}"
        if isinstance(value, set | frozenset):
            return f"{kind} {sorted(below(one) for one in value)}"
        if isinstance(value, dict):
            return f"{below(type(value))} {[(below(key), below(one)) for key, one in value.items()]}"
        if isinstance(value, ModuleType):
            return self._module(value)
        if parts := _parts(value):
            return f"{kind} {[below(part) for part in parts]}"
        if hasattr(value, "__module__") and hasattr(value, "__qualname__"):
            return self._named(value)
        if is_dataclass(value):
            return f"{below(type(value))} {[below(getattr(value, field.name)) for field in fields(value)]}"
        raise InputError(
            f"{name} is a {kind}, and nobody can tell when it changes; make it a switch of the study, or make it in "
            "the method that needs it."
        )

    def _module(self, module: ModuleType) -> str:
        """A module of the user's own counts by what is mentioned of it."""
        name = module.__name__
        owner = _owner(name)
        if owner == "mechicl":
            self.reach.follow(Imported(name, None))
        elif owner == "user" and name not in self.seen:
            self.seen[name] = name
            for one, value in vars(module).items():
                self.reach.wait(one, functools.partial(self._count, f"{name}.{one}", value))
        return name if owner != "library" else _versioned(name)

    def _named(self, value: Any) -> str:
        """A function or a class: mechicl's by its source, a library's by its version, a user's by what it does."""
        module = value.__globals__["__name__"] if isinstance(value, FunctionType) else value.__module__
        name = f"{module}.{value.__qualname__}"
        owner = _owner(module or "builtins")
        if owner == "library":
            inside = getattr(value, "__wrapped__", None)  # what a library's decorator was put on
            return f"{_versioned(name)} {'' if inside is None else self.described(inside, name)}"
        if owner == "mechicl":
            self.reach.follow(Imported(module, value.__qualname__.split(".")[0]))
        if owner == "mechicl" and not isinstance(value, FunctionType):
            return name
        if value in self.seen:
            return self.seen[value]
        self.seen[value] = name
        text = self._function(value) if isinstance(value, FunctionType) else self._class(value, name)
        self.seen[value] = f"{name} {digest([text])}"
        return self.seen[value]

    def _class(self, kind: Any, name: str) -> str:
        if not isinstance(kind, type):
            raise InputError(f"{name} is a {type(kind).__qualname__}, and nobody can tell when it changes.")
        bases = [self.described(base, name) for base in kind.__bases__]
        if SHOWING & set(vars(kind)):
            self.members(kind, ())
            return f"{name} {bases}"
        written = {
            one: self.described(member, f"{name}.{one}")
            for one, member in vars(kind).items()
            if _is_written(member) or not (one.startswith(("__", "_abc_")) or _is_made_up(member))
        }
        return f"{name} {bases} {[one.name for one in fields(kind)] if is_dataclass(kind) else []} {written}"

    def _function(self, function: FunctionType) -> str:
        name = f"{function.__module__}.{function.__qualname__}"
        closed = [self.described(_content(cell), name) for cell in function.__closure__ or ()]
        defaults = self.described([function.__defaults__, function.__kwdefaults__], name)
        if _owner(function.__globals__["__name__"]) == "mechicl":
            return f"{name} {closed} {defaults}"
        return f"{self._code(function.__code__, function.__globals__)} {closed} {defaults}"

    def _code(self, code: CodeType, around: Mapping[str, Any]) -> str:
        """Instructions with what they name; where lines end, and docstrings, is not in them."""
        text: list[str] = [repr((code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags))]
        attributes, modules, module = set[str](), list[ModuleType](), around["__name__"]
        for step in dis.get_instructions(code):
            value = step.argval
            if isinstance(value, CodeType):
                value = self._code(value, around)
            elif step.opname in ("LOAD_GLOBAL", "LOAD_NAME") and value in around:
                value = f"{value} {self.described(around[value], f'{module}.{value}')}"
            elif step.opname == "IMPORT_NAME":
                modules.append(_imported(value, around))
            elif step.opname in _ATTRIBUTES:
                attributes.add(value)
            if step.opname not in ("NOP", "RESUME"):
                text.append(f"{step.opname} {value!r}")
        text += [self._module(module) for module in modules]
        self.reach.mention(attributes)
        return " ".join(text)


_ATTRIBUTES = ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR", "IMPORT_FROM", "STORE_ATTR")


def _owner(module: str) -> Literal["mechicl", "library", "user"]:
    """Whose code a module is: what is neither ours nor installed is the user's, a notebook's `__main__` too."""
    root = module.split(".")[0]
    if root == "mechicl":
        return "mechicl"
    if root in sys.stdlib_module_names or root in sys.builtin_module_names:
        return "library"
    found = sys.modules.get(module)
    file = getattr(found, "__file__", None) or next(iter(getattr(found, "__path__", ())), "")
    return "library" if {"site-packages", "dist-packages"} & set(Path(file).parts) else "user"


@functools.cache
def _versioned(name: str) -> str:
    """A library's name of something, and its version where it is told."""
    root = name.split(".")[0]
    try:
        return f"{name} {version(root)}"
    except PackageNotFoundError:
        return f"{name} {getattr(sys.modules.get(root), '__version__', '')}"


def _imported(name: str, around: Mapping[str, Any]) -> ModuleType:
    """The module that an import inside a function means."""
    for one in (f"{around.get('__package__') or ''}.{name}".strip("."), name):
        if one in sys.modules:
            return sys.modules[one]
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(f"{around['__name__']} imports {name}, which cannot be imported here.") from error


def _parts(value: Any) -> tuple[Any, ...]:
    """What wrappers around functions hold."""
    if isinstance(value, functools.partial):
        return value.func, value.args, value.keywords
    if isinstance(value, MethodType):
        return value.__func__, value.__self__
    if isinstance(value, property):
        return value.fget, value.fset
    if isinstance(value, functools.cached_property):
        return (value.func,)
    if isinstance(value, staticmethod | classmethod):
        return (value.__func__,)
    if hasattr(value, "__wrapped__") and not isinstance(value, FunctionType | type):  # functools.cache
        return (value.__wrapped__,)
    return ()


def _is_written(member: Any) -> bool:
    """Whether a class's member is code that somebody wrote."""
    return isinstance(member, FunctionType | property | staticmethod | classmethod) and not _is_made_up(member)


def _is_made_up(member: Any) -> bool:
    """Whether a class was given it by `dataclass`, `NamedTuple` or `__slots__`."""
    if isinstance(member, FunctionType):
        return member.__code__.co_filename == _MADE_UP
    return isinstance(member, MemberDescriptorType) or type(member).__name__ == "_tuplegetter"


def _content(cell: Any) -> Any:
    """What a closure holds; None where it holds nothing yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _numbers(values: torch.Tensor | np.ndarray[Any, Any]) -> str:
    if isinstance(values, torch.Tensor):
        tensor = values.detach().cpu().contiguous()
        raw, kind = tensor.reshape(-1).view(torch.uint8).numpy().tobytes(), str(tensor.dtype)
    elif values.dtype.hasobject:
        raw, kind = repr(values.tolist()).encode(), "object"
    else:
        raw, kind = np.ascontiguousarray(values).tobytes(), str(values.dtype)
    return f"{kind} {tuple(values.shape)} {hashlib.sha256(raw).hexdigest()}"
