"""What `docs/pages/extend.md` shows is short, and runs from a user's own file: run, save, load, report, command."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mechicl as mi
from mechicl.cli import main
from mechicl.code_digest import measured_by
from mechicl.errors import InputError
from mechicl.report import write_report
from mechicl.results import Cells
from mechicl.studies import STUDIES, load_studies

PAGE = Path(__file__).parents[1] / "docs" / "pages" / "extend.md"
Run = Callable[..., tuple[int, str, str]]


def block(heading: str) -> str:
    """The first Python of a section."""
    section = PAGE.read_text(encoding="utf-8").split(f"## {heading}\n")[1]
    found = re.search(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def study_file(tmp_path: Path) -> Iterator[Path]:
    """The example's file; what it adds is gone afterwards."""
    before, modules, path = dict(STUDIES), set(sys.modules), list(sys.path)
    file = tmp_path / "my_study.py"
    file.write_text(block("Your own study"), encoding="utf-8")
    yield file
    STUDIES.clear()
    STUDIES.update(before)
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith(("my_", "statistics_")):
            del sys.modules[name]


@pytest.fixture
def mechicl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: Any) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mechicl", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        return int(stopped.value.code or 0), *capsys.readouterr()

    return call


@pytest.mark.parametrize(("heading", "most"), [("Your own study", 60), ("Your own probe", 25), ("Your own patch", 20)])
def test_the_examples_are_short(heading: str, most: int) -> None:
    assert len(block(heading).rstrip().split("\n")) <= most


def test_a_study_of_ones_own_runs_in_python(study_file: Path, tmp_path: Path) -> None:
    (study,) = load_studies(study_file)
    model = mi.load_model("tiny-icl")
    prompts = mi.load_task("tiny-topics-2").prompts(model.tokenizer, samples=6, seed=42)
    result = mi.studies.target_norm(model, prompts, relative=True)
    first = result.table[result.table["layer"] == 0]
    assert (first["norm"] == 1).all(), "relative to the first layer"
    assert result.provenance["settings"]["relative"] is True
    result.save(tmp_path / "out")
    again = mi.load_result(tmp_path / "out")
    assert again.study == study(relative=True)
    assert again.finding() == result.finding()
    page = write_report([again], tmp_path / "out").read_text(encoding="utf-8")
    assert "The residual stream at the target" in page
    assert "grows from layer to layer" in page
    (verdict,) = again.claims
    assert verdict.outcome == "undecided", "of a single demonstration set"
    assert "use more seeds" in page


def test_a_study_of_ones_own_answers_its_claim(study_file: Path) -> None:
    load_studies(study_file)
    model = mi.load_model("tiny-icl")
    prompts = [mi.load_task("tiny-topics-2").prompts(model.tokenizer, samples=4, seed=seed) for seed in range(4)]
    (verdict,) = mi.studies.target_norm(model, prompts).claims
    assert verdict.outcome == "supported"
    assert verdict.low > 0
    assert dict(verdict.n) == {"sets": 4, "prompts": 16}


def test_a_study_of_ones_own_is_a_command(study_file: Path, tmp_path: Path, mechicl: Run) -> None:
    out = tmp_path / "results"
    asked = ["--model", "tiny-icl", "--task", "tiny-topics-2", "--samples", 4, "--seeds", 42, "--out", out]
    code, printed, err = mechicl("--studies", study_file, "run", "target-norm", *asked, "--relative")
    assert code == 0, err
    assert Path(printed.strip().split("\n")[-1]).name == "report.html"
    code, printed, err = mechicl("--studies", study_file, "report", out)
    assert (code, err) == (0, "")
    code, printed, _ = mechicl("--studies", study_file, "run", "--help")
    assert "target-norm" in printed
    code, printed, _ = mechicl("--studies", study_file, "list")
    assert "target-norm" in printed


def test_without_its_file_a_result_says_what_is_missing(study_file: Path, tmp_path: Path) -> None:
    load_studies(study_file)
    model = mi.load_model("tiny-icl")
    prompts = mi.load_task("tiny-topics-2").prompts(model.tokenizer, samples=2, seed=42)
    STUDIES["target-norm"]().run(model, prompts).save(tmp_path / "out")
    del STUDIES["target-norm"]
    with pytest.raises(InputError, match=r"no study 'target-norm'.*--studies FILE"):
        mi.load_result(tmp_path / "out", "target-norm")


