"""Digest of the part of mechicl's own code that measures: a comment, a docstring, a message or a figure is not in it.

Packages that measure are read whole. Of all others, studies above all, only definitions count that measuring leads to:
from a starting point on, every name that code mentions is followed to its definition, in whichever module that is. Code
is read as syntax trees, without docstrings, annotations and the words of errors and warnings.
"""

from __future__ import annotations

import ast
import gc
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

PACKAGE = Path(__file__).parent
SHOWS = frozenset(
    ("cli", "explorer", "figures", "report", "shipped", "studies", "__init__", "cache", "code_digest", "declared",
     "display", "errors", "hub", "json_files", "progress", "prompts.display", "results", "running_code", "text",
     "versions")
)  # fmt: skip
"""Parts of mechicl that show, keep or declare. What measuring code calls of them counts all the same."""
_WITHOUT_EFFECT = frozenset(
    f"mechicl.{name}" for name in ("cache", "declared", "hub", "progress", "results", "versions")
)
"""Modules that measuring calls without an effect on numbers: bars, checks, files of which a digest is known."""
MEASURING = ("measure", "measure_all", "conditions", "settings", "surroundings", "_checked")
"""The methods of a study by which a cell is made."""
SHOWING = frozenset(("summary", "figure", "finding"))
"""Methods that make a class one of which only those members count that measuring mentions."""

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_DEFINITIONS = (*_FUNCTIONS, ast.ClassDef)


class Imported(NamedTuple):
    """What a name stands for that was imported: `from module import name`, or the module."""

    module: str
    name: str | None


class Reach:
    """Definitions in mechicl's sources that measuring leads to; `texts` are their code in normal form."""

    def __init__(self, package: Path = PACKAGE) -> None:
        self.sources = _sources(package)
        self.texts: set[str] = set()
        self.modules: set[str] = set()
        """Modules of which something counts."""
        self._seen: set[tuple[str, str | None]] = set()
        self._mentioned: set[str] = set()
        self._waiting: dict[str, list[Callable[[], None]]] = {}
        self._next: list[Imported] = []

    def follow(self, *places: Imported) -> None:
        """Count definitions, and all that they lead to."""
        self._next += places
        while self._next:
            place = self._next.pop()
            if place not in self._seen:
                self._seen.add(place)
                self._open(*place)

    def study(self, module: str, name: str, *, starts: Iterable[str] = MEASURING) -> None:
        """Count what a study in mechicl measures by; its fields are left out, for their values are in every key."""
        for node in _kept_index(self.sources[module]).get(name, ()):
            if isinstance(node, ast.ClassDef):
                self._members(module, node, frozenset(starts))
        self.follow()

    def mention(self, names: Iterable[str]) -> None:
        """Names that code mentions after a dot: members of studies and modules with these names count."""
        for name in set(names) - self._mentioned:
            self._mentioned.add(name)
            for count in self._waiting.pop(name, ()):
                count()

    def wait(self, name: str, count: Callable[[], None]) -> None:
        """Have something counted as soon as its name is mentioned, or now if it was."""
        if name in self._mentioned:
            count()
        else:
            self._waiting.setdefault(name, []).append(count)

    def whole(self, module: str) -> None:
        """Count all of a module, and what it calls of modules that do not count whole."""
        index, names = _index(self.sources[module]), set[str]()
        for name, nodes in index.items():
            for node in nodes:
                if not isinstance(node, Imported):
                    names |= self._read(module, name, node)
        self.follow(*(one for name in names for one in index.get(name, ()) if isinstance(one, Imported)))

    def _open(self, module: str, name: str | None) -> None:
        if f"{module}.{name}" in self.sources:
            module, name = f"{module}.{name}", None
        if module not in self.sources:
            self.texts.add(f"{module} {name}")
        elif module not in _WITHOUT_EFFECT and not measures(module):
            index = _kept_index(self.sources[module])
            if name is None:
                self._wait_for_all(module, index)
            for node in index.get(name or "", ()):
                if isinstance(node, ast.ClassDef) and _shows(node):
                    self._members(module, node, frozenset(), whole=True)
                else:
                    self._add(module, name or "", node)

    def _wait_for_all(self, module: str, index: Mapping[str, Sequence[ast.AST | Imported]]) -> None:
        """Of a module that was imported, each name counts as soon as it is mentioned."""
        inside = {one.rpartition(".")[2]: one for one in self.sources if one.rpartition(".")[0] == module}
        for place in (*(Imported(module, name) for name in index), *(Imported(module, name) for name in inside)):
            self.wait(str(place.name), partial(self._next.append, place))

    def _members(self, module: str, node: ast.ClassDef, starts: frozenset[str], *, whole: bool = False) -> None:
        """Of a class that shows: what is asked for, special methods, and what measuring mentions sooner or later."""
        self._next += [Imported(module, name) for base in node.bases for name in _Reader(base).names]
        for member in node.body:
            name = next(iter(_names(member)), "")
            if isinstance(member, _FUNCTIONS):
                special = name.startswith("__") and node.name != "Study"
            else:
                special = whole and isinstance(member, ast.AnnAssign) and not _is_class_variable(member)
                if isinstance(member, ast.AnnAssign) and not (special or _is_class_variable(member)):
                    continue
            count = partial(self._add, module, f"{node.name}.{name}", member)
            if special or name in starts:
                count()
            else:
                self.wait(name, count)

    def _add(self, module: str, name: str, node: ast.AST | Imported) -> None:
        if isinstance(node, Imported):
            self._next.append(node)
            return
        self._next += [Imported(module, one) for one in self._read(module, name, node)]

    def _read(self, module: str, name: str, node: ast.AST) -> set[str]:
        """Take down code; returns the names that it mentions."""
        text = _Reader(node)
        self.modules.add(module)
        self.texts.add(f"{module} {name} {' '.join(text.out)}")
        self._next += text.imported
        self.mention(text.attributes)
        return text.names


