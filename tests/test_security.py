"""Nothing that can run code is ever opened, and no name from data leads out of the folder that was given."""

from __future__ import annotations

import ast
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

import mechicl
from mechicl.engines.context import Context
from mechicl.errors import InputError
from mechicl.models import load_model
from mechicl.patches import ReweightAnchors
from mechicl.results import Cells
from mechicl.studies import load_result
from mechicl.studies.label_words.isolation import Isolation
from mechicl.tasks import Task
from tests import tiny
from tests.random_prompts import random_prompts

SOURCES = sorted(Path(mechicl.__file__).parent.rglob("*.py"))
_OPENERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "eval", "exec"}


class Trap:
    """Unpickled, it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.write_text, (self.path, "opened")


def test_no_module_knows_a_pickle_or_runs_text() -> None:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name.split(".")[0] for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [(node.module or "").split(".")[0]]
            if isinstance(node, ast.Call):
                function = node.func
                if isinstance(function, ast.Name):
                    names = [function.id]
                elif isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
                    where = function.value.id
                    assert (where, function.attr) not in {("torch", "load"), ("np", "load"), ("pd", "read_pickle")}, (
                        path
                    )
            assert not _OPENERS & set(names), path


def test_remote_code_is_trusted_only_where_the_user_says_so() -> None:
    """Every function that knows `trust_remote_code` has it off by default, and hands on what it was given."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                arguments = dict(zip((a.arg for a in node.args.kwonlyargs), node.args.kw_defaults, strict=True))
                default = arguments.get("trust_remote_code")
                assert default is None or ast.unparse(default) == "False", path
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert not (isinstance(node.value, ast.Constant) and node.value.value is True), path


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_a_pickle_under_another_name_is_not_opened(tmp_path: Path, suffix: str) -> None:
    trap, path = tmp_path / "trap", tmp_path / f"data{suffix}"
    path.write_bytes(pickle.dumps(Trap(trap)))
    with pytest.raises(InputError):
        Task("films", "{text}\nA:{label}", {"a": " A", "b": " B"}, path).prompts(tiny.tokenizer())
    assert not trap.exists()


def test_pickles_in_the_place_of_what_was_saved_are_not_opened(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    for name in ("context", "reweighting", "isolation"):
        (tmp_path / f"{name}.json").write_text("{}")
        for suffix in ("safetensors", "parquet"):
            torch.save(Trap(trap), tmp_path / f"{name}.{suffix}")
    for load in (Context.load, ReweightAnchors.load, lambda folder: load_result(folder, "isolation")):
        with pytest.raises(InputError):
            load(tmp_path)
    Isolation(n_layers=(1,)).run(tiny.model("gpt2"), random_prompts(1), cells=Cells(tmp_path))
    for cell in (tmp_path / "cells").iterdir():
        cell.write_bytes(pickle.dumps(Trap(trap)))
    Isolation(n_layers=(1,)).run(tiny.model("gpt2"), random_prompts(1), cells=Cells(tmp_path))
    assert not trap.exists()


def test_a_model_that_brings_code_or_pickles_is_refused(tmp_path: Path) -> None:
    tiny.huggingface("gpt2").save_pretrained(tmp_path)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'trap')!r}, 'w')")
    (tmp_path / "config.json").write_text(config.replace("{", '{"auto_map": {"AutoModelForCausalLM": "evil.Evil"},', 1))
    with pytest.raises(InputError, match="trust_remote_code=True if you trust it"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text(config)
    (tmp_path / "model.safetensors").unlink()
    torch.save(Trap(tmp_path / "trap"), tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="only as a pickle"):
        load_model(tmp_path)
    assert not (tmp_path / "trap").exists()


def test_names_from_data_stay_in_the_folder(tmp_path: Path) -> None:
    """A task, a model and class names that are paths and markup: everything is written inside, and escaped."""
    rows = [{"text": "<script>alert(1)</script>", "label": name} for name in ("../a", "<b>") for _ in range(3)]
    task = Task("../../out/of", "{text}\nA:{label}", {"../a": " Positive", "<b>": " Negative"}, rows)
    model = tiny.fresh("gpt2")
    model.cfg.model_name = "../../<img src=x>"
    folder = tmp_path / "inside" / "results"
    prompts = task.prompts(tiny.tokenizer(), samples=2)
    Isolation(n_layers=(1,)).run(model, prompts, cells=Cells(folder)).save(folder)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written
    assert all(folder in path.parents for path in written)
    assert "<script>alert" not in prompts[0]._repr_html_()
