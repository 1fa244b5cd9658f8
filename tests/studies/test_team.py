"""Workers give the table of one process, also where one is killed; what cannot be shared is refused in one sentence."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import mechicl as mi
from mechicl.engines.workers import OwnProcess, Seat, answered
from mechicl.errors import InputError
from mechicl.models import hooked, load_model
from mechicl.models.again import again
from mechicl.results import Cells
from mechicl.studies.label_words.compression_speed import CompressionSpeed
from mechicl.studies.label_words.deep_layers import DeepLayers
from mechicl.studies.running import plan
from mechicl.studies.team import Parcel, Team, _check_room, measure
from tests import tiny
from tests.random_prompts import random_prompts


@pytest.fixture(scope="module")
def model() -> Any:
    return load_model("tiny-icl", device="cpu")


@pytest.fixture(scope="module")
def prompts(model: Any) -> list[mi.PromptSet]:
    task = mi.load_task("tiny-topics-2")
    return [task.prompts(model.tokenizer, shots=1, samples=4, seed=seed) for seed in (1, 2, 3)]


class Deadly(Cells):
    """With the first cell that is kept, a worker is killed, at work or not."""

    team: Team
    kept: list[str]

    def keep(self, key: Mapping[str, Any], table: pd.DataFrame) -> pd.DataFrame:
        self.kept.append(repr(key))
        if len(self.kept) == 1:
            seat = self.team._workers._seats[0]
            assert isinstance(seat, OwnProcess)
            os.kill(seat.pid or 0, signal.SIGKILL)
        return super().keep(key, table)


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_two_workers_one_of_them_killed_give_the_table_of_one_process(
    model: Any, prompts: list[mi.PromptSet], tmp_path: Path
) -> None:
    study, cells = DeepLayers(), Deadly(tmp_path)
    cells.kept = []
    with Team(model, 2) as cells.team:
        result = study.run(model, prompts, cells=cells, workers=cells.team)
        alone = [seat.pid for seat in cells.team._workers._seats.values() if isinstance(seat, OwnProcess)]
        assert len(alone) == 2
    assert len(cells.kept) == len(set(cells.kept)), "nothing is measured twice"
    pd.testing.assert_frame_equal(result.table, study.run(model, prompts).table, check_exact=True)
    assert result.provenance["workers"] == {"processes": 2, "threads": max(1, torch.get_num_threads() // 2)}
    for pid in alone:
        with pytest.raises(ProcessLookupError):  # they end with the block
            os.kill(pid or 0, 0)


def test_a_worker_with_other_weights_or_code_is_refused(model: Any, prompts: list[mi.PromptSet]) -> None:
    """`measure` is what a worker does; its model and its code are part of what it is asked for."""
    study = DeepLayers()
    asked = plan(study, model, prompts[0], 16, None, shared=True)
    unit = asked.units()[0]
    (table,) = measure(model, Parcel.of(study, asked, unit))
    pd.testing.assert_frame_equal(table, study.measure(model, prompts[0], {}, batch_size=16))
    for what, value in (("code", "0123"), ("model", {}), ("versions", {"torch": "0"})):
        other = replace(unit, keys=[{**unit.keys[0], what: value}])
        with pytest.raises(InputError, match=f"A worker's {what} differ"):
            measure(model, Parcel.of(study, asked, other))


def test_what_workers_cannot_have_is_refused(model: Any, prompts: list[mi.PromptSet]) -> None:
    with pytest.raises(InputError, match=r"not from mi\.load_model"):
        DeepLayers().run(tiny.model("gpt2"), random_prompts(3), workers=2)
    with pytest.raises(InputError, match="measures time, which workers"):
        CompressionSpeed().run(model, prompts, workers=2)
    with pytest.raises(InputError, match="workers is 0"):
        DeepLayers().run(model, prompts, workers=0)
    handle = model.blocks[0].hook_resid_pre.add_hook(lambda value, hook: value)
    try:
        with pytest.raises(InputError, match="Hooks are installed"):
            DeepLayers().run(model, prompts, workers=2)
    finally:
        model.reset_hooks()
    assert handle is None
    edited = load_model("tiny-icl", device="cpu")
    edited.W_U.data[0, 0] += 1
    with pytest.raises(InputError, match="weights were edited"):
        DeepLayers().run(edited, prompts, workers=2)


def test_a_study_of_a_notebook_is_refused(model: Any, prompts: list[mi.PromptSet]) -> None:
    class Own(DeepLayers):
        pass

    Own.__module__ = "__main__"
    asked = plan(DeepLayers(), model, prompts[0], 16, None, shared=True)
    with pytest.raises(InputError, match="put it in a file of its own and load it with"):
        Parcel.of(Own(), asked, asked.units()[0])


def test_a_model_is_loaded_again_as_it_was(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.huggingface("gpt2").save_pretrained(tmp_path / "gpt2")
    tiny.tokenizer().save_pretrained(tmp_path / "gpt2")
    monkeypatch.chdir(tmp_path)
    loaded = load_model("gpt2", processing="fold", n_ctx=64, device="cpu")
    monkeypatch.chdir("/")
    copy = again(loaded)("cpu")
    facts = [mi.models.provenance(one) for one in (loaded, copy)]
    for fact in ("weight_digest", "config_digest", "processing", "dtype"):
        assert facts[0][fact] == facts[1][fact]
    assert copy.cfg.n_ctx == 64


class Here(Seat):
    """A seat whose work is done in this process."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def begin(self) -> None:
        pass

    def do(self, work: bytes) -> bytes:
        return answered(work, self._model)

    def stop(self) -> None:
        pass


@pytest.fixture
def team(model: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Team]:
    """A team of one, without a process."""
    monkeypatch.setattr("mechicl.studies.team.OwnProcess", lambda load, device, **how: Here(model))
    with Team(model, 1) as alone:
        yield alone


@dataclass(frozen=True)
class Warns(DeepLayers):
    """All conditions of a part are measured at once, with a warning."""

    def measure_all(self, *arguments: Any, **more: Any) -> Iterator[pd.DataFrame]:
        warnings.warn("Few examples.", stacklevel=1)
        yield from super().measure_all(*arguments, **more)


def test_what_ended_ahead_of_time_still_warns_and_is_not_kept_in_memory(
    team: Team, model: Any, prompts: list[mi.PromptSet], tmp_path: Path
) -> None:
    study, cells = Warns(), Cells(tmp_path)
    asked = plan(study, model, prompts, 16, cells, shared=True)
    team.ahead(asked)
    team.rest()
    assert asked.units() == [], "all cells are stored"
    assert team._begun
    with pytest.warns(UserWarning, match=r"^Few examples\.$"):
        result = study.run(model, prompts, cells=cells, workers=team)
    assert not team._begun
    pd.testing.assert_frame_equal(result.table, DeepLayers().run(model, prompts).table, check_exact=True)


def test_two_parts_may_have_the_same_prompts(team: Team, model: Any, prompts: list[mi.PromptSet]) -> None:
    same = [mi.PromptSet.of(list(prompts[0])) for _ in range(2)]
    result = DeepLayers().run(model, same, workers=team)
    pd.testing.assert_frame_equal(result.table, DeepLayers().run(model, same).table, check_exact=True)


def test_libraries_of_each_process_count(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mechicl.studies.team.free_bytes", lambda device: 2**30)
    _check_room(hooked(model), 1)
    with pytest.raises(InputError, match=r"^2 workers do not fit: each takes 0\.5 GiB for libraries and weights, free"):
        _check_room(hooked(model), 2)
