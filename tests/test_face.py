"""What a user sees first: the names at the top, the namespaces, the names of before, and the version."""

from __future__ import annotations

import inspect
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import mechicl as mi
from mechicl import renamed
from mechicl.studies import STUDIES

ROOMS = [getattr(mi, name) for name in mi.NAMESPACES]


def test_few_names_stand_at_the_top_and_no_two_differ_by_case_alone() -> None:
    names = set(dir(mi)) - {"__doc__", "__version__"}
    assert names == {*mi.HOME, *mi.NAMESPACES}
    assert len(mi.HOME) <= 26
    assert len({name.lower().replace("_", "") for name in names}) == len(names)


def test_the_overview_names_everything() -> None:
    for name in mi.HOME:
        assert name in (mi.__doc__ or "")
    for name in mi.NAMESPACES:
        assert f"mi.{name} " in (mi.__doc__ or "")


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.__name__)
def test_completion_shows_what_a_user_calls_and_nothing_else(room: ModuleType) -> None:
    completer = pytest.importorskip("IPython.core.completer", reason="IPython is not installed")
    matches = completer.Completer(namespace={"room": room}).attr_matches("room.")
    assert len(matches) > 4
    for name in [name for match in matches if not (name := match.removeprefix("room.")).startswith("__")]:
        value = getattr(room, name)
        assert not inspect.ismodule(value)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__module__.startswith("mechicl.") or name == "Model", "an alias"
            assert inspect.getdoc(value), f"{name} does not say what it is"


@pytest.mark.parametrize("old", renamed.RENAMED)
def test_an_old_name_works_and_says_the_new_one(old: str) -> None:
    module, _, name = old.rpartition(".")
    with pytest.warns(DeprecationWarning, match=f"{old} is now mechicl") as caught:
        value = getattr(sys.modules[module], name)
    assert caught[0].filename == __file__, "the warning names the line of the user"
    new = str(caught[0].message).split(" is now ")[1].split(";")[0]
    assert new not in renamed.RENAMED
    home: Any = mi
    for part in new.split(".")[1:-1]:
        home = getattr(home, part)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert getattr(home, new.rpartition(".")[2]) is value


def test_a_name_that_never_was_is_no_old_name() -> None:
    with pytest.raises(AttributeError, match="module 'mechicl' has no attribute 'LabelAttentoin'"):
        mi.LabelAttentoin  # noqa: B018


def test_a_member_under_its_old_name_counts_and_says_the_new_one() -> None:
    with pytest.warns(DeprecationWarning, match="Reads.place is now scope") as caught:

        class Reads(mi.Probe):
            place = "target"

            def watch(self, model: Any, batch: Any) -> mi.Watch:
                raise NotImplementedError

    assert Reads().scope == "target"
    assert caught[0].filename == __file__


def test_every_study_is_a_function_of_the_namespace() -> None:
    for name, study in STUDIES.items():
        call = getattr(mi.studies, name.replace("-", "_"))
        assert call is getattr(mi.studies, name.replace("-", "_"))
        assert getattr(mi.studies, study.__name__) is study
        assert next(iter(inspect.signature(call).parameters)) == "model"
    assert mi.isolation is mi.studies.isolation


@pytest.mark.parametrize("arguments", [[], ["--version"]])
def test_neither_import_nor_version_loads_anything_slow(arguments: list[str]) -> None:
    run = (
        "from mechicl.cli import main; main()" if arguments else "import mechicl; print('mechicl', mechicl.__version__)"
    )
    code = f"import sys, atexit; atexit.register(lambda: print(*sorted(sys.modules))); {run}"
    printed = subprocess.run(
        [sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True
    ).stdout
    version, loaded = printed.splitlines()
    assert version == f"mechicl {mi.__version__}"
    assert not {"torch", "numpy", "pandas", "plotly", "transformer_lens"} & set(loaded.split())


def test_one_result_in_a_folder_needs_no_name(tmp_path: Path) -> None:
    model = mi.load_model("tiny-icl")
    prompts = mi.load_task("tiny-topics-2").prompts(model.tokenizer, samples=2, seed=42)
    with pytest.raises(mi.InputError, match="holds no result; run a study"):
        mi.load_result(tmp_path)
    mi.information_flow(model, prompts).save(tmp_path)
    assert mi.load_result(tmp_path).name == "information-flow"
    mi.isolation(model, prompts, n_layers=[1]).save(tmp_path)
    with pytest.raises(mi.InputError, match="holds the results of information-flow, isolation; name one"):
        mi.load_result(tmp_path)
    assert mi.load_result(tmp_path, "isolation").name == "isolation"


def test_a_name_that_is_nearly_right_brings_the_right_one() -> None:
    code = "import mechicl as mi; mi.probs"
    error = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True).stderr
    assert "Did you mean: 'probes'?" in error
