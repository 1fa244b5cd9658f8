"""Error diagnosis: invariants of its distances, and what it needs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mechicl.errors import InputError
from mechicl.hooks import run
from mechicl.probes.target_query import TargetQuery
from mechicl.studies.label_words.error_diagnosis import REAL, ErrorDiagnosis, error_diagnosis
from mechicl.tasks import Task
from tests import tiny
from tests.engines.test_compression import films
from tests.random_prompts import random_prompts

TASK = Task(
    "questions", "Question: {text}\nAnswer Type:{label}",
    {"person": " Person", "place": " Location", "number": " Number"},
    {
        split: [
            {"text": f"{word} {i}", "label": label}
            for i in range(8)
            for word, label in (("who", "person"), ("where", "place"), ("many", "number"))
        ]
        for split in ("train", "test")
    },
)  # fmt: skip
STUDY = ErrorDiagnosis(components=(3, 10), contexts=4)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("protocol", ["paper", "corrected"])
def test_distances_are_normalised_and_correlated_in_every_layer(family: str, protocol: str) -> None:
    study = replace(STUDY, protocol=protocol)
    model = tiny.model(family)
    result = study.run(model, study.prompts(TASK, tiny.tokenizer(), seed=0))
    layer, components = study.shown(result.table)
    assert (layer, components) == (2, 10)
    matrix = study.confusion(result.table, layer, components).to_numpy()
    np.testing.assert_allclose(matrix, matrix.T)
    assert matrix[np.triu_indices(3, 1)].max() == pytest.approx(1)
    scaled = result.table.assign(
        value=result.table["value"].where(result.table["layer"] == REAL, result.table["value"] * 7)
    )
    np.testing.assert_allclose(study.confusion(scaled, layer, components), matrix)
    summary = result.summary()
    assert set(summary["metric"]) == {"spearman", "pearson", "p_value"}
    assert set(summary["layer"]) == set(range(model.cfg.n_layers))
    spearman = summary[summary["metric"] == "spearman"]
    assert spearman["mean"].between(-1, 1).all()
    assert spearman["low"].isna().all() == (protocol == "paper")
    assert "Nearest anchors" in result.finding()
    assert result.figure().data


@pytest.mark.parametrize("family", tiny.families)
def test_queries_and_keys_make_the_scores(family: str) -> None:
    """What the probe reads is what attention multiplies: scaled products with the keys are the scores at q."""
    model, prompts = tiny.model(family), random_prompts(2)
    probe = TargetQuery()
    queries = run(model, prompts, [probe])[probe]
    for prompt, of_prompt in zip(prompts, queries, strict=True):
        _, cache = model.run_with_cache(torch.tensor([prompt.tokens]), prepend_bos=False)
        for layer in range(model.cfg.n_layers):
            rotated = f"blocks.{layer}.attn.hook_rot_q"
            expected = cache[rotated if rotated in cache else f"blocks.{layer}.attn.hook_q"][0, prompt.target]
            torch.testing.assert_close(of_prompt[layer], expected.flatten(), rtol=1e-4, atol=1e-5)


def test_there_are_as_many_contexts_as_the_data_fill() -> None:
    behind = replace(STUDY, contexts=64).prompts(TASK, tiny.tokenizer(), seed=0).companions["contexts"]
    assert len({prompt.tokens[: prompt.query_start] for prompt in behind}) == 8


def test_refusals_say_what_to_do() -> None:
    model = tiny.model("gpt2")
    with pytest.raises(InputError, match="make the prompts by"):
        error_diagnosis(model, films())
    with pytest.raises(InputError, match="components at most"):
        error_diagnosis(model, STUDY.prompts(TASK, tiny.tokenizer(), seed=0, samples=12), components=(50,))
    with pytest.raises(InputError, match="use shots=1"):
        STUDY.prompts(TASK, tiny.tokenizer(), shots=2)
    with pytest.raises(InputError, match="1 or more"):
        ErrorDiagnosis(components=())
    result = replace(STUDY, layer=9).run(model, STUDY.prompts(TASK, tiny.tokenizer(), seed=0))
    with pytest.raises(InputError, match="layers 0-2"):
        result.finding()
