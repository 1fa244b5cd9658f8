"""Commands that share their work: how many workers, what they need, and what happens if one of several studies fails."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mechicl.cli.finish import run
from mechicl.cli.options import OnPrompts
from mechicl.cli.sharing import announce, begin, helpers_of
from mechicl.errors import InputError, NumericalError
from mechicl.results import Cells
from mechicl.studies.estimate import Estimate
from mechicl.studies.label_words.deep_layers import DeepLayers
from mechicl.studies.label_words.isolation import Isolation
from mechicl.studies.shard import Shard
from tests import tiny
from tests.random_prompts import random_prompts

ASKED: Any = SimpleNamespace(batch_size=4)


def options(**given: Any) -> OnPrompts:
    return OnPrompts(**{"model": "tiny-icl", "task": "tiny-topics-2", "out": Path("out"), **given})


@pytest.mark.parametrize("error", [InputError("No examples."), NumericalError("NaN in layer 3.")])
def test_a_study_that_fails_on_a_shard_does_not_end_it(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = Shard._measured

    def fails(shard: Shard, plan: Any, unit: Any) -> Any:
        if plan.study.name == "isolation":
            raise error
        return measured(shard, plan, unit)

    monkeypatch.setattr(Shard, "_measured", fails)
    model, prompts, cells = tiny.model("gpt2"), random_prompts(3), Cells(tmp_path)
    with Shard(model, cells, "1/2") as shard:
        for study in (Isolation(n_layers=(1,)), DeepLayers()):
            begin(shard, study, model, prompts, ASKED, cells)
        assert len(list(cells.folder.iterdir())) == 1, "the other study is measured"
        with pytest.raises(type(error)):  # whoever closes tells it
            run(Isolation(n_layers=(1,)), model, prompts, ASKED, cells, shard)


class Eight:
    """Helpers that note in which order things happen."""

    def __init__(self, events: list[str]) -> None:
        self._events = events

    def ahead(self, plan: Any) -> None:
        self._events.append("begun")

    def rest(self) -> None:
        self._events.append("rested")

    def describe(self) -> Mapping[str, Any]:
        return {"processes": 8, "threads": 1}


def a_study(events: list[str], *, measures_time: bool = False) -> Any:
    """Six hours on one worker's part of the CPU."""

    def estimate(model: Any, material: Any, *, batch_size: int) -> Estimate:
        events.append(f"estimated with {torch.get_num_threads()} threads")
        return Estimate(2**30, 2**28, 2**34, 6 * 3600.0)

    def measured(model: Any, material: Any, *, workers: Any, **more: Any) -> str:
        events.append("alone" if workers == 1 else "together")
        return "a result"

    return SimpleNamespace(name="a-study", measures_time=measures_time, estimate=estimate, run=measured)


def test_the_needs_of_workers_are_said_once_before_they_begin(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mechicl.studies.running.plan", lambda *arguments, **more: None)
    cells: Any = None
    events: list[str] = []
    helpers: Any = Eight(events)
    study, threads = a_study(events), torch.get_num_threads()
    announce(helpers, study, None, None, ASKED)
    begin(helpers, study, None, None, ASKED, cells)
    assert run(study, None, None, ASKED, cells, helpers) == "a result"
    assert events == ["estimated with 1 threads", "begun", "together"]
    assert torch.get_num_threads() == threads
    assert capsys.readouterr().err == (
        "mechicl: a-study. Estimated memory in each of 8 workers: 256 MiB plus 1.0 GiB of weights (16.0 GiB free). "
        "Estimated time with 8 workers: minutes (an order of magnitude).\n"
    )
    run(a_study(events), None, None, ASKED, cells, helpers)
    assert "with 8 workers" in capsys.readouterr().err, "what was not begun is said, too"


def test_what_measures_time_is_estimated_alone(capsys: pytest.CaptureFixture[str]) -> None:
    events: list[str] = []
    helpers, cells = Eight(events), None
    run(a_study(events, measures_time=True), None, None, ASKED, cells, helpers)  # type: ignore[arg-type]
    assert events == ["rested", f"estimated with {torch.get_num_threads()} threads", "alone"]
    assert capsys.readouterr().err.endswith(
        "Estimated time: hours (an order of magnitude), alone, because it measures time.\n"
    )


@pytest.mark.parametrize(
    ("given", "n"),
    [
        ({}, "no team"), ({"workers": 1}, "no team"), ({"workers": 2}, 2), ({"ray": "auto"}, None),
        ({"ray": "auto", "workers": 1}, 1), ({"ray": "auto", "workers": 3}, 3),
    ],
)  # fmt: skip
def test_one_worker_on_a_cluster_is_one(given: dict[str, Any], n: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Noted:
        def __init__(self, model: Any, n: int | None, *, ray: str | None) -> None:
            self.n = n

        def __enter__(self) -> Noted:
            return self

        def __exit__(self, *error: object) -> None:
            pass

    monkeypatch.setattr("mechicl.studies.team.Team", Noted)
    cells: Any = None
    with helpers_of(options(**given), None, cells) as helpers:
        assert getattr(helpers, "n", "no team") == n


def test_models_of_one_name_are_refused_before_any_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnPrompts, "load_model", lambda *arguments, **more: pytest.fail("a model is loaded"))
    for run_of in ("one", "other"):
        (tmp_path / run_of / "step1").mkdir(parents=True)
    same = f"{tmp_path / 'one' / 'step1'},{tmp_path / 'other' / 'step1'}"
    for models, name in ((same, "step1"), ("pythia-70m,EleutherAI/pythia-70m", "pythia-70m"), ("a.gguf,b/a.gguf", "a")):
        with pytest.raises(InputError, match=f"Two of the models or texts are called {name};"):
            options(model=models).result(DeepLayers())
    assert [one.model for one in options(model="gpt2", checkpoints="step1,step2").each_model()] == [
        "gpt2@step1", "gpt2@step2",
    ]  # fmt: skip
