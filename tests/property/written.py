"""Data of every kind on disk, and every way in which they come broken."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mechicl.files.rows import open_text
from tests.property.cases import Case
from tests.tasks.test_labels import KINDS as ONE_FILE
from tests.tasks.test_labels import zstandard

Rows = list[dict[str, Any]]


@dataclass
class Written:
    """A task's data as they lie on disk."""

    case: Case
    """The task and exactly the rows that were written: what a kind cannot hold was replaced before."""
    given: Any
    """The data in the task file: a path, or rows."""
    file: Path
    """The file that damage is done to."""
    line: Callable[[int], str]
    """Where row k of the train rows stands, as messages say it: a pattern."""


def write(case: Case, kind: str, folder: Path) -> Written:
    """The data of a task in one of the kinds; beside the last five its test rows are not written."""
    case = _holdable(case, kind)
    if kind == "task file":
        given = {"train": case.train, "test": case.test}
        file = folder / "task.json"
        where = r"(Row {0} of the train rows in the task file|data\.train\[{0}\])"
        return Written(case, given, file, lambda k: where.format(k))
    if kind == "snapshot":
        half = -(-len(case.train) // 2)
        for name, rows in {"train-00000-of-00002": case.train[:half], "train-00001-of-00002": case.train[half:],
                           "test-00000-of-00001": case.test}.items():  # fmt: skip
            (folder / "data").mkdir(exist_ok=True)
            ONE_FILE["parquet"](folder / "data" / f"{name}.parquet", _one_type(rows, case.train + case.test))
        file = folder / "data" / "train-00000-of-00002.parquet"
        where = r"train-0000{}-of-00002\.parquet, row {}"
        return Written(case, str(folder), file, lambda k: where.format(k // half, k % half))
    if kind == "folder":
        ONE_FILE["csv"](folder / "train.csv", _as_strings(case.train))
        ONE_FILE["jsonl"](folder / "test.jsonl", case.test)
        return Written(case, ".", folder / "train.csv", _lines_of(folder / "train.csv", case.train))
    case = replace(case, test=[])
    path = folder / f"data [b],.{kind}"
    rows = _one_type(case.train, case.train) if kind in ("parquet", "arrow", "saved") else case.train
    path = ONE_FILE[kind](path, _as_strings(rows) if "sv" in kind else rows)
    file = next(path.glob("*.arrow")) if path.is_dir() else path
    if kind.startswith("csv"):
        return Written(case, path.name, file, _lines_of(path, case.train))
    line = {"tsv": lambda k: f"line {k + 2}", "jsonl": lambda k: f"line {k + 1}"}
    return Written(case, path.name, file, line.get(kind.partition(".")[0], lambda k: f"row {k}"))


KINDS = (*ONE_FILE, "task file", "snapshot", "folder")


def _holdable(case: Case, kind: str) -> Case:
    """The task with rows that this kind of file can hold."""

    def fitting(text: Any) -> Any:
        if text is None and kind in ("csv", "csv.gz", "tsv"):  # which have no other way to leave out
            return ""
        if not isinstance(text, str):
            return text
        if kind == "tsv":
            text = text.replace("\n", " ").replace("\r", " ").replace("\t", " ")
        if kind in ("csv", "csv.gz", "tsv", "parquet", "arrow", "saved", "snapshot", "folder"):  # all are UTF-8
            text = text.encode("utf-8", "replace").decode()
        return text

    def held(rows: Rows) -> Rows:
        return [{column: fitting(value) for column, value in row.items()} for row in rows]

    train = held(case.train)
    if kind == "folder":  # its train file is CSV
        train = [{column: "" if value is None else value for column, value in row.items()} for row in train]
    return replace(case, train=train, test=held(case.test))


def _as_strings(rows: Rows) -> Rows:
    """As the csv module writes them."""
    return [{name: "" if value is None else str(value) for name, value in row.items()} for row in rows]


def _one_type(rows: Rows, all_rows: Rows) -> Rows:
    """Columns of one type, as tables have them: labels of several types become texts."""
    label = list(all_rows[0])[1]
    if len({type(row[label]) for row in all_rows} - {type(None)}) < 2:
        return rows
    return [row | {label: None if row[label] is None else str(row[label])} for row in rows]


def _lines_of(path: Path, rows: Rows) -> Callable[[int], str]:
    """The line on which each row of a CSV file ends: texts may hold ends of lines."""
    import csv
    import io

    sink, ends = io.StringIO(newline=""), []
    writer = csv.DictWriter(sink, list(rows[0]) if rows else [])
    writer.writeheader()
    for row in _as_strings(rows):
        writer.writerow(row)
        ends.append(len(io.StringIO(sink.getvalue(), newline="").readlines()))
    return lambda k: f"line {ends[k]}"


def break_file(file: Path, damage: str, seed: int) -> None:
    """Do to a file what happens to files."""
    chance = random.Random(seed)
    content = file.read_bytes()
    if damage in ("absent", "directory"):
        file.unlink()
        if damage == "directory":
            file.mkdir()
        return
    at = chance.randrange(len(content) + 1)
    noise = chance.randbytes(chance.randrange(1, 9))
    file.write_bytes({
        "empty": b"",
        "blank": b" \n\n\t\n",
        "junk": chance.randbytes(200),
        "truncated": content[:at],
        "bytes changed": content[:at] + noise + content[at + len(noise) :],
        "bytes added": content[:at] + noise + content[at:],
        "UTF-16": content.decode("utf-8", "ignore").encode("utf-16"),
        "Latin-1": content + "caf\xe9\n".encode("latin-1"),
        "a quote left open": content + b'"never closed,\n',
        "twice": content + content,
    }[damage])  # fmt: skip


FILE_DAMAGE = (
    "absent", "directory", "empty", "blank", "junk", "truncated", "bytes changed", "bytes added", "UTF-16", "Latin-1",
    "a quote left open", "twice",
)  # fmt: skip


def break_rows(case: Case, damage: str, k: int) -> Case:
    """The task with row k of its train rows spoiled."""
    text, label = list(case.train[0])
    row = dict(case.train[k])
    if damage == "an unknown label":
        row[label] = "no class has this name"
    elif damage == "a text that is none":
        row[text] = None
    elif damage == "half a character":
        row[text] = "half \ud83d"
    return replace(case, train=[*case.train[:k], row, *case.train[k + 1 :]])


ROW_DAMAGE = ("an unknown label", "a text that is none", "half a character")


def break_columns(written: Written, kind: str, damage: str) -> None:
    """Give the column of the labels another name, or that of the texts."""
    text, label = list(written.case.train[0])
    new = text if damage == "a column twice" else "a column that nobody asked for"
    if kind in ("parquet", "arrow", "saved", "snapshot"):
        import pyarrow as pa
        from pyarrow import parquet

        one = written.file.suffix == ".parquet"
        table = parquet.read_table(written.file) if one else pa.ipc.open_stream(written.file.read_bytes()).read_all()
        table = table.rename_columns([text, new])
        if one:
            return parquet.write_table(table, written.file)
        with pa.OSFile(str(written.file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        return None
    with open_text(written.file) as file:
        content = file.read()
    if kind in ("csv", "csv.gz", "tsv", "folder"):
        mark = "\t" if kind == "tsv" else ","
        rows = content.partition("\n")[2]
        content = mark.join([_in_csv(text), _in_csv(new)]) + "\n" + rows
    else:
        content = content.replace(f"{json.dumps(label)}: ", f"{json.dumps(new)}: ")
    plain = content.encode()
    squeeze = {"csv.gz": gzip.compress, "jsonl.zst": zstandard}.get(kind, bytes)
    written.file.write_bytes(squeeze(plain))


def _in_csv(name: str) -> str:
    return f'"{name}"' if "," in name else name


COLUMN_DAMAGE = ("no such column", "a column twice")


def task_file(case: Case, given: Any, folder: Path) -> Path:
    """The task in a file."""
    facts = {"template": case.template, "separator": case.separator, "label_words": case.words, "data": given}
    facts |= {"columns": case.columns} if case.columns else {}
    path = folder / "task.json"
    path.write_text(json.dumps(facts if case.name is None else facts | {"name": case.name}), encoding="utf-8")
    return path
