"""Running text that comes with every Python: English prose from the docstrings of its standard library.

Sources are parsed and never imported, so no code in them runs. The text differs between Python versions, so a corpus
records the version and a digest of the text.
"""

from __future__ import annotations

import ast
import gc
import inspect
import os
import platform
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from pathlib import Path

from mechicl.corpora.prose import MIN_WORDS, paragraphs
from mechicl.errors import InputError

_EDGE = 10
"""Number of words at its start, and at its end, in which a paragraph must differ from all earlier ones."""

_STDLIB = Path(sysconfig.get_path("stdlib"))
_NOT_READ = {
    "__pycache__", "site-packages", "dist-packages", "test", "tests", "encodings", "idlelib", "lib2to3",
}  # fmt: skip
"""Folders to skip: installed packages, tests, tables, and programs that many Python installations lack."""
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_DOCUMENTED = (ast.Module, ast.ClassDef, *_FUNCTIONS)
_TOPICS = Path("pydoc_data", "topics.py")
"""The language reference as plain text: a dictionary of topics, each of which is a document."""


@cache
def documents(stdlib: Path = _STDLIB) -> tuple[str, ...]:
    """A document per module with prose, in order of their paths, and one per topic of the language reference.

    Paragraphs of a document are separated by an empty line; none of them begins or ends like an earlier one.

    Args:
        stdlib: The folder of the standard library's sources.

    Raises:
        InputError: The folder has no sources.
    """
    seen: set[str] = set()
    found = []
    with warnings.catch_warnings(), _no_garbage_collection():
        warnings.simplefilter("ignore")  # Invalid escapes: with -W error the module would be lost.
        for path in _modules(stdlib):
            for texts in _texts(path, is_topics=path.relative_to(stdlib) == _TOPICS):
                kept = [prose for text in texts for prose in paragraphs(text) if _is_new(prose, seen)]
                if kept:
                    found.append("\n\n".join(kept))
    if not found:
        raise InputError(
            f"The text 'pydocs' is read from the sources of Python's standard library, and {stdlib} has none; give a "
            "file or a folder of text instead."
        )
    return tuple(found)


def origin(texts: Sequence[str]) -> dict[str, str]:
    """Provenance of these documents: the Python version and the SHA-256 of the text."""
    return {"python": platform.python_version(), "text_digest": sha256("\0".join(texts).encode()).hexdigest()}


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A syntax tree has many objects but no cycles, and collecting garbage would take as long as parsing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _modules(stdlib: Path) -> list[Path]:
    """Paths of the modules, without tests and installed packages."""
    paths = []
    for folder, folders, files in os.walk(stdlib):
        folders[:] = [name for name in folders if name not in _NOT_READ]
        paths += [Path(folder, file) for file in files if file.endswith(".py")]
    return sorted(paths, key=lambda path: path.relative_to(stdlib).parts)


def _texts(path: Path, is_topics: bool) -> Iterator[list[str]]:
    """The texts of a module, a list per document; empty if it cannot be parsed."""
    try:
        tree = ast.parse(path.read_bytes())
        if is_topics:
            for node in tree.body:
                if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
                    yield from ([text] for text in ast.literal_eval(node.value).values())
        else:
            yield list(_docstrings(tree))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return


def _docstrings(node: ast.AST) -> Iterator[str]:
    """Docstrings of a module, its classes and functions, in the order of the source; too short ones are left out."""
    if isinstance(node, _DOCUMENTED):
        text = ast.get_docstring(node, clean=False) or ""
        if len(text.split()) >= MIN_WORDS:
            yield inspect.cleandoc(text)
    if not isinstance(node, _FUNCTIONS):
        for field in ("body", "handlers", "orelse", "finalbody"):
            for child in getattr(node, field, ()):
                yield from _docstrings(child)


def _is_new(paragraph: str, seen: set[str]) -> bool:
    words = paragraph.lower().split()
    edges = {" ".join(words[:_EDGE]), " ".join(words[-_EDGE:])}
    if edges & seen:
        return False
    seen |= edges
    return True
