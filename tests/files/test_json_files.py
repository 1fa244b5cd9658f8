"""JSON from outside: what is right is read as Python's own reader reads it, what is wrong is one sentence with its place."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

import mechicl
from mechicl.errors import InputError
from mechicl.files.json_files import parse_json, read_json, read_object

DEEP = "[" * 5000 + "]" * 5000

WRONG: dict[str, tuple[bytes, str]] = {
    "empty": (b" \n", "is empty"),
    "cut off": (b'{"a": [1,\n 2', r"is not JSON \(Expecting ',' delimiter at line 2, column 3\)"),
    "words": (b"negative", r"is not JSON \(Expecting value at column 1\)"),
    "cut in a text": (b'{"a', r"\(Unterminated string starting at column 2\)"),
    "trailing": (b"{} {}", r"is not JSON \(Extra data at column 4\)"),
    "single quotes": (b"{'a': 1}", r"is not JSON \(.*double quotes at column 2\)"),
    "latin-1": ('{"a": "café"}'.encode("latin-1"), r"is not UTF-8 text \(byte 10"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "is not UTF-8 text"),
    "bytes": (bytes(range(128, 256)), "is not UTF-8 text"),
    "5000 levels": (DEEP.encode(), "nested more than 100 levels deep"),
    "101 levels": (('{"a":' * 101 + "1" + "}" * 101).encode(), "nested more than 100 levels deep"),
    "a key twice": (b'{"x": {"no": 1, "no": 2}}', "has the key 'no' twice"),
    "9999 digits": (b'{"a": ' + b"9" * 9999 + b"}", "an integer of thousands of digits"),
}
PYTHONS_OWN: dict[str, tuple[bytes, str]] = {
    "NaN": (b'{"a": NaN}', "holds NaN, which JSON does not have"),
    "Infinity": (b"[-Infinity]", "holds -Infinity"),
    "too large": (b"[1e999]", "holds the number 1e999, which is too large"),
    "half a character": (
        b'{"a": [{"b": "x\\ud83d"}]}',
        r"the text at a\[0\]\.b, contains an unpaired surrogate, \\ud83d",
    ),
    "half a key": (b'{"a": {"\\ude42": 1}}', r"a key at a, contains an unpaired surrogate, \\ude42, at character 0"),
}
"""What Python's `json` writes and reads, and nobody else."""


def told(path: Path, **how: Any) -> str:
    with pytest.raises(InputError) as refusal:
        read_json(path, "task file", remedy="mend it", **how)
    return str(refusal.value)


@pytest.mark.parametrize("name", [*WRONG, *PYTHONS_OWN])
def test_what_is_wrong_is_one_sentence_with_file_and_place(name: str, tmp_path: Path) -> None:
    content, message = {**WRONG, **PYTHONS_OWN}[name]
    path = tmp_path / "task.json"
    path.write_bytes(content)
    sentence = told(path)
    assert sentence.startswith(f"The task file {path}")
    with pytest.raises(InputError, match=message):
        read_json(path, "task file")
    assert "\n" not in sentence
    assert len(sentence) < 300 + len(str(path))
    sentence.encode()
    if name in PYTHONS_OWN:
        read_json(path, "result", lenient=True)
    else:
        assert told(path, lenient=True) == sentence


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_what_is_right_is_read_as_it_stands(mark: bytes, tmp_path: Path) -> None:
    """With a byte order mark too; a whole pair of surrogates is a character, and 10**30 a number that files do hold."""
    content = {
        "emoji": "\U0001f642",
        "deep": json.loads("[" * 90 + "]" * 90),
        "large": 10**30,
        "no": [None, True, -1.5],
    }
    path = tmp_path / "a.json"
    path.write_bytes(mark + json.dumps(content).encode())
    assert read_json(path, "file") == content
    assert read_object(path, "file") == content


@pytest.mark.parametrize(
    ("content", "kind"),
    [("[]", "a list"), ("1.5", "a number"), ('"a"', "a text"), ("null", "null"), ("true", "true or")],
)
def test_only_an_object_is_an_object(content: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(InputError, match=f"holds {kind}.*; expected an object; correct it there"):
        read_object(path, "file")


def test_paths_that_cannot_be_read(tmp_path: Path) -> None:
    for path, message in (
        (tmp_path / "absent", "No such file"),
        (tmp_path, "directory"),
        (Path("a\0"), "null character"),
    ):
        with pytest.raises(InputError, match=message):
            read_json(path, "file")


def test_a_line_is_named_as_its_caller_names_it() -> None:
    with pytest.raises(InputError, match=r"^a\.jsonl, line 3 is not JSON \(Expecting value at column 1\); mend it\.$"):
        parse_json("x", "a.jsonl, line 3", remedy="mend it")


def test_nobody_else_reads_json() -> None:
    """A file that is read around this door brings its errors back; what mechicl itself made may be read."""
    own = {"json_files.py", "results.py", "finish.py", "limits.py", "declared.py"}
    sources = [path for path in Path(mechicl.__file__).parent.rglob("*.py") if "models" not in path.parts]
    for path in sources:
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        loads = [f for f in calls if isinstance(f, ast.Attribute) and f.attr in ("load", "loads")]
        readers = [f for f in loads if isinstance(f.value, ast.Name) and f.value.id == "json"]
        assert not readers or path.name in own, path
