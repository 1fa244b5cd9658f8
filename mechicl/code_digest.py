"""Digest of the measuring code, for the keys of cells; code that only displays is not in it.

Code is read as bytecode without docstrings and line numbers, so comments do not count. Measuring packages count as a
whole. Studies, mechicl's and a user's own (in a file, a notebook, a terminal), are followed as they run: from their
measuring methods on, every function, class and value that code names is followed, except packages that count as a
whole, code that only displays, and installed libraries, which are identified by their versions.
"""

from __future__ import annotations

import dis
import hashlib
import inspect
import re
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
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
# Parts of mechicl that display, check, judge, or read files whose digests are in every key.
SHOWS = frozenset(("cache", "claims", "cli", "code_digest", "declared", "display", "doors", "engines.on_ray",
                   "engines.workers", "errors", "explorer", "figures", "files.leases", "files.writing",
                   "models.again", "models.hub", "progress", "prompts.display", "renamed", "report", "results",
                   "shipped", "versions"))  # fmt: skip
# Parts of mechicl of which only code that a study uses for measuring counts.
FOLLOWED = frozenset(("", "__init__", "studies"))
# The methods of a study that make a cell.
MEASURING = frozenset(("measure", "measure_all", "conditions", "settings", "surroundings", "_checked"))
# Of a class with one of these methods, only members that measuring code mentions count.
SHOWING = frozenset(("summary", "figure", "drawing", "finding", "details", "claims", "evidence", "verdicts"))

# Attributes about classes and modules themselves, and code that runs when a class is defined.
_NOTES = frozenset(("__doc__", "__firstlineno__", "__static_attributes__", "__annotate__", "__annotate_func__",
                    "__init_subclass__"))  # fmt: skip
_ATTRIBUTES = frozenset(("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR", "IMPORT_FROM", "STORE_ATTR"))
# Kinds of values described by their repr; the last is a field of named tuples.
_PLAIN = (type(None), type(...), bool, int, float, complex, str, bytes, range, slice, Path, np.generic, np.ufunc,
          np.dtype, torch.dtype, torch.device, types.UnionType, types.MethodDescriptorType, types.MemberDescriptorType,
          type(inspect.FullArgSpec.args))  # fmt: skip
# Attributes that describe values of other kinds; the last is for functools.cache.
_HELD = {partial: ("func", "args", "keywords"), types.MethodType: ("__func__", "__self__"), Enum: ("name", "value"),
         property: ("fget", "fset"), types.BuiltinFunctionType: ("__name__", "__self__"), cached_property: ("func",),
         re.Pattern: ("pattern", "flags"), object: ("__wrapped__",)}  # fmt: skip


def measured_by(study: type) -> str:
    """Digest of all code that a study measures with; code that displays results is not in it.

    Raises:
        InputError: the study reads an object whose changes cannot be detected.
    """
    return digest([measuring_code(), *Reach(study).texts])


@cache
def measuring_code(package: Path = PACKAGE) -> str:
    """Digest of mechicl's packages that count for every study."""
    texts, reach = [], Reach(object)
    for path in package.rglob("*.py"):
        name = ".".join(("mechicl", *path.relative_to(package).with_suffix("").parts))
        if place(name) == "measures" and (code := SourceFileLoader(name, str(path)).get_code(name)):
            texts.append(f"{name} {reach.code(code, {})}")
    return digest(texts)


def digest(texts: Iterable[str]) -> str:
    """Shortened SHA-256 of texts in any order."""
    return hashlib.sha256("\n".join(sorted(texts)).encode(errors="surrogatepass")).hexdigest()[:16]


