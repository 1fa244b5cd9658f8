"""Digest of the code that measures, for the keys of cells: what only shows is not in it.

Code is read as bytecode without docstrings and lines, so no comment counts. Packages that measure count whole. Studies,
mechicl's and a user's own (in a file, a notebook, a terminal), are read as they run: from the methods that measure on,
every function, class and value that code names is followed, up to what counts whole anyway, what only shows, and
installed libraries, which are known by their versions.
"""

from __future__ import annotations

import dis
import hashlib
import inspect
import re
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache, cached_property, partial
from importlib import import_module, util
from importlib.machinery import SourceFileLoader
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from mechicl.errors import InputError

PACKAGE = Path(__file__).parent
# Parts of mechicl that show, check, or read files of which a digest is in every key.
SHOWS = frozenset(("cache", "cli", "code_digest", "declared", "errors", "explorer", "figures", "hub", "json_files",
                   "progress", "prompts.display", "report", "results", "shipped", "text", "versions"))  # fmt: skip
# Parts of mechicl of which only that counts which a study measures by.
FOLLOWED = frozenset(("__init__", "display", "studies"))
# The methods of a study by which a cell is made.
MEASURING = frozenset(("measure", "measure_all", "conditions", "settings", "surroundings", "_checked"))
# Methods that make a class one of which only those members count that measuring mentions.
SHOWING = frozenset(("summary", "figure", "finding"))

# What classes and modules note of themselves.
_NOTES = frozenset(("__doc__", "__firstlineno__", "__static_attributes__", "__annotate__", "__annotate_func__"))
_SILENT = frozenset(("CACHE", "NOP", "RESUME"))
_ATTRIBUTES = frozenset(("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR", "IMPORT_FROM", "STORE_ATTR"))
# Bits of flags that an instruction keeps below its name's number.
_FLAGS = {"LOAD_GLOBAL": sys.version_info >= (3, 11), "LOAD_ATTR": sys.version_info >= (3, 12), "LOAD_SUPER_ATTR": 2}
_HAS_CONSTANT, _HAS_NAME = frozenset(dis.hasconst), frozenset(dis.hasname)
# Kinds of values that their repr describes; the last is a field of named tuples.
_PLAIN = (type(None), type(...), bool, int, float, complex, str, bytes, range, slice, Path, np.generic, np.ufunc,
          np.dtype, torch.dtype, torch.device, types.UnionType, types.MethodDescriptorType, types.MemberDescriptorType,
          type(inspect.FullArgSpec.args))  # fmt: skip
# What describes values of other kinds; the last is that of functools.cache.
_HELD = {partial: ("func", "args", "keywords"), types.MethodType: ("__func__", "__self__"), Enum: ("name", "value"),
         property: ("fget", "fset"), types.BuiltinFunctionType: ("__name__", "__self__"), cached_property: ("func",),
         re.Pattern: ("pattern", "flags"), object: ("__wrapped__",)}  # fmt: skip


def measured_by(study: type) -> str:
    """Digest of all code by which a study measures; how results are shown is not in it.

    Raises:
        InputError: the study reads an object of which nobody can tell whether it has changed.
    """
    return digest([measuring_code(), *Reach(study).texts])


@cache
def measuring_code(package: Path = PACKAGE) -> str:
    """Digest of the packages of mechicl that measure whatever the study is."""
    texts, reach = [], Reach(object)
    for path in package.rglob("*.py"):
        name = ".".join(("mechicl", *path.relative_to(package).with_suffix("").parts))
        if place(name) == "measures" and (code := SourceFileLoader(name, str(path)).get_code(name)):
            texts.append(f"{name} {reach.code(code, {})}")
    return digest(texts)


def digest(texts: Iterable[str]) -> str:
    """Sha256, shortened, of texts in any order."""
    return hashlib.sha256("\n".join(sorted(texts)).encode(errors="surrogatepass")).hexdigest()[:16]


