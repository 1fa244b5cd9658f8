"""Half a character, which no tokenizer takes: one sentence at every door, whichever way it came in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mechicl.cli import main
from mechicl.corpora import load_corpus, load_word_pairs, word_spans
from mechicl.engines.continuations import continuations
from mechicl.errors import InputError
from mechicl.prompts import Query, Shot, Template, build_prompts
from mechicl.tasks import Task, load_task
from tests import tiny

HALF, WHOLE = "film \ud83d", "film \U0001f642"
FORM, WORDS = "Review: {text}\nSentiment:{label}", {"no": " Negative", "yes": " Positive"}


def rows(text: str) -> list[dict[str, Any]]:
    return [{"text": f"good {i}", "label": name} for i in range(3) for name in WORDS] + [{"text": text, "label": "no"}]


def pairs(text: str) -> list[dict[str, Any]]:
    return [
        {"word": word, "sentence1": f"a {word}", "sentence2": f"the {word} {text}", "label": label}
        for word in ("film", "dog") for label in ("T", "F")
    ]  # fmt: skip


def lines(path: Path, content: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return path


def asked(task: Task) -> Any:
    return task.prompts(tiny.tokenizer(), samples=2)


DOORS: dict[str, tuple[Callable[[str, Path], Any], str]] = {
    "a template": (lambda t, d: Task("t", t + FORM, WORDS, rows("")), "template of a task"),
    "a separator": (lambda t, d: Task("t", FORM, WORDS, rows(""), separator=t), "separator of a task"),
    "a name": (lambda t, d: Task(t, FORM, WORDS, rows("")), "name of a task"),
    "a label word": (lambda t, d: Task("t", FORM, {**WORDS, "yes": t}, rows("")), "label word of 'yes'"),
    "a class name": (lambda t, d: Task("t", FORM, {"no": " No", t: " Yes"}, rows("")), "class name"),
    "label words of a command": (lambda t, d: load_task("sst2", label_words={"negative": " A", "positive": t}), "label"),
    "rows": (lambda t, d: asked(Task("t", FORM, WORDS, rows(t))), "row 6 of the rows given: the text"),
    "a JSONL of rows": (lambda t, d: asked(Task("t", FORM, WORDS, lines(d / "a.jsonl", rows(t)))), r"a\.jsonl, line 7"),
    "texts without content": (
        lambda t, d: Task("t", FORM, WORDS, rows("")).content_free_prompts(tiny.tokenizer(), texts=[t]), "the text 'Rev"
    ),
    "a prompt": (
        lambda t, d: build_prompts(
            tiny.tokenizer(), Template.parse(FORM), [" Negative", " Positive"], [([Shot(t, 0)], Query("good"))],
            class_names=["no", "yes"],
        ),
        "the text 'Review",
    ),
    "texts of a corpus": (
        lambda t, d: load_corpus(tiny.tokenizer(), ["a film", t], prepend_bos=True, packing="documents"), "Text 1 of the 2"
    ),
    "a JSONL of a corpus": (
        lambda t, d: load_corpus(tiny.tokenizer(), lines(d / "b.jsonl", rows(t)), prepend_bos=True, packing="documents"),
        r"b\.jsonl, line 7: the text",
    ),
    "sentences of a word": (
        lambda t, d: load_word_pairs(tiny.tokenizer(), pairs(t), prepend_bos=True, n_ctx=64), "row 0: sentence2"
    ),
    "words of a text": (lambda t, d: word_spans(tiny.tokenizer(), t), "the text 'film"),
    "a continuation": (
        lambda t, d: continuations(tiny.model("gpt2"), [("the", t)], prepend_bos=True), "the text 'the"
    ),
}  # fmt: skip


@pytest.mark.parametrize("door", DOORS)
def test_half_a_character_is_one_sentence_that_says_where(door: str, tmp_path: Path) -> None:
    call, where = DOORS[door]
    call(WHOLE, tmp_path)
    with pytest.raises(
        InputError, match=rf"(?i){where}.* contains an unpaired surrogate, \\ud83d, at character \d+"
    ) as refusal:
        call(HALF, tmp_path)
    assert "\n" not in str(refusal.value)
    str(refusal.value).encode()  # it can be printed and saved


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.tsv", "a.jsonl"])
def test_a_file_that_is_not_utf_8_is_refused_by_its_line(name: str, tmp_path: Path) -> None:
    """Beyond the first pieces in which files are read: half a character, encoded as if it were one."""
    head = {"a.csv": "text,label\n", "a.tsv": "text\tlabel\n"}.get(name, "")
    row = {"a.csv": "good,no", "a.tsv": "good\tno", "a.jsonl": '{"text": "good", "label": "no"}'}.get(name, "good")
    content = head + f"{row}\n" * 3000 + row.replace("good", HALF) + "\n"
    (tmp_path / name).write_bytes(content.encode(errors="surrogatepass"))
    with pytest.raises(InputError, match=rf"{name} is not UTF-8 text \(byte \d+ in line {3001 + bool(head)}: "):
        load_corpus(tiny.tokenizer(), tmp_path / name, prepend_bos=True, packing="documents")


COMMANDS = {
    "--text": "run norms --model tiny-icl --tokens 200 --length 16 --text {}",
    "--task": "run isolation --model tiny-icl --task {}",
    "--data": "run isolation --model tiny-icl --task reviews --data {}",
    "--label-words": "run isolation --model tiny-icl --task reviews --label-words negative={},positive=B",
    "--model": "run norms --model {} --text tiny-icl",
    "--device": "run norms --model tiny-icl --text tiny-icl --device {}",
    "a study": "run {}",
    "a report": "report {}",
}


@pytest.mark.parametrize("option", COMMANDS)
def test_half_a_character_on_the_command_line_is_one_sentence(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A terminal that is not UTF-8 writes bytes, of which Python makes halves of characters."""
    arguments = COMMANDS[option].format("caf\udce9").split()
    arguments += ["--out", str(tmp_path / "out")] if len(arguments) > 2 else []
    monkeypatch.setattr("sys.argv", ["mechicl", *arguments])
    with pytest.raises(SystemExit) as leaving:
        main()
    error = capsys.readouterr().err
    assert leaving.value.code == 2
    assert error.startswith("mechicl: ")
    assert error.count("\n") == 1
    assert "\\udce9" in error