@cache
def place(module: str | None) -> Literal["measures", "shows", "followed", "library"]:
    """How a module's code counts; code that is neither mechicl's nor installed is the user's, and is followed."""
    root, _, inside = (module or "builtins").partition(".")
    if root == "mechicl":
        first = inside.split(".")[0]
        return "followed" if first in FOLLOWED else "shows" if SHOWS & {first, inside} else "measures"
    with suppress(ImportError, ValueError):  # a notebook's `__main__` has no spec
        if root in sys.stdlib_module_names or re.search(r"[/\\](site|dist)-packages\b", str(util.find_spec(root))):
            return "library"
    return "followed"


class Reach:
    """All that a study's measuring code reaches: `texts` describe it, `seen` has the classes, functions and modules."""

    def __init__(self, study: type) -> None:
        own = [kind for kind in study.__mro__ if place(kind.__module__) == "followed"]
        self.texts: list[str] = []
        self.seen: dict[Any, str] = {kind: kind.__qualname__ for kind in own}
        self._mentioned: set[str] = set()
        self._waiting: dict[str, list[tuple[Any, str, str]]] = {}
        self._next: list[tuple[Any, str, str]] = []
        for kind in own:
            self._members(kind, MEASURING)
        while self._next:
            holder, member, name = self._next.pop()
            value = vars(holder)[member] if isinstance(holder, type) else getattr(holder, member, None)
            self.texts.append(f"{name} {self._described(value, name)}")

    def _members(self, kind: type, starts: frozenset[str] = frozenset()) -> None:
        """For a displaying class: `starts`, special methods, defaults, and mentioned members; for others, all."""
        switches = {field.name for field in fields(kind)} if is_dataclass(kind) else set()
        whole = not starts and not SHOWING & vars(kind).keys()
        for name, member in vars(kind).items():
            now = whole or name.startswith("__") or name in starts | switches
            if _is_written(name, member) and not (starts and name in switches):  # these are in every key
                self._wait(name, kind, f"{kind.__module__}.{kind.__qualname__}", now=now)

    def _wait(self, member: str, holder: Any, name: str, *, now: bool = False) -> None:
        """Count a member as soon as it is mentioned, or now if it already is."""
        queue = self._next if now or member in self._mentioned else self._waiting.setdefault(member, [])
        queue.append((holder, member, f"{name}.{member}"))

    def _described(self, value: Any, name: str) -> str:
        """A description that changes if a value may behave differently; `name` is its name in errors."""
        kind = type(value)
        if isinstance(value, _PLAIN) or (kind.__module__ == "typing" and not isinstance(value, type)):
            return f"{kind.__name__} {value!r}"
        if isinstance(value, types.FunctionType | type | types.ModuleType):
            return self._module(value.__name__) if isinstance(value, types.ModuleType) else self._named(value)
        if (parts := _parts(value)) is not None:
            texts = [self._described(part, name) for part in parts]
            return f"{self._named(kind)} {sorted(texts) if isinstance(value, set | frozenset) else texts}"
        if hasattr(value, "__qualname__") and place(value.__module__) == "library":
            return _versioned(f"{value.__module__}.{value.__qualname__}")
        hint = "make it a switch of the study, or make it in the method that needs it"
        raise InputError(f"{name} is a {kind.__qualname__}, whose changes cannot be detected; {hint}.")

    def _module(self, name: str) -> str:
        """Of a followed module, only mentioned names count."""
        if place(name) == "followed" and name not in self.seen:
            self.seen[name] = name
            with suppress(ImportError):  # not installed
                for member in dir(module := import_module(name)):
                    self._wait(member, module, name)
        return _versioned(name)

    def _named(self, value: Any) -> str:
        """A function or a class: described by its code if it is followed, else by its name and its closure."""
        is_function = isinstance(value, types.FunctionType)
        module = value.__globals__.get("__name__") if is_function else value.__module__
        name, where = f"{module}.{value.__qualname__}", place(module)
        if where == "library":  # the decorated function may be the user's
            return f"{_versioned(name)} {self._described(getattr(value, '__wrapped__', None), name)}"
        if value not in self.seen and (where == "followed" or (is_function and "<locals>" in name)):
            self.seen[value] = name
            if is_function:
                held = [cell.cell_contents for cell in value.__closure__ or () if cell != types.CellType()]
                held += [value.__defaults__, value.__kwdefaults__]
            else:
                made = [field.default_factory for field in fields(value)] if is_dataclass(value) else []
                held = [*value.__bases__, *(factory for factory in made if factory is not MISSING)]
                self._members(value)
            code = self.code(value.__code__, value.__globals__) if is_function and where == "followed" else ""
            self.seen[value] = f"{name} {digest([self._described(held, name), code])}"
        return self.seen.get(value, name)

    def code(self, code: types.CodeType, around: Mapping[str, Any]) -> str:
        """Code in normal form, with the values of global names; members that it mentions count from now on."""
        counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_varnames)
        # The higher flags only say how it was compiled, and whether it has a docstring.
        text = [f"{counts} {code.co_flags & 0xFFF} {getattr(code, 'co_exceptiontable', '')}"]
        steps = list(_steps(code))
        for at, (step, value) in enumerate(steps):
            if isinstance(value, types.CodeType):
                text.append(self.code(value, around))
            elif step == "STORE_NAME" and value in _NOTES:
                text.pop()
            elif step not in ("CACHE", "NOP", "RESUME"):
                text.append(f"{step} {value!r}" if type(value) in (int, str) else self._described(value, step))
            if step in ("LOAD_GLOBAL", "LOAD_NAME") and value in around:
                text.append(self._described(around[value], f"{around.get('__name__')}.{value}"))
            elif step == "IMPORT_NAME" and around:
                name = "." * steps[at - 2][1] + value
                text.append(self._module(util.resolve_name(name, around.get("__package__") or "")))
            elif step in _ATTRIBUTES and value not in self._mentioned:
                self._mentioned.add(value)
                self._next += self._waiting.pop(value, ())
        return "\n".join(text)