@cache
def _sources(package: Path) -> dict[str, Path]:
    """Every module of mechicl, and its file."""
    paths = sorted(package.rglob("*.py"))
    names = [".".join(("mechicl", *path.relative_to(package).with_suffix("").parts)) for path in paths]
    return {name.removesuffix(".__init__"): path for name, path in zip(names, paths, strict=True)}


def measures(module: str) -> bool:
    """Whether a module of mechicl is one of those that count whole."""
    parts = module.split(".")[1:] or ["__init__"]
    return parts[0] not in SHOWS and ".".join(parts) not in SHOWS


@cache
def measuring_code(package: Path = PACKAGE) -> str:
    """Sha256, shortened, of all that measures whatever the study is."""
    reach, running = Reach(package), gc.isenabled()
    gc.disable()  # a hundred thousand nodes that all stay: collecting between takes as long as parsing
    try:
        for module in filter(measures, reach.sources):
            reach.whole(module)
    finally:
        if running:
            gc.enable()
    return digest(reach.texts)


def digest(texts: Iterable[str]) -> str:
    """Sha256, shortened, of texts in any order."""
    return hashlib.sha256("\n".join(sorted(texts)).encode(errors="surrogatepass")).hexdigest()[:16]


@cache
def _kept_index(path: Path) -> dict[str, list[ast.AST | Imported]]:
    return _index(path)


def _index(path: Path) -> dict[str, list[ast.AST | Imported]]:
    """What each name at the top of a file stands for; a name may be given more than once, all of it counts."""
    found: dict[str, list[ast.AST | Imported]] = {}
    for node in _statements(ast.parse(path.read_bytes()).body):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for name, imported in _imports(node):
                found.setdefault(name, []).append(imported)
        elif not _is_words(node):
            for name in _names(node) or {""}:
                found.setdefault(name, []).append(node)
    return found


