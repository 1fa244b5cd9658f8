"""Files and folders: what is read, and the one sentence about what is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mechicl.errors import InputError
from mechicl.tasks import Splits, Task, load_task
from tests.prompts.vocabularies import byte_level
from tests.tasks.rows import rows

ROWS = rows("sst2", 3)


def write_jsonl(path: Path, content: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in content) + "\n", encoding="utf-8")
    return path


def write_table(path: Path, content: list[dict[str, Any]], delimiter: str) -> Path:
    import csv

    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(content[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(content)
    return path


def write_tsv(path: Path, content: list[dict[str, Any]]) -> Path:
    """Without quotes, which TSV does not have, so a text cannot hold an end of line."""
    lines = [list(content[0]), *(row.values() for row in content)]
    path.write_text("".join("\t".join(map(str, line)).replace("\n", " ") + "\n" for line in lines), encoding="utf-8")
    return path


def write_json(path: Path, content: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return path


def write_arrow(path: Path, content: list[dict[str, Any]]) -> Path:
    """A stream, as `datasets` keeps its data."""
    import pyarrow as pa

    table = pa.Table.from_pylist(content)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    return path


def write_parquet(path: Path, content: list[dict[str, Any]]) -> Path:
    import pyarrow as pa
    from pyarrow.parquet import write_table as write

    write(pa.Table.from_pylist(content), path)
    return path


WRITERS = {
    "jsonl": write_jsonl,
    "csv": lambda path, content: write_table(path, content, ","),
    "tsv": lambda path, content: write_tsv(path, content),
    "parquet": write_parquet,
    "json": write_json,
    "arrow": write_arrow,
}


def splits(path: Path, task: str = "sst2") -> Splits:
    return load_task(task, data=path).splits


@pytest.mark.parametrize("kind", sorted(WRITERS))
def test_every_kind_of_file_gives_the_same_examples(kind: str, tmp_path: Path) -> None:
    content = [*ROWS, {"text": 'he said, "NA"\nnull', "label": "positive"}, {"text": "nan", "label": "negative"}]
    read = splits(WRITERS[kind](tmp_path / f"reviews.{kind}", content))
    assert read.queries is None
    one_line = kind == "tsv"
    assert [*read.demonstrations.texts] == [row["text"].replace("\n", " " if one_line else "\n") for row in content]
    assert [("negative", "positive")[c or 0] for c in read.demonstrations.classes] == [row["label"] for row in content]
    assert load_task("sst2", data=str(tmp_path / f"reviews.{kind}")).prompts(byte_level(" N", " P"))


@pytest.mark.parametrize("kind", sorted(WRITERS))
def test_numbers_are_read_through_labels_json(kind: str, tmp_path: Path) -> None:
    numbered = [{**row, "label": 1 - k % 2} for k, row in enumerate(ROWS)]
    path = WRITERS[kind](tmp_path / f"train.{kind}", numbered)
    with pytest.raises(InputError, match=r"the number 1, and nothing says which class that is; .* labels\.json"):
        splits(path)
    (tmp_path / "labels.json").write_text('["positive", "negative"]')
    assert splits(path).demonstrations.classes == tuple(k % 2 for k in range(len(ROWS)))


def test_trec_numbers_mean_what_labels_json_says(tmp_path: Path) -> None:
    """Older copies of TREC number the classes in another order; the names are the same."""
    old = ["DESC", "ENTY", "ABBR", "HUM", "NUM", "LOC"]
    (tmp_path / "labels.json").write_text(json.dumps({"names": old, "long": ["description", *old[1:]]}))
    write_jsonl(
        tmp_path / "train.jsonl",
        [{"text": name, "label": k} for k, name in enumerate(old)] + [{"text": "x", "label": "description"}],
    )
    task = load_task("trec", data=tmp_path)
    read = task.splits.demonstrations
    assert [task.class_names[c or 0] for c in read.classes[:-1]] == list(read.texts[:-1])
    assert task.class_names[read.classes[-1] or 0] == "DESC"


def test_a_folder_has_a_file_for_each_split(tmp_path: Path) -> None:
    for name in ("train", "test", "validation"):
        write_jsonl(
            tmp_path / f"{name}.jsonl", [{"text": name, "label": "Negative "}, {"text": name, "label": "POSITIVE"}]
        )
    both = splits(tmp_path)
    assert both.queries is not None
    assert (both.demonstrations.texts[0], both.queries.texts[0]) == ("train", "validation"), "SST-2 asks validation"
    (tmp_path / "validation.jsonl").unlink()
    remaining = splits(tmp_path).queries
    assert remaining is not None
    assert remaining.texts[0] == "test"
    (tmp_path / "test.jsonl").unlink()
    assert splits(tmp_path).queries is None


def test_a_byte_order_mark_and_blank_lines_are_no_data(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b'\n{"text": "a", "label": "positive"}\n\n{"text": "", "label": "negative"}\n')
    assert splits(path).demonstrations.texts == ("a", "")


GOOD = '{"text": "a", "label": "positive"}\n'
BAD = {
    "no_column.jsonl": (
        '{"words": "a", "label": "positive"}\n',
        r"line 1: there is no column 'text' .there are: words, label.; name the columns",
    ),
    "no_label.csv": ("text,class\na,b\n", "line 2: there is no column 'label'"),
    "unknown.jsonl": (
        GOOD + '{"text": "a", "label": "fine"}\n',
        "line 2: the label 'fine' is not a class of this task .negative, positive.",
    ),
    "empty.jsonl": ("", "There are no examples in"),
    "header.csv": ("text,label\n", "There are no examples in"),
    "blank.csv": ('text,label\n" ",negative\n"",positive\n', "Every text in"),
    "empty.csv": ("", "There are no examples in"),
    "not_json.jsonl": (GOOD + "text: a\n", "line 2 is not JSON"),
    "list.jsonl": (GOOD + "[1, 2]\n", "line 2 holds a list; expected one object"),
    "number.jsonl": ('{"text": 5, "label": "positive"}\n', "line 1: the text is 5, expected a string"),
    "nan.jsonl": ('{"text": NaN, "label": "positive"}\n', "line 1: the text is nan, expected a string"),
    "null.jsonl": ('{"text": null, "label": "positive"}\n', "line 1: the text is None, expected a string"),
    "nested.jsonl": ('{"text": "a", "label": ["positive"]}\n', r"line 1: the label \['positive'\] is not a class"),
    "twice.csv": ("text,label,text\na,positive,b\n", "line 1: there are 2 columns 'text'; keep one of them"),
    "cased.csv": ("text,Label,category\na,positive,b\nc,other,d\n", "line 3: the label 'other' is not a class"),
    "two.csv": ("sentence,review,label\na,b,positive\n", "line 2: both 'sentence' and 'review' may be the text"),
    "quoted.tsv": ('text\tlabel\n"a\nb"\tpositive\n', "line 2: the row does not have the 2 columns"),
    "object.json": ('[{"text": "a", "label": "positive"}, 5]', "row 1 holds a number; expected one object"),
    "half.json": ('[{"text": "a", ', "half.json is not JSON"),
    "not.csv.gz": ("text,label\n", "not.csv.gz cannot be read"),
    "not.zst": ("text", "not one of the kinds"),
    "not.arrow": ("text", "not.arrow is no arrow file"),
    "flag.jsonl": ('{"text": "a", "label": true}\n', "line 1: the label is the number 1"),
    "short.csv": ("text,label\na,positive\nb\n", "line 3: the row does not have the 2 columns"),
    "long.csv": ("text,label\na, b,positive\n", "line 2: the row does not have the 2 columns"),
    "quote.csv": ('text,label\n"a"b,positive\n', "after line 1: not readable as a table"),
    "not.parquet": ("text", "not.parquet is no parquet file"),
    "latin.jsonl": ('{"text": "caf\udce9", "label": "positive"}\n', "is not UTF-8 text .byte 13"),
    "latin.csv": ("text,label\ncaf\udce9,positive\n", "is not UTF-8 text"),
    "sheet.xlsx": ("", r"not one of the kinds that can be read: \.jsonl, \.json, \.csv, \.tsv, \.parquet"),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_bad_data_is_one_sentence_with_file_and_line(name: str, tmp_path: Path) -> None:
    content, message = BAD[name]
    (tmp_path / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=message) as refusal:
        splits(tmp_path / name)
    assert name in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_refusal_stays_one_line_whatever_names_hold(tmp_path: Path) -> None:
    """Names may hold ends of lines and what commands a terminal; a sentence shows them written out."""
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "a", "label": "x\u2028\x1b[2J"}])
    words = {"two\nlines": " A", "bell\a": " B"}
    with pytest.raises(InputError) as refusal:
        _ = Task("t", "{text}\nA:{label}", words, path).splits
    assert "class of this task (two\\nlines, bell\\x07)" in str(refusal.value)
    assert str(refusal.value).isprintable()


def test_a_refusal_ends_in_one_full_stop(tmp_path: Path) -> None:
    path = write_arrow(tmp_path / "a.arrow", ROWS)
    path.write_bytes(path.read_bytes()[:8] + b"\xff" * 30)
    with pytest.raises(InputError, match=r"a\.arrow .*[^.]\.$"):
        splits(path)


@pytest.mark.parametrize(
    "content", ["{", "5", '"negative"', '{"negative": 0}', "[1, 2]", '{"names": "negative"}', "null"]
)
def test_a_labels_file_of_another_type_is_refused(content: str, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "labels.json").write_text(content)
    with pytest.raises(InputError, match=r"labels\.json .*expected"):
        splits(path)


def test_a_number_beyond_the_names_is_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text('["negative", "positive"]')
    with pytest.raises(InputError, match="line 1: the label is 7, but the data names only 2 classes"):
        splits(write_jsonl(tmp_path / "a.jsonl", [{"text": "a", "label": 7}]))


def test_paths_that_hold_no_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no file or folder .*nowhere"):
        splits(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"no train file; expected train\.jsonl or train\.json"):
        splits(tmp_path)
    for kind in ("csv", "jsonl"):
        WRITERS[kind](tmp_path / f"train.{kind}", ROWS)
    with pytest.raises(InputError, match=r"has train\.csv and train\.jsonl; keep one"):
        splits(tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (["a film"], "Row 0 of the rows given is 'a film'; expected a mapping"),
        ([{"text": "a", "label": 1}], "Row 0 of the rows given: the label is the number 1"),
        ({"train": ROWS}, "Rows are given under 'train'; expected 'train' and 'test'"),
        ([], "There are no examples in the rows given"),
        (5, "is a int; expected a file"),
    ],
)
def test_rows_in_code_are_checked_likewise(data: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        splits(data)
    with pytest.raises(InputError, match="'mine' has no data"):
        _ = load_task("sst2", data=None).__class__("mine", "{text}:{label}", {"a": " A", "b": " B"}).splits


TASK = {"template": "Review: {text}\nSentiment:{label}", "label_words": {"negative": " Bad", "positive": " Good"}}


@pytest.mark.parametrize(
    ("data", "where"),
    [("rows.jsonl", "a file beside it"), (ROWS, "rows"), ({"train": ROWS, "test": ROWS}, "train and test rows")],
)
def test_a_task_file_is_the_task_that_it_describes(data: Any, where: str, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    path = tmp_path / "films.json"
    path.write_text(json.dumps({**TASK, "data": data, "separator": "\n\n"}), encoding="utf-8")
    read = load_task(str(path))
    assert (read.name, read.separator, read.class_names) == ("films", "\n\n", ("negative", "positive"))
    given = tmp_path / "rows.jsonl" if isinstance(data, str) else data
    written = Task("films", TASK["template"], TASK["label_words"], given, separator="\n\n")  # type: ignore[arg-type]
    tokenizer = byte_level()
    asked = {"samples": 2, "seed": 3}
    assert [p.tokens for p in read.prompts(tokenizer, **asked)] == [
        p.tokens for p in written.prompts(tokenizer, **asked)
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "holds a list; expected an object; its fields are name, template"),
        (json.dumps({**TASK, "labelwords": 1}), "has 'labelwords'; its fields are"),
        (json.dumps({"template": "a"}), "lacks 'label_words'"),
        (json.dumps({**TASK, "template": 3}), "template of a task is 3; expected a text"),
        (json.dumps({**TASK, "label_words": ["a", "b"]}), "expected a word for each class"),
        (json.dumps({**TASK, "data": 3}), "data is 3; expected a path or rows"),
    ],
)
def test_what_is_no_task_file_is_said(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "task.json").write_text(content)
    with pytest.raises(InputError, match=message):
        load_task(str(tmp_path / "task.json"))
    with pytest.raises(InputError, match=r"nowhere\.json cannot be read"):
        load_task(str(tmp_path / "nowhere.json"))
    with pytest.raises(InputError, match=r"table of examples.*name it and give this file as its data"):
        load_task("films.csv")


def test_fewer_prompts_than_asked_for_are_said(tmp_path: Path) -> None:
    task = Task("films", TASK["template"], TASK["label_words"], {"train": ROWS, "test": ROWS[:3]})  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match="films, seed 3: 3 prompts of the 9 asked for; the data have 3"):
        task.prompts(byte_level(), samples=9, seed=3)


@pytest.mark.parametrize(("data", "which"), [([{"text": 5}], "rows given"), ({"train": [5], "test": []}, "train rows")])
def test_rows_in_a_task_file_are_named_with_the_file(data: Any, which: str, tmp_path: Path) -> None:
    path = tmp_path / "films.json"
    path.write_text(json.dumps({**TASK, "data": data}), encoding="utf-8")
    with pytest.raises(InputError, match=rf"Row 0 of the {which} in the task file .*films\.json"):
        _ = load_task(str(path)).splits


@pytest.mark.parametrize("too_long", ["refuse", "drop", "shorter"])
def test_data_that_leave_nothing_to_ask_about_are_named(too_long: Any, tmp_path: Path) -> None:
    """One example of each class is a demonstration."""
    path = write_jsonl(tmp_path / "few.jsonl", [{"text": name, "label": name} for name in ("negative", "positive")])
    with pytest.raises(InputError, match=r"no examples left to ask about in .*few\.jsonl; give more data"):
        load_task("sst2", data=path).prompts(byte_level(" N", " P"), n_ctx=512, too_long=too_long)
