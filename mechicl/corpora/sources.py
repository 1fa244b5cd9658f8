"""Sources of running text: the hub, local files, strings, Python's own documentation, or tiny-icl's language. A
document is one string.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from reprlib import repr as shorten
from typing import Any

import numpy as np

from mechicl.corpora import pydocs
from mechicl.errors import InputError, check_unicode, first_line, one_sentence, retold
from mechicl.files.rows import READERS, file_kind, is_saved, open_text, read_rows
from mechicl.files.splits import split_files
from mechicl.models import hub

DOCUMENT_END = "<|endoftext|>"
"""Separates documents in a plain text file, as in TinyStories and OpenWebText."""
SHUFFLE_BUFFER = 10_000
"""Size of the buffer in which a hub stream's documents are shuffled."""
TINY_ICL = "tiny-icl"
PYDOCS = "pydocs"

_SUFFIXES = (".txt", *READERS)


@dataclass(frozen=True)
class Documents:
    """Texts in reading order."""

    name: str
    read: Callable[[], Iterator[str]]
    endless: bool = False
    """Whether this is too long to read completely."""
    origin: Mapping[str, Any] = field(default_factory=dict)
    """Plain values for provenance that identify the text beyond its name."""


def open_source(
    source: str | Path | Sequence[str], *, column: str, split: str, shuffle_seed: int | None, words: int
) -> Documents:
    """Find the documents of `source`.

    Args:
        source: A list of texts, the path of a file or a folder, "pydocs", "tiny-icl", or the id of a hub data set.
        column: Column with a row's text.
        split: Split of a hub data set.
        shuffle_seed: Seed of the documents' order; None keeps the original order.
        words: Length of a document in tiny-icl's language.

    Raises:
        InputError: There is no such file, or Python comes without its sources. Errors inside documents are raised when
            they are read.
    """
    if not isinstance(source, str | Path):
        return _shuffled(f"{len(source)} given text{'s' * (len(source) > 1)}", lambda: _given(source), shuffle_seed)
    path = Path(source).expanduser()
    if not str(source).strip():
        raise InputError("The text has no name; give a file, a folder, a hub data set, 'pydocs' or 'tiny-icl'.")
    with one_sentence(f"The text {shorten(str(source))}"):
        there = path.exists()
    if there:
        return _shuffled(str(source), lambda: _local(path, column, split), shuffle_seed)
    if source == TINY_ICL:
        return Documents(TINY_ICL, lambda: _generated(words, shuffle_seed or 0), endless=True)
    if source == PYDOCS:
        texts = pydocs.documents()
        return replace(_shuffled(PYDOCS, lambda: iter(texts), shuffle_seed), origin=pydocs.origin(texts))
    if isinstance(source, Path) or file_kind(path) in _SUFFIXES or source.startswith((".", "/", "~")):
        raise InputError(f"There is no file or folder {source}; give the path of the text.")
    if any(character.isspace() for character in source):
        raise InputError(f"{shorten(source)} names no text; if it is one, give it in a list: [text].")
    return Documents(f"{source} ({split})", lambda: _hub(source, column, split, shuffle_seed), endless=True)


def _shuffled(name: str, read: Callable[[], Iterator[str]], seed: int | None) -> Documents:
    def in_order() -> Iterator[str]:
        texts = list(read())
        return (texts[i] for i in np.random.default_rng(seed).permutation(len(texts)))

    return Documents(name, read if seed is None else in_order)


def _given(texts: Sequence[str]) -> Iterator[str]:
    for number, text in enumerate(texts):
        where = f"Text {number} of the {len(texts)} given"
        if not isinstance(text, str):
            raise InputError(f"{where} is {shorten(text)}; expected a text.")
        check_unicode(text, where)
        yield text


def _local(path: Path, column: str, split: str) -> Iterator[str]:
    for file in _files(path, split):
        if file_kind(file) == ".txt":
            with one_sentence(file), open_text(file) as opened:
                yield from opened.read().split(DOCUMENT_END)
        else:
            yield from (_text(row, column, where) for where, row in read_rows(file))


def _files(path: Path, split: str) -> list[Path]:
    """The files with text; JSON in a folder may describe other files, so it counts only if there is nothing else."""
    if path.is_file() or is_saved(path):
        return [path]
    inside = sorted(file for file in path.iterdir() if file_kind(file) in _SUFFIXES)
    files = [file for file in inside if file.suffix != ".json"] or split_files(path, split) or inside
    if not files:
        raise InputError(f"The folder {path} has no text; expected files {', '.join(_SUFFIXES)}.")
    return files


def _text(row: object, column: str, where: str) -> str:
    text = row.get(column) if isinstance(row, dict) else None
    if not isinstance(text, str):
        found = ", ".join(map(str, row)) if isinstance(row, dict) else "none"
        raise InputError(f"{where}: no text in column '{column}' (columns: {found}); name the column.")
    check_unicode(text, f"{where}: the text")
    return text


def _generated(words: int, seed: int) -> Iterator[str]:
    from mechicl.shipped import running_text

    for block in count():
        state = np.random.SeedSequence([seed, block]).generate_state(1)
        yield from running_text(32, words, int(state[0]))


def _hub(name: str, column: str, split: str, seed: int | None) -> Iterator[str]:
    from datasets import load_dataset

    def refusal(error: Exception) -> str:
        return (
            f"The data set {name} could not be read from the Hugging Face hub ({first_line(error)}); check "
            'name and network, or give "pydocs" or the path of a local text, JSONL or parquet file.'
        )

    # A closed network, a proxy, a wrong name: the libraries below raise unrelated types for one event.
    with retold(refusal), hub.at_hand():
        rows = load_dataset(name, split=split, streaming=True)
        if seed is not None:
            rows = rows.shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER)
        for number, row in enumerate(rows):
            yield _text(row, column, f"{name} ({split}), row {number}")
