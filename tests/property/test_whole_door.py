"""The whole door: any task in any kind of file, through the command line, is answered right or refused in a sentence.

100 cases in the everyday suite, 2,000 with --slow. Right means: exit code 0, every token claimed by exactly what it
covers of what was written, and the table of the same data given in Python. A refusal is exit code 2 and one sentence that
names the place.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import shutil
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import mechicl as mi
from mechicl.cli import main
from mechicl.studies import STUDIES, load_studies
from tests import tiny
from tests.property.cases import Case, tasks
from tests.property.places import check_positions
from tests.property.written import (
    COLUMN_DAMAGE,
    FILE_DAMAGE,
    KINDS,
    ROW_DAMAGE,
    break_columns,
    break_file,
    break_rows,
    task_file,
    write,
)

SLOW = int(os.environ.get("MECHICL_CASES", "40")) > 100
EACH = -(-(2000 if SLOW else 100) // len(KINDS))
CASES = settings(
    max_examples=EACH, deadline=None, database=None, suppress_health_check=list(HealthCheck),
    phases=[Phase.generate], print_blob=False,
)  # fmt: skip
DAMAGE = (*FILE_DAMAGE, *ROW_DAMAGE, *COLUMN_DAMAGE)
COUNTS: Counter[tuple[str, str, int]] = Counter()
"""How often each kind, with each damage, ended with each exit code; printed at the end."""


@dataclass
class Answer:
    """What a command left."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.model("gpt2")


@pytest.fixture(scope="module", autouse=True)
def _study(model: Any) -> Iterator[None]:
    """The study of these tests, and the smallest model, which knows bytes, under the name of another."""
    before, modules, path = dict(STUDIES), set(sys.modules), list(sys.path)
    load_studies(Path(__file__).with_name("where_it_stands.py"))
    with mock.patch("mechicl.models.load_model", functools.cache(lambda *_, **__: model)):
        yield
    STUDIES.clear()
    STUDIES.update(before)
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith("where_it_stands"):
            del sys.modules[name]


def commanded(*arguments: str) -> Answer:
    """A command in this process; anything but exit codes 0 and 2 is its own traceback."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["mechicl", *arguments]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as stopped,
    ):
        main()
    return Answer(int(stopped.value.code or 0), out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _quick() -> Iterator[None]:
    """Without the page and the timing pass, which take most of a command's time and know nothing of the data."""
    with (
        mock.patch("mechicl.cli.finish.page", lambda out: out),
        mock.patch("mechicl.studies.estimate._seconds_a_token", return_value=1e-5),
    ):
        yield


def in_python(case: Case, model: Any, stem: str) -> pd.DataFrame | str:
    """The table of the same data given in Python, or the sentence of the refusal."""
    data = {"train": case.train, "test": case.test} if case.test else case.train
    name = stem if case.name is None else case.name
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            task = mi.Task(name, case.template, case.words, data, separator=case.separator, columns=case.columns)
            prompts = mi.load_task(task, score=case.score).prompts(model.tokenizer, n_ctx=model.cfg.n_ctx, **case.asked)
            return STUDIES["where-it-stands"]().run(model, [prompts]).table
    except mi.InputError as error:
        return str(error)


def plain(table: pd.DataFrame) -> list[list[Any]]:
    """Values without the types of columns, which files and Python have otherwise."""
    return [[list(value) if hasattr(value, "__len__") and not isinstance(value, str) else value for value in row]
            for row in table.itertuples(index=False)]  # fmt: skip