def _statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements at the top of a file, and those under an `if` or `try` there."""
    for node in body:
        if isinstance(node, ast.If | ast.Try):
            yield from _statements([*node.body, *node.orelse, *getattr(node, "finalbody", ())])
            yield from _statements(one for handler in getattr(node, "handlers", ()) for one in handler.body)
        else:
            yield node


def _imports(node: ast.Import | ast.ImportFrom) -> list[tuple[str, Imported]]:
    if isinstance(node, ast.ImportFrom):
        return [(one.asname or one.name, Imported(node.module or "", one.name)) for one in node.names]
    first = [one.name if one.asname else one.name.split(".")[0] for one in node.names]
    return [(one.asname or name, Imported(name, None)) for one, name in zip(node.names, first, strict=True)]


def _names(node: ast.AST) -> set[str]:
    """The names that a statement defines or changes."""
    if isinstance(node, _DEFINITIONS):
        return {node.name}
    if isinstance(node, ast.Expr):
        targets: list[ast.expr] = [node.value]
    elif isinstance(node, ast.Assign):
        targets = [one for target in node.targets for one in getattr(target, "elts", [target])]
    elif isinstance(node, ast.AnnAssign | ast.AugAssign):
        targets = [node.target]
    else:  # a loop, a `with`: all that it mentions
        return {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}
    return {name for target in targets if (name := _root(target))}


def _root(node: ast.expr) -> str:
    """The name at which an expression such as `a.b[0].c()` begins."""
    while not isinstance(node, ast.Name):
        inside = getattr(node, "value", None) or getattr(node, "func", None)
        if not isinstance(inside, ast.expr):
            return ""
        node = inside
    return node.id


def _shows(node: ast.ClassDef) -> bool:
    return any(isinstance(one, _FUNCTIONS) and one.name in SHOWING for one in node.body)


def _is_class_variable(node: ast.AnnAssign) -> bool:
    return "ClassVar" in ast.unparse(node.annotation)


def _is_words(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


class _Reader:
    """Writes code in normal form, and notes what it mentions."""

    def __init__(self, node: ast.AST) -> None:
        self.out: list[str] = []
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.imported: list[Imported] = []
        self.said = False
        """Whether it is inside an error or a warning, whose words do not count."""
        self.read(node)

    def read(self, node: Any) -> None:
        kind = node.__class__
        if kind is ast.Name:
            self.names.add(node.id)
            self.out.append(node.id)
        elif kind is ast.Constant:
            if not (self.said and isinstance(node.value, str)):
                self.out.append(repr(node.value))
        elif not self._skipped(node, kind):
            before = self.said
            self.said = before or kind is ast.Raise or (kind is ast.Call and _root(node.func) == "warnings")
            self.out.append(kind.__name__)
            for field in kind._fields:
                if field not in _NOT_READ:
                    self._value(getattr(node, field))
            self.said = before

    def _skipped(self, node: Any, kind: type[ast.AST]) -> bool:
        """Whether it only says something; what it mentions otherwise is noted."""
        if kind is ast.Attribute:
            self.attributes.add(node.attr)
        elif kind is ast.Import or kind is ast.ImportFrom:
            self.imported += [one for _, one in _imports(node)]
        elif kind is ast.JoinedStr:
            return self.said
        elif kind is ast.Expr:
            return _is_words(node)
        elif kind in _FUNCTIONS:
            return str(node.name).startswith(("_repr_", "_ipython_display_"))
        return False

    def _value(self, value: Any) -> None:
        if isinstance(value, ast.AST):
            self.read(value)
        elif isinstance(value, list):
            self.out.append("[")
            for one in value:
                self._value(one)
            self.out.append("]")
        elif value is not None:
            self.out.append(repr(value))


_NOT_READ = frozenset(("ctx", "annotation", "returns", "type_comment", "kind", "type_params"))