@cache
def place(module: str | None) -> Literal["measures", "shows", "followed", "library"]:
    """How a module's code counts; what is neither mechicl's nor installed is the user's, and followed."""
    root, *inside = (module or "builtins").split(".")
    if root == "mechicl":
        first = inside[0] if inside else "__init__"
        return "followed" if first in FOLLOWED else "shows" if SHOWS & {first, ".".join(inside)} else "measures"
    with suppress(ImportError, ValueError):  # a notebook's `__main__` has no spec
        spec = util.find_spec(root)
        file = spec and (spec.origin or next(iter(spec.submodule_search_locations or ()), ""))
        if root in sys.stdlib_module_names or re.search(r"[/\\](site|dist)-packages\b", file or ""):
            return "library"
    return "followed"


class Reach:
    """What a study's measuring leads to: `texts` describe it, `seen` has the classes, functions and modules."""

    def __init__(self, study: type) -> None:
        own = [kind for kind in study.__mro__ if place(kind.__module__) == "followed"]
        self.texts: list[str] = []
        self.seen: dict[Any, str] = {kind: kind.__qualname__ for kind in own}
        self._mentioned: set[str] = set()
        self._waiting: dict[str, list[Callable[[], None]]] = {}
        self._next: list[Callable[[], None]] = [partial(self._members, kind, MEASURING) for kind in own]
        while self._next:
            self._next.pop()()

    def _members(self, kind: type, starts: frozenset[str] = frozenset()) -> None:
        """Of a class that shows: `starts`, special methods, defaults, and what these mention sooner or later."""
        switches = {field.name for field in fields(kind)} if is_dataclass(kind) else set()
        for name, member in vars(kind).items():
            special = name.startswith("__")
            if _is_written(name, member) and name not in ({"__init_subclass__"} | (switches if starts else set())):
                self._wait(name, kind, kind.__qualname__, now=special or name in starts | switches)

    def _wait(self, name: str, holder: Any, of: str, *, now: bool = False) -> None:
        """Have a member counted as soon as its name is mentioned, or now."""
        count = partial(self._count, name, holder, f"{of}.{name}")
        (self._next if now or name in self._mentioned else self._waiting.setdefault(name, [])).append(count)

    def _count(self, name: str, holder: Any, said: str) -> None:
        value = vars(holder)[name] if isinstance(holder, type) else getattr(holder, name, None)
        self.texts.append(f"{said} {self._described(value, said)}")

    def _described(self, value: Any, name: str) -> str:
        """A description that changes when a value may behave differently; `name` is what an error calls it."""
        kind = type(value)
        if isinstance(value, _PLAIN) or (kind.__module__ == "typing" and not isinstance(value, type)):
            return f"{kind.__name__} {value!r}"
        if isinstance(value, types.FunctionType | type):
            return self._named(value)
        if isinstance(value, types.ModuleType):
            return self._module(value.__name__, value)
        if (parts := _parts(value)) is not None:
            texts = [self._described(part, name) for part in parts]
            return f"{self._named(kind)} {sorted(texts) if isinstance(value, set | frozenset) else texts}"
        if hasattr(value, "__qualname__") and place(value.__module__) == "library":
            return _versioned(f"{value.__module__}.{value.__qualname__}")
        raise InputError(
            f"{name} is a {kind.__qualname__}, and nobody can tell when it changes; make it a switch of the study, or "
            "make it in the method that needs it."
        )

    def _module(self, name: str, module: types.ModuleType | None = None) -> str:
        """A module that is followed counts by what is mentioned of it."""
        if place(name) == "followed" and name not in self.seen:
            self.seen[name] = name
            with suppress(ImportError):  # it is not installed
                module = module or import_module(name)
                for one in dir(module):
                    self._wait(one, module, name)
        return _versioned(name)

    def _named(self, value: Any) -> str:
        """A function or a class: by what it does if it is followed, else by its name."""
        function = value if isinstance(value, types.FunctionType) else None
        module = function.__globals__.get("__name__") if function else value.__module__
        name, where = f"{module}.{value.__qualname__}", place(module)
        if where == "library":  # what its decorator was put on is perhaps the user's
            return f"{_versioned(name)} {self._described(getattr(value, '__wrapped__', None), name)}"
        if where != "followed":
            return f"{name} {self._closed(function, name) if function and '<locals>' in name else ''}"
        if value not in self.seen:
            self.seen[value] = name
            text = self._class(value, name) if function is None else self._closed(function, name)
            text += self.code(function.__code__, function.__globals__) if function else ""
            self.seen[value] = f"{name} {digest([text])}"
        return self.seen[value]

    def _class(self, kind: type, name: str) -> str:
        factories = [field.default_factory for field in fields(kind)] if is_dataclass(kind) else []
        text = [self._described(one, name) for one in (*kind.__bases__, *factories) if one is not MISSING]
        if SHOWING & vars(kind).keys():
            self._members(kind)
            return str(text)
        written = {one: member for one, member in vars(kind).items() if _is_written(one, member)}
        return str([*text, *(f"{one} {self._described(written[one], f'{name}.{one}')}" for one in written)])

    def _closed(self, function: types.FunctionType, name: str) -> str:
        """What a function closes over, and its defaults."""
        closed = [cell.cell_contents for cell in function.__closure__ or () if cell != types.CellType()]
        return self._described([closed, function.__defaults__, function.__kwdefaults__], name)

    def code(self, code: types.CodeType, around: Mapping[str, Any]) -> str:
        """Code in normal form, with what the global names stand for; members that it mentions count from now on."""
        steps = list(_steps(code))  # of the flags, those above say how it was compiled, and whether it has a docstring
        text = [str((code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags & 0xFFF))]
        for at, (step, value) in enumerate(steps):
            if step == "STORE_NAME" and value in _NOTES:
                text.pop()
                continue
            if step in _ATTRIBUTES and value not in self._mentioned:
                self._mentioned.add(value)
                self._next += self._waiting.pop(value, ())
            text.append(f"{step} {value!r}" if type(value) in (int, str) else "")
            if isinstance(value, types.CodeType):
                text.append(self.code(value, around))
            elif step in ("LOAD_GLOBAL", "LOAD_NAME") and value in around:
                text.append(self._described(around[value], f"{around.get('__name__')}.{value}"))
            elif step == "IMPORT_NAME" and around:
                level = "." * steps[at - 2][1]
                text.append(self._module(util.resolve_name(level + value, around.get("__package__") or "")))
            elif not text[-1]:
                text.append(f"{step} {self._described(value, step)}")
        return "\n".join(text)


