"""A study is declared once: what its class says is what Python, the command, the list and the stubs say."""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import mechicl as mi
from mechicl.cli.app import app, list_everything
from mechicl.cli.command import declarations, studies
from mechicl.cli.options import OnPrompts
from mechicl.cli.options_of_stages import OnBenchmarks, OnLens, OnText, OnTextAndPrompts, OnWeights, OnWordPairs
from mechicl.cli.reading import several
from mechicl.declared import DECLARED, INPUTS, RESERVED, declaration, shipped
from mechicl.errors import InputError
from mechicl.studies import STUDIES

KINDS = (OnPrompts, OnText, OnLens, OnWeights, OnWordPairs, OnBenchmarks, OnTextAndPrompts)
SHIPPED = [name for name, study in STUDIES.items() if study.__module__.startswith("mechicl.")]


@pytest.mark.parametrize("name", SHIPPED)
def test_call_and_command_have_the_switches_of_the_class(name: str) -> None:
    study = STUDIES[name]
    called = inspect.signature(getattr(mi.studies, name.replace("-", "_"))).parameters
    command = {one.name: one for one in studies.info.cls.get_command(_group(), None, name).params}  # type: ignore
    fields = {one.name: one.default for one in dataclasses.fields(study)}
    if study.no_paper_protocol:
        del fields["protocol"]
    for switch, default in fields.items():
        assert called[switch].default == default
        shared = declarations()[name].shared
        if switch in shared:
            continue
        offered = command[switch].default
        declared = next(one for one in shipped()[name].switches if one.name == switch)
        given = several(declared, offered) if declared.several and offered is not None else offered
        assert given == default
        assert declared.help, f"{switch} says what it is"
    rest = ["model", *filter(None, [INPUTS[study.reads].argument]), *fields]
    assert sorted(called) == sorted([*rest, *(["batch_size"] if study.batch_size else [])]), "nothing else"
    if study.batch_size is not None and "batch_size" in command:
        assert called["batch_size"].default == command["batch_size"].default == study.batch_size


def _group() -> Any:
    return object.__new__(studies.info.cls)  # type: ignore


def test_the_written_declarations_and_stubs_are_those_of_the_classes() -> None:
    docs = Path(mi.__file__).parents[1] / "docs"
    code = (
        f"import sys; sys.path.insert(0, {str(docs)!r}); import declare; "
        "assert declare.DECLARED.read_text() == declare.declared_text(), 'declared.json'; "
        "assert declare.README.read_text() == declare.readme_text(), 'README'; "
        "assert all(path.read_text() == text for path, text in declare.stubs().items()), 'stubs'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)  # apart from studies that tests define


def test_pages_with_measured_numbers_are_written_anew() -> None:
    pytest.importorskip("nbformat", reason="nbformat is not installed")
    docs = Path(mi.__file__).parents[1] / "docs"
    code = (
        f"import sys; sys.path[:0] = [{str(docs)!r}, {str(docs.parent)!r}]; import measured; "
        "old = [path.name for path, text in measured.pages().items() if path.read_text() != text]; "
        "assert not old, f'make declare: {old}'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_list_and_page_have_what_the_class_declares(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed")
    monkeypatch.setattr(sys, "path", [str(Path(mi.__file__).parents[1] / "docs"), *sys.path])
    monkeypatch.setenv("COLUMNS", "500")
    from hooks import study_page  # type: ignore[import-not-found]

    list_everything()
    rows = {row.split()[1]: row for row in capsys.readouterr().out.splitlines() if row.startswith("│")}
    for name in SHIPPED:
        study, page = STUDIES[name], study_page(STUDIES[name])
        assert study.shows in rows[name]
        assert study.source in rows[name]
        assert f"Runs on {INPUTS[study.reads].words}." in page
        switches = re.findall(r"^\| `(\w+)` \| (.*?) \| `(.*?)` \| (.*?) \|$", page, re.MULTILINE)
        said = [(switch.name, repr(switch.default), switch.help) for switch in declaration(study).switches]
        assert [(one, default, help) for one, _, default, help in switches] == said
    list_everything(claims=True)
    listed = capsys.readouterr().out
    for name in SHIPPED:
        for claim in STUDIES[name].claims:
            for fact in (claim.sentence, claim.quantity, claim.null, f"{claim.least:g} {claim.unit}"):
                assert fact in study_page(STUDIES[name])
                assert fact in listed


@pytest.mark.parametrize("name", SHIPPED)
def test_what_is_read_back_is_what_was_declared(name: str) -> None:
    assert shipped()[name] == declaration(STUDIES[name])


@pytest.mark.parametrize("name", SHIPPED)
def test_values_that_make_no_sense_are_refused_in_a_sentence(name: str) -> None:
    wrong = {"choice": "nonsense", "int": 1.5, "float": "nonsense", "bool": "yes"}
    for switch in shipped()[name].switches:
        if switch.kind != "text":
            with pytest.raises(InputError, match=rf"(?i)^{switch.name} is .*; (choose|give) "):
                STUDIES[name](**{switch.name: wrong[switch.kind]})  # type: ignore[arg-type]


def test_a_list_is_as_good_as_a_tuple() -> None:
    assert STUDIES["isolation"](n_layers=[1, 2]) == STUDIES["isolation"](n_layers=(1, 2))  # type: ignore[call-arg]


def test_the_declarations_are_shipped_with_the_package() -> None:
    assert DECLARED.is_file()
    assert list(shipped()) == SHIPPED, "in the order of the papers"


def test_reserved_names_are_those_of_the_shared_options() -> None:
    shared = {one.name for kind in KINDS for one in dataclasses.fields(kind)}
    assert shared - RESERVED == {"seed", "tuned", "tuned_tokens", "tuned_steps", "prepend_bos"}, "shared on purpose"


def test_numbers_of_other_kinds_are_taken_or_refused_in_a_sentence() -> None:
    study = STUDIES["isolation"]
    assert study(n_layers=np.arange(1, 3)) == study(n_layers=(1, 2))  # type: ignore[call-arg]
    for wrong in ([[1, 2]], [1, 1], [], [0.5], ["1"]):
        with pytest.raises(InputError, match="n_layers is"):
            study(n_layers=wrong)  # type: ignore[call-arg]


@pytest.mark.parametrize("command", [[], ["cache"], *(["run", name] for name in SHIPPED), ["reproduce", "stages"]])
def test_help_shows_the_type_of_what_takes_a_value_and_of_nothing_else(command: list[str]) -> None:
    printed = CliRunner().invoke(app, [*command, "--help"], prog_name="mechicl").output
    assert "--help" in printed
    assert "<bool>" not in printed
    assert "run" not in command or "<str>" in printed, "the control"