def _steps(code: types.CodeType) -> Iterator[tuple[str, Any]]:
    """Instructions and their arguments: a constant, a name, a number."""
    for step in dis.get_instructions(code):
        if step.opname != "EXTENDED_ARG":
            names = step.opname == "KW_NAMES"  # names of keywords at a call, which Python 3.11 does not look up
            yield step.opname, code.co_consts[step.arg or 0] if names else step.argval


@cache
def _versioned(name: str) -> str:
    """A name, with its library's version if known, except for mechicl and Python."""
    root = name.split(".")[0]
    if root == "mechicl" or root in sys.stdlib_module_names:
        return name
    with suppress(PackageNotFoundError):
        return f"{name} {version(root)}"
    with suppress(ImportError):  # imported, so that the answer does not depend on what was imported before
        return f"{name} {getattr(import_module(root), '__version__', '')}"
    return name


def _is_written(name: str, member: Any) -> bool:
    """Whether a class's member was written by hand; dataclasses, named tuples and Python generate special ones."""
    if not name.startswith("__"):
        return not name.startswith("_abc_")
    code = getattr(inspect.unwrap(getattr(member, "__func__", member)), "__code__", None)
    return name not in _NOTES and (
        isinstance(member, property) or getattr(code, "co_filename", "<string>") != "<string>"
    )


def _parts(value: Any) -> Iterable[Any] | None:
    """The parts of a value; None if unknown."""
    if isinstance(value, torch.Tensor):
        return value.dtype, tuple(value.shape), _parts(value.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    if isinstance(value, np.ndarray):
        raw = hashlib.sha256(value.tobytes()).hexdigest() if not value.dtype.hasobject else value.tolist()
        return value.dtype, value.shape, raw
    if isinstance(value, list | tuple | set | frozenset | dict):
        return value.items() if isinstance(value, dict) else value
    names = next(names for kind, names in _HELD.items() if isinstance(value, kind))
    names = tuple(field.name for field in fields(value)) if is_dataclass(value) else names
    return [getattr(value, name) for name in names] if all(hasattr(value, name) for name in names) else None
