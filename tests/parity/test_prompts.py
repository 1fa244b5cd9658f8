"""The authors' own prompts, drawn again: the same sentences, tokens, positions and rows for the same seed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mechicl.prompts import Prompt, PromptSet
from mechicl.tasks import Task, load_task
from tests.conftest import parity_files, read_json


@pytest.fixture(scope="module")
def tokenizer(shared: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(shared / "models" / "tiny-gpt2")


def task_of(fixture: dict[str, Any], shared: Path) -> Task:
    """The fixture's task on the rows that the authors' code was given."""
    name = fixture["meta"]["task"]
    folder = shared / "data" / name
    if not folder.is_dir():
        pytest.skip(f"no data for {name} in {folder.parent}")
    return load_task(name, data=folder)


def assert_same(prompts: PromptSet, stored: Sequence[dict[str, Any]], fixture: dict[str, Any]) -> None:
    assert len(prompts) == len(stored)
    for ours, theirs in zip(prompts, stored, strict=True):
        assert ours.string == theirs["sentence"]
        assert list(ours.tokens) == theirs["input_ids"]
        if "label" in theirs:
            assert ours.gold == theirs["label"]
            assert ours.target == theirs["final_pos"]
            assert anchors_by_class(ours) == [np.ravel(p).tolist() for p in theirs["label_positions"]]
        if "dataset_row" in theirs:
            assert ours.ids.query == theirs["dataset_row"]
    assert list(prompts.label_words) == list(by_class(fixture["meta"]["label_words"]))
    assert list(prompts.label_ids) == list(by_class(fixture["meta"]["label_token_ids"]))


def by_class(values: dict[str, Any]) -> list[Any]:
    return [values[c] for c in sorted(values, key=int)]


def anchors_by_class(prompt: Prompt) -> list[list[int]]:
    placed = list(zip(prompt.anchors, prompt.anchor_classes, strict=True))
    return [[p for p, c in placed if c == k] for k in range(len(prompt.label_ids))]


@pytest.mark.parametrize("path", parity_files("saliency"))
def test_fresh_demonstrations_for_every_prompt(path: Path, shared: Path, tokenizer: Any) -> None:
    fixture = read_json(path)
    n = len(fixture["prompts"])
    prompts = task_of(fixture, shared).prompts(
        tokenizer, shots=fixture["shot"], samples=n, seed=fixture["meta"]["seed"], demonstrations="per_prompt"
    )
    assert_same(prompts, fixture["prompts"], fixture)


@pytest.mark.parametrize("path", [*parity_files("isolation"), *parity_files("deep"), *parity_files("compression")])
def test_one_set_of_demonstrations_for_a_seed(path: Path, shared: Path, tokenizer: Any) -> None:
    fixture = read_json(path)
    task, n, seed = task_of(fixture, shared), len(fixture["prompts"]), fixture["meta"]["seed"]
    shots = fixture.get("shot", 1)
    assert_same(task.prompts(tokenizer, shots=shots, samples=n, seed=seed), fixture["prompts"], fixture)
    for name in ("no_demo_prompts", "query_prompts"):
        if name in fixture:
            assert_same(task.prompts(tokenizer, shots=0, samples=n, seed=seed), fixture[name], fixture)
    if "text_anchor_prompts" in fixture:
        anchors_only = task.prompts(tokenizer, samples=n, seed=seed, demonstration_text=False)
        assert_same(anchors_only, fixture["text_anchor_prompts"], fixture)
    if "kept_positions" in fixture:
        first = task.prompts(tokenizer, samples=n, seed=seed)[0]
        assert sorted(first.template_positions + first.label_positions) == fixture["kept_positions"]
        assert first.query_start == fixture["original_offset"]


@pytest.mark.parametrize("path", parity_files("reweighting"))
def test_training_prompts_of_re_weighting(path: Path, shared: Path, tokenizer: Any) -> None:
    fixture = read_json(path)
    task, seed = task_of(fixture, shared), fixture["meta"]["seed"]
    train = task.auxiliary_prompts(tokenizer, per_class=fixture["train_per_class"], seed=seed)
    assert_same(train, fixture["train_prompts"], fixture)
    test = task.prompts(tokenizer, samples=len(fixture["test_prompts"]), seed=seed)
    assert_same(test, fixture["test_prompts"], fixture)


@pytest.mark.parametrize("path", parity_files("error_analysis"))
def test_contexts_of_error_diagnosis(path: Path, shared: Path, tokenizer: Any) -> None:
    fixture = read_json(path)
    meta, task = fixture["meta"], task_of(fixture, shared)
    rows = meta[next(key for key in meta if re.fullmatch("test_rows_in_.*", key))]
    contexts = task.context_prompts(tokenizer, contexts=meta["n_contexts"], rows=rows)
    assert_same(contexts, fixture["query_prompts"], fixture)
    assert_same(contexts[: meta["n_contexts"]], fixture["key_prompts"], fixture)
    shuffled = [rows[i] for i in np.random.default_rng(42).permutation(len(rows))]
    assert_same(task.prompts(tokenizer, order="class", rows=shuffled), fixture["eval_prompts"], fixture)