def test_a_changed_measure_is_measured_again_and_a_changed_figure_is_not(study_file: Path, tmp_path: Path) -> None:
    model = mi.load_model("tiny-icl")
    prompts = mi.load_task("tiny-topics-2").prompts(model.tokenizer, samples=2, seed=42)

    def cells_after(old: str, new: str) -> int:
        text = study_file.read_text(encoding="utf-8")
        assert old in text
        study_file.write_text(text.replace(old, new), encoding="utf-8")
        (study,) = load_studies(study_file)
        study().run(model, prompts, cells=Cells(tmp_path))
        return len(list((tmp_path / "cells").glob("*.parquet")))

    assert cells_after("my own question", "my own question") == 1
    assert cells_after("The norm is {", "The norm was {") == 1, "a finding"
    assert cells_after('name="norm"', 'name="the norm"') == 1, "a figure"
    assert cells_after("Divide by", "Divided by") == 1, "a help text"
    assert cells_after("    def measure(", "    # a comment\n    def measure(") == 1
    assert cells_after(".norm(dim=-1)", ".norm(p=1, dim=-1)") == 2, "another norm, in a probe that measure calls"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1", "defines no study"),
        ("import nothing_of_this_name", "cannot be run"),
        ("def broken(:", "cannot be run"),
    ],
)
def test_a_file_without_a_study_is_refused_in_a_sentence(text: str, said: str, tmp_path: Path, mechicl: Run) -> None:
    file = tmp_path / "my_mistake.py"
    file.write_text(text)
    code, _, err = mechicl("--studies", file, "list")
    assert code == 2
    assert said in err
    assert err.count("\n") == 1


def test_a_file_named_as_a_library_is_followed_all_the_same(study_file: Path) -> None:
    """`statistics.py` is a module of Python's; the user's file of that name is not."""
    file = study_file.with_name("statistics.py")
    keys = []
    for change in ("", ".norm(p=1, dim=-1)"):
        text = study_file.read_text(encoding="utf-8")
        file.write_text(text.replace(".norm(dim=-1)", change) if change else text, encoding="utf-8")
        (study,) = load_studies(file)
        keys.append(measured_by(study))
    assert keys[0] != keys[1]
    assert sys.modules.get("statistics") is not sys.modules[study.__module__]


def test_a_study_that_lacks_methods_is_refused_by_their_names(study_file: Path) -> None:
    text = study_file.read_text().replace("    def summary(", "    def summed(")
    study_file.write_text(text)
    before = dict(STUDIES)
    with pytest.raises(InputError, match=r"target-norm in .* lacks summary"):
        load_studies(study_file)
    assert before == STUDIES, "a file that is refused adds nothing"
    assert not hasattr(mi.studies, "target_norm")


def test_a_file_that_is_refused_leaves_the_study_as_it_was_read_before(study_file: Path) -> None:
    text = study_file.read_text()
    (study,) = load_studies(study_file)
    study_file.write_text(text.replace("    def summary(", "    def summed("))
    with pytest.raises(InputError, match="lacks summary"):
        load_studies(study_file)
    assert STUDIES["target-norm"] is study
    assert "relative" in inspect.signature(mi.studies.target_norm).parameters, "its module is still there"


def test_a_switch_that_every_command_has_is_refused(study_file: Path) -> None:
    study_file.write_text(study_file.read_text().replace("    relative: Annotated", "    samples: Annotated"))
    with pytest.raises(InputError, match="has a switch samples"):
        load_studies(study_file)


def test_a_name_that_is_taken_is_refused(study_file: Path) -> None:
    study_file.write_text(study_file.read_text().replace('name = "target-norm"', 'name = "isolation"'))
    with pytest.raises(InputError, match="There is a study 'isolation' already"):
        load_studies(study_file)


def test_a_summary_without_its_columns_is_refused_in_a_sentence(study_file: Path) -> None:
    study_file.write_text(study_file.read_text().replace('.assign(metric="norm")', ""))
    (study,) = load_studies(study_file)
    model = mi.load_model("tiny-icl")
    prompts = mi.load_task("tiny-topics-2").prompts(model.tokenizer, samples=2, seed=42)
    result = study().run(model, prompts)
    with pytest.raises(InputError, match="summary of target-norm lacks the column metric"):
        result.summary()


def test_a_name_of_the_namespace_and_an_unknown_input_are_refused(study_file: Path) -> None:
    text = study_file.read_text()
    study_file.write_text(text.replace('name = "target-norm"', 'name = "saliency-map"'))
    with pytest.raises(InputError, match="no name in mechicl"):
        load_studies(study_file)
    study_file.write_text(text.replace('name = "target-norm"', 'name, reads = "target-norm", "words"'))
    with pytest.raises(InputError, match="reads 'words'; let it read one of prompts, text"):
        load_studies(study_file)


def test_a_study_that_calls_another_has_a_key_that_knows_which(study_file: Path) -> None:
    text, keys = study_file.read_text(), []
    for other in ("mi.studies.isolation", "mi.studies.compression", "len"):
        study_file.write_text(text.replace("        table = mi.run(", f"        {other}\n        table = mi.run("))
        keys.append(measured_by(load_studies(study_file)[0]))
    assert len(set(keys)) == 3