def refusal(answer: Answer) -> str:
    """The sentence of a refusal: the last line; what stands before are warnings."""
    assert answer.code == 2, answer.err
    lines = answer.err.split("\n")
    assert lines.pop() == ""
    assert all(line.startswith("mechicl: ") and len(line) < 2000 for line in lines), answer.err
    assert lines[-1].endswith("."), lines[-1]
    assert answer.out == ""
    return lines[-1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_is_answered_right_or_refused_in_a_sentence(kind: str, model: Any, tmp_path: Path) -> None:
    turns: dict[str, int] = {}  # so that each damage has its turn: hypothesis varies a case more than its damage

    @seed(KINDS.index(kind))  # the same cases on every day, others for every kind
    @CASES
    @given(tasks(), st.integers(0, 2**16))
    def check(case: Case, chance: int) -> None:
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()
        number = turns.setdefault(f"{case} {chance}", KINDS.index(kind) * EACH + len(turns))
        damage = "none" if number % 2 else DAMAGE[number // 2 % len(DAMAGE)]
        one(kind, case, damage, chance, model, tmp_path)

    check()
    ends = Counter({(damage, code): n for (k, damage, code), n in COUNTS.items() if k == kind})
    for damage in ("", *sorted({one for one, _ in ends})):
        codes = [sum(n for (d, code), n in ends.items() if damage in ("", d) and code == c) for c in (0, 2)]
        print(f"{kind:>10} {damage or 'in all':>20}: exit 0 {codes[0]:>4}, exit 2 {codes[1]:>4}")


def one(kind: str, case: Case, damage: str, chance: int, model: Any, folder: Path) -> None:
    """A case from its task to what the command says of it."""
    row = chance % len(case.train)
    intact = case
    if damage in ROW_DAMAGE:
        case = break_rows(case, damage, row)
    written = write(case, kind, folder)
    case, path = written.case, task_file(written.case, written.given, folder)
    if damage in COLUMN_DAMAGE:
        break_columns(written, kind, damage)
    if damage in FILE_DAMAGE:
        break_file(written.file, damage, chance)
    asked = {"--shots": case.asked["shots"], "--samples": case.asked["samples"], "--seeds": case.asked["seed"],
             "--too-long": case.asked["too_long"].replace("_", "-"), "--score": case.score}  # fmt: skip
    with contextlib.nullcontext() if COUNTS.total() % (20 if SLOW else 5) == 0 else _quick():
        answer = commanded(
            "run", "where-it-stands", "--model", "tiny-icl", "--task", str(path), "--out", str(folder / "out"),
            *(str(part) for pair in asked.items() for part in pair),
        )  # fmt: skip
    COUNTS[kind, damage, answer.code] += 1
    (answer.out + answer.err).encode()
    saved = folder / "out" / "where-it-stands.parquet"
    if answer.code == 0:
        assert Path(answer.out.rstrip("\n").split("\n")[-1]).exists()
        table = mi.load_result(folder / "out").table
        if damage in FILE_DAMAGE:
            if damage in ("truncated", "twice", "Latin-1") and kind != "snapshot":  # the rows that are left are whole
                for prompt in table.itertuples():
                    check_positions(replace(case, train=case.train * 2), prompt, model.tokenizer, gold=False)
            return
        python = in_python(case, model, "task")
        assert not isinstance(python, str), python
        assert plain(table) == plain(python)
        for prompt in table.itertuples():
            check_positions(case, prompt, model.tokenizer)
        return
    sentence = refusal(answer)
    assert not saved.exists()
    (folder / "again").mkdir()
    sound = in_python(write(intact, kind, folder / "again").case, model, "task")
    if damage == "none":
        assert isinstance(sound, str), (sentence, "Python takes the same data")
    elif not isinstance(sound, str):
        name = {"saved": written.file.parent.name, "snapshot": "train-0000"}.get(kind, written.file.name)
        name = str(folder) if damage in ("absent", "directory") and kind in ("folder", "snapshot") else name
        assert name in sentence or "longer than" in sentence, sentence
        if damage in ROW_DAMAGE and (damage != "half a character" or "json" in kind or kind == "task file"):
            assert re.search(rf"{written.line(row)}(?!\d)", sentence), (written.line(row), sentence)


def test_what_is_written_elsewhere_is_noticed(model: Any) -> None:
    """The control: positions, texts, classes and anchors that are off by one fail the check."""
    words = {"no": " Negative", "yes": " Positive"}
    rows = [{"text": f" film {i}", "label": name} for i in range(4) for name in words]
    asked = {"shots": 1, "samples": 2, "seed": 0, "too_long": "refuse"}
    case = Case("t", "<|endoftext|>", "\nA:", "", "\n", words, rows, [], {}, asked=asked)
    table = in_python(case, model, "t")
    assert isinstance(table, pd.DataFrame)
    row = next(table.itertuples())
    check_positions(case, row, model.tokenizer)
    anchor = row.anchors[0]
    for change in (
        {"part": [*row.part[1:], row.part[0]]}, {"string": row.string + " "}, {"anchors": [anchor + 1, *row.anchors[1:]]},
        {"part": [*row.part[:anchor], "template 0", *row.part[anchor + 1 :]]}, {"tokens": [*row.tokens[:-1], 0]},
        {"shown": row.shown[::-1]}, {"gold": 1 - row.gold}, {"target": row.target - 1},
    ):  # fmt: skip
        with pytest.raises(AssertionError):
            check_positions(case, row._replace(**change), model.tokenizer)
