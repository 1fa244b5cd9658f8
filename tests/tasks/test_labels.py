"""Labels, columns and folders as people have them: one answer in every kind of file, and never a guess."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mechicl.corpora.sources import open_source
from mechicl.errors import InputError
from mechicl.tasks import Task, load_task
from tests.tasks.test_files import WRITERS, write_jsonl

FORM = "Review: {text}\nA:{label}"
SENTIMENT = ("negative", "positive")


def task(classes: tuple[str, ...], data: Any, **more: Any) -> Task:
    return Task("t", FORM, {name: f" {'ABCDE'[i]}" for i, name in enumerate(classes)}, data, **more)


def classes_of(classes: tuple[str, ...], data: Any, **more: Any) -> list[str | None]:
    read = task(classes, data, **more).splits.demonstrations.classes
    return [None if c is None else classes[c] for c in read]


def compressed(kind: str, squeeze: Callable[[bytes], bytes], suffix: str) -> Callable[[Path, Any], Path]:
    def write(path: Path, content: list[dict[str, Any]]) -> Path:
        plain = WRITERS[kind](path.with_suffix(f".{kind}"), content)
        packed = plain.with_name(plain.name + suffix)
        packed.write_bytes(squeeze(plain.read_bytes()))
        plain.unlink()
        return packed

    return write


def zstandard(content: bytes) -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue())


def saved(path: Path, content: list[dict[str, Any]]) -> Path:
    from datasets import Dataset

    Dataset.from_list(content).save_to_disk(str(path.with_suffix("")))
    return path.with_suffix("")


KINDS: dict[str, Callable[[Path, Any], Path]] = {
    **WRITERS,
    "csv.gz": compressed("csv", gzip.compress, ".gz"),
    "jsonl.zst": compressed("jsonl", zstandard, ".zst"),
    "saved": saved,
}
LABELS: dict[str, tuple[tuple[str, ...], list[Any], list[str | None]]] = {
    "numbers as names": (("0", "1"), [0, 1, 1], ["0", "1", "1"]),
    "stars": (("1", "2", "3", "4", "5"), ["1", "5", "3"], ["1", "5", "3"]),
    "stars as numbers": (("1", "2", "3", "4", "5"), [1, 5, 3], ["1", "5", "3"]),
    "three ways": (("-1", "0", "1"), ["-1", "0", "1"], ["-1", "0", "1"]),
    "three ways as numbers": (("-1", "0", "1"), [-1, 0, 1], ["-1", "0", "1"]),
    "booleans": (("False", "True"), [False, True, True], ["False", "True", "True"]),
    "small booleans": (("false", "true"), [True, False], ["true", "false"]),
    "floats": (("0", "1"), [0.0, 1.0], ["0", "1"]),
    "floats as names": (("0.5", "1.0"), [1.0, 0.5], ["1.0", "0.5"]),
    "names": (SENTIMENT, ["positive", " Negative"], ["positive", "negative"]),
    "unlabelled": (SENTIMENT, ["positive", "", "-1"], ["positive", None, None]),
}


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("name", sorted(LABELS))
def test_a_label_is_one_class_in_every_kind_of_file(name: str, kind: str, tmp_path: Path) -> None:
    classes, labels, expected = LABELS[name]
    content = [{"text": f"text {i}", "label": label} for i, label in enumerate(labels)]
    assert classes_of(classes, KINDS[kind](tmp_path / f"data.{kind}", content)) == expected
    assert classes_of(classes, content) == expected


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("labels", [[0, 1, 0], [0.0, 1.0, 0.0], ["0", "1", "0"], [False, True, False]], ids=str)
def test_a_list_of_names_is_for_every_way_to_write_a_number(labels: list[Any], kind: str, tmp_path: Path) -> None:
    path = KINDS[kind](tmp_path / f"data.{kind}", [{"text": "a", "label": label} for label in labels])
    with pytest.raises(InputError, match="nothing says which class that is"):
        classes_of(SENTIMENT, path)
    (tmp_path / "labels.json").write_text('["positive", "negative"]')
    assert classes_of(SENTIMENT, path) == ["positive", "negative", "positive"]


def test_missing_labels_are_missing_in_every_kind_of_file(tmp_path: Path) -> None:
    content = [{"text": "a", "label": "positive"}, {"text": "b", "label": None}]
    for kind in ("jsonl", "json", "csv", "parquet", "arrow", "saved"):
        assert classes_of(SENTIMENT, KINDS[kind](tmp_path / f"data.{kind}", content)) == ["positive", None]


def test_a_number_with_two_meanings_is_refused(tmp_path: Path) -> None:
    stars = ("1", "2", "3")
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "a", "label": 1}])
    (tmp_path / "labels.json").write_text('["1", "2", "3"]')
    with pytest.raises(InputError, match=r"line 1: the label 1 is the name of a class, and labels\.json .* '2'"):
        classes_of(stars, path)
    (tmp_path / "labels.json").write_text('["none", "1", "2", "3"]')
    assert classes_of(stars, path) == ["1"]


def class_label(rows: int = 4) -> Any:
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features(sentence=Value("string"), label=ClassLabel(names=["positive", "negative"]))
    labels = [(0, 1, -1)[i % 3] for i in range(rows)]
    return Dataset.from_dict({"sentence": [f"film {i}" for i in range(rows)], "label": labels}, features=features)


NAMED = ["positive", "negative", None, "positive"]


def test_names_inside_a_file_are_read(tmp_path: Path) -> None:
    from datasets import Dataset

    class_label().to_parquet(str(tmp_path / "a.parquet"))
    class_label().save_to_disk(str(tmp_path / "saved"))
    class_label().with_format("numpy").save_to_disk(str(tmp_path / "arrays"))
    for path in ("a.parquet", "saved", "arrays", "saved/data-00000-of-00001.arrow"):
        assert classes_of(SENTIMENT, tmp_path / path) == NAMED, path
    import pyarrow as pa
    from pyarrow.parquet import write_table

    Dataset.from_dict({"text": ["a"], "label": [7]}).to_parquet(str(tmp_path / "b.parquet"))
    table = pa.table({"text": ["a"], "label": [7]})
    table = table.replace_schema_metadata(class_label().rename_column("sentence", "text").data.schema.metadata)
    write_table(table, tmp_path / "b.parquet")
    with pytest.raises(InputError, match=r"b\.parquet, row 0: the label is 7, but the data names only 2 classes"):
        classes_of(SENTIMENT, tmp_path / "b.parquet")


def test_folders_of_the_hub_and_of_datasets_are_read(tmp_path: Path) -> None:
    from datasets import DatasetDict

    snapshot, kept = tmp_path / "snapshot", tmp_path / "kept"
    (snapshot / "data").mkdir(parents=True)
    (snapshot / "README.md").write_text("# films")
    for split, shards in (("train", 2), ("validation", 1)):
        for shard in range(shards):
            name = f"{split}-{shard:05}-of-{shards:05}.parquet"
            class_label().to_parquet(str(snapshot / "data" / name))
    DatasetDict(train=class_label(8), validation=class_label(4)).save_to_disk(str(kept))
    converted = tmp_path / "default"
    for split in ("train", "validation"):
        (converted / split).mkdir(parents=True)
        class_label(8 if split == "train" else 4).to_parquet(str(converted / split / "0000.parquet"))
    for folder in (snapshot, kept, converted):
        read = task(SENTIMENT, folder).splits
        assert read.queries is not None
        assert (len(read.demonstrations), len(read.queries)) == (8, 4)
        assert classes_of(SENTIMENT, folder)[:4] == NAMED
    assert len(list(open_source(snapshot, column="sentence", split="train", shuffle_seed=None, words=1).read())) == 8
    assert len(list(open_source(kept, column="sentence", split="train", shuffle_seed=None, words=1).read())) == 8
    (snapshot / "data" / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(InputError, match="has 1 of 2 shards of train"):
        _ = task(SENTIMENT, snapshot).splits


def test_what_is_no_saved_data_set_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(InputError, match="cannot be read by datasets") as refusal:
        classes_of(SENTIMENT, tmp_path)
    assert "\n" not in str(refusal.value)


def test_nothing_is_written_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    cache = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    class_label().to_parquet(str(tmp_path / "a.parquet"))
    path = saved(tmp_path / "b.saved", [{"text": "a", "label": "positive"}])
    classes_of(SENTIMENT, tmp_path / "a.parquet")
    before = {file: file.stat().st_mtime_ns for file in path.iterdir()}
    classes_of(SENTIMENT, path)
    assert before == {file: file.stat().st_mtime_ns for file in path.iterdir()}
    assert not cache.exists()


TEXTS = [
    '"a lone quote',
    'and another"',
    "2020-01-01",
    "007",
    "1e5",
    "NA",
    "null",
    "nan",
    "True",
    " spaces ",
    "a, b; c",
]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_text_stays_what_it_is(kind: str, tmp_path: Path) -> None:
    """`datasets` would make dates and numbers of some of them, and TSV has no quotes."""
    content = [{"text": text, "label": SENTIMENT[i % 2]} for i, text in enumerate(TEXTS)]
    read = task(SENTIMENT, KINDS[kind](tmp_path / f"a.{kind}", content)).splits.demonstrations
    assert list(read.texts) == TEXTS


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_text_may_be_long(kind: str, tmp_path: Path) -> None:
    content = [{"text": "word " * 40_000, "label": "positive"}, {"text": "short", "label": "negative"}]
    read = task(SENTIMENT, KINDS[kind](tmp_path / f"a.{kind}", content)).splits.demonstrations
    assert len(read.texts[0]) == 200_000


def test_objects_may_stand_in_lines_of_a_json_file_as_datasets_writes_them(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.json", [{"text": "a", "label": "positive"}, {"text": "b", "label": "negative"}])
    assert classes_of(SENTIMENT, path) == ["positive", "negative"]
    texts = open_source(tmp_path, column="text", split="train", shuffle_seed=None, words=1).read()
    assert list(texts) == ["a", "b"]


@pytest.mark.parametrize("text", ["text", "sentence", "Sentence", "content"])
@pytest.mark.parametrize("label", ["label", "label-coarse", "coarse_label", "Label"])
def test_usual_columns_are_known(text: str, label: str) -> None:
    rows = [{"idx": 3, text: "a", label: "positive", "fine_label": "x"}]
    assert classes_of(SENTIMENT, rows) == ["positive"]


def test_columns_can_be_named(tmp_path: Path) -> None:
    content = [{"text": "no", "body": f"b {i}", "label": "no", "stars": SENTIMENT[i % 2]} for i in range(4)]
    columns = {"text": "body", "label": "stars"}
    path = write_jsonl(tmp_path / "a.jsonl", content)
    facts = {"template": FORM, "label_words": {"negative": " A", "positive": " B"}, "data": "a.jsonl"}
    (tmp_path / "task.json").write_text(json.dumps({**facts, "columns": columns}))
    ways = (
        task(SENTIMENT, path, columns=columns),
        task(SENTIMENT, content, columns=columns),
        load_task("sst2", data=path, columns=columns),
        load_task(tmp_path / "task.json"),
    )
    for way in ways:
        assert way.splits.demonstrations.texts == ("b 0", "b 1", "b 2", "b 3")
        assert way.splits.demonstrations.classes == (0, 1, 0, 1)
    with pytest.raises(InputError, match="line 1: the label 'no' is not a class"):
        _ = load_task(tmp_path / "task.json", columns={"text": "body"}).splits
    with pytest.raises(InputError, match=r"no column 'words' .there are: text, body, label, stars.; name the columns"):
        _ = load_task("sst2", data=path, columns={"text": "words"}).splits


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"texts": "a"}, "expected the columns of 'text' and 'label'"),
        ("text=a", "expected the columns of 'text' and 'label'"),
        ({"text": 5}, "column of 'text' of a task is 5; expected a text"),
        ({"text": "a", "label": "a"}, "text and label need a column each"),
    ],
)
def test_columns_that_are_none_are_refused(columns: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        task(SENTIMENT, [{"text": "a", "label": "positive"}], columns=columns)
    with pytest.raises(InputError, match="'reviews' .*chooses its columns itself|" + message):
        _ = load_task("reviews", columns=columns).splits


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow.parquet import write_table

    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"]), pa.array(["positive"])], ["text", "text", "label"])
    write_table(table, tmp_path / "a.parquet")
    (tmp_path / "a.tsv").write_text("text\ttext\tlabel\na\tb\tpositive\n")
    for name in ("a.parquet", "a.tsv"):
        with pytest.raises(InputError, match=f"{name}.*: there are 2 columns 'text'; keep one"):
            classes_of(SENTIMENT, tmp_path / name)