def test_a_column_that_nobody_reads_may_hold_anything(tmp_path: Path) -> None:
    content = [{**row, "author": HALF, "score": float("nan")} for row in rows("good")]
    assert len(asked(Task("t", FORM, WORDS, lines(tmp_path / "a.jsonl", content)))) == 2


def test_names_of_a_file_that_cannot_be_printed_are_written_out(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", [{HALF: "x"}])
    with pytest.raises(InputError) as refusal:
        asked(Task("t", FORM, WORDS, path))
    assert "film \\ud83d" in str(refusal.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Task("t", 5, WORDS), "template of a task is 5; expected a text"),  # type: ignore[arg-type]
        (lambda: Task(None, FORM, WORDS), "name of a task is None; expected a text"),  # type: ignore[arg-type]
        (lambda: Task("t", FORM, [" A", " B"]), "label_words is .*expected a word for each class"),  # type: ignore[arg-type]
        (lambda: Task("t", FORM, {0: " A", 1: " B"}), "class name 0 of a task is 0; expected a text"),  # type: ignore[dict-item]
        (
            lambda: load_corpus(tiny.tokenizer(), ["a", 5], prepend_bos=True),
            r"source\[1\] is 5; give .* a list of strings",
        ),  # type: ignore[list-item]
    ],
)
def test_what_is_no_text_is_refused_by_name(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("label", ["9" * 5000, int("9" * 4000), 1e300, 2**70])
def test_a_label_of_many_digits_is_no_number_of_a_class(label: Any, tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text('["no", "yes"]')
    path = lines(tmp_path / "a.jsonl", [{"text": "a", "label": label}])
    with pytest.raises(InputError, match=r"line 1: the label .* is not a class") as refusal:
        asked(Task("t", FORM, WORDS, path))
    assert len(str(refusal.value)) < 500 + len(str(tmp_path))