def _steps(code: types.CodeType) -> Iterator[tuple[str, Any]]:
    """Instructions, and what each takes: a constant, a name, a number."""
    value = 0
    for number, low in zip(code.co_code[::2], code.co_code[1::2], strict=True):
        value, step = value << 8 | low, dis.opname[number]
        if step != "EXTENDED_ARG":
            if number in _HAS_CONSTANT:
                yield step, code.co_consts[value]
            elif number in _HAS_NAME:
                yield step, code.co_names[value >> _FLAGS.get(step, 0)]
            elif step not in _SILENT:
                yield step, value
            value = 0


@cache
def _versioned(name: str) -> str:
    """A name, and the version of the library that has it where it is told; mechicl's and Python's are not."""
    root = name.split(".")[0]
    if root == "mechicl" or root in sys.stdlib_module_names:
        return name
    with suppress(PackageNotFoundError):
        return f"{name} {version(root)}"
    return f"{name} {getattr(sys.modules.get(root), '__version__', '')}"


def _is_written(name: str, member: Any) -> bool:
    """Whether somebody wrote a class's member; dataclasses, named tuples and Python make up special ones."""
    if not name.startswith("__"):
        return not name.startswith("_abc_")
    code = getattr(inspect.unwrap(getattr(member, "__func__", member)), "__code__", None)
    made_up = name in _NOTES or (code is not None and code.co_filename == "<string>")
    return (code is not None or isinstance(member, property)) and not made_up


def _parts(value: Any) -> Iterable[Any] | None:
    """What a value is made of; None where nobody can tell."""
    if isinstance(value, torch.Tensor):
        return value.dtype, tuple(value.shape), _parts(value.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    if isinstance(value, np.ndarray):
        raw = hashlib.sha256(value.tobytes()).hexdigest() if not value.dtype.hasobject else value.tolist()
        return value.dtype, value.shape, raw
    if isinstance(value, list | tuple | set | frozenset | dict):
        return value.items() if isinstance(value, dict) else value
    if is_dataclass(value):
        return [getattr(value, field.name) for field in fields(value)]
    held = next(names for kind, names in _HELD.items() if isinstance(value, kind))
    return [getattr(value, name) for name in held] if hasattr(value, held[0]) else None
