"""Error diagnosis: invariants of its distances, and what it needs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from mechicl.engines.context import read_context
from mechicl.errors import InputError
from mechicl.hooks import run
from mechicl.metrics import confusion_correlation
from mechicl.probes.target_query import TargetQuery
from mechicl.studies import error_diagnosis
from mechicl.studies.label_words.error_diagnosis import ErrorDiagnosis, anchor_keys
from mechicl.studies.label_words.pairs import PAIR, REAL, pair_matrix, seeds_by_classes
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
    assert "Nearest anchors" in " ".join(result.details())
    panels = result.figure().layout.meta["panels"]
    assert [sum(f"M\u00a0=\u00a0{m}" in name for name in panels) for m in (3, 10)] == [1, 1]


def test_a_pair_that_was_not_measured_is_empty() -> None:
    matrix = pair_matrix(pd.Series({("a", "b"): 0.5, ("b", "c"): 0.7}))
    assert np.isnan(matrix.loc["a", "c"])
    assert matrix.loc["b", "a"] == 0.5
    assert np.diag(matrix).tolist() == [1, 1, 1]


@pytest.mark.parametrize("family", tiny.families)
def test_queries_and_keys_make_the_scores(family: str) -> None:
    """What the probe reads is what attention multiplies: scaled products with the keys are the scores at q."""
    model, prompts = tiny.model(family), random_prompts(2)
    probe = TargetQuery()
    queries = run(model, prompts, [probe])[probe].values
    for prompt, of_prompt in zip(prompts, queries, strict=True):
        _, cache = model.run_with_cache(torch.tensor([prompt.tokens]), prepend_bos=False)
        for layer in range(model.cfg.n_layers):
            rotated = f"blocks.{layer}.attn.hook_rot_q"
            expected = cache[rotated if rotated in cache else f"blocks.{layer}.attn.hook_q"][0, prompt.target]
            torch.testing.assert_close(of_prompt[layer], expected.flatten(), rtol=1e-4, atol=1e-5)


def test_there_are_as_many_contexts_as_the_data_fill() -> None:
    behind = replace(STUDY, contexts=64).prompts(TASK, tiny.tokenizer(), seed=0).auxiliary["contexts"]
    assert len({prompt.tokens[: prompt.query_start] for prompt in behind}) == 8


def test_contexts_hold_as_many_demonstrations_as_asked_for_and_the_first_is_that_of_all_items() -> None:
    asked = STUDY.prompts(TASK, tiny.tokenizer(), seed=3, shots=(2, 1, 1), mislabelled=(1, 0, 0))
    behind = asked.auxiliary["contexts"]
    assert {prompt.anchor_classes for prompt in behind} == {(1, 0, 1, 2)}  # the first drawn of the first is wrong
    assert behind[0].tokens[: behind[0].query_start] == asked[0].tokens[: asked[0].query_start]
    shown = [set(prompt.ids.demonstrations) for prompt in behind[:4]]
    assert len(set.union(*shown)) == sum(map(len, shown))  # no context shares an example with another


def test_a_class_with_several_demonstrations_has_their_mean_key() -> None:
    model = tiny.model("gpt2")
    prompt = TASK.prompts(tiny.tokenizer(), shots=2, order="class", samples=1)[0]
    _, cache = model.run_with_cache(torch.tensor([prompt.tokens]), prepend_bos=False)
    found = anchor_keys(model, read_context(model, prompt))
    for layer in range(model.cfg.n_layers):
        keys = cache[f"blocks.{layer}.attn.hook_k"][0].flatten(1)
        expected = torch.stack([(keys[prompt.anchors[2 * c]] + keys[prompt.anchors[2 * c + 1]]) / 2 for c in range(3)])
        torch.testing.assert_close(found[layer], expected, rtol=1e-5, atol=1e-6)


def test_seeds_are_tested_once_and_tasks_apart() -> None:
    """Mean matrices of seeds with the same classes have one test; other classes are permuted by themselves."""
    model, study = tiny.model("gpt2"), replace(STUDY, components=(3,), contexts=2)
    sets = [study.prompts(TASK, tiny.tokenizer(), seed=seed) for seed in (0, 1)]
    other = replace(TASK, name="others")
    result = study.run(model, [*sets, study.prompts(other, tiny.tokenizer(), seed=0)])
    at = result.summary().query("layer == 1").set_index(["task", "metric"])
    assert at.loc[("questions", "p_value"), "seeds"] == 2
    table = result.table[result.table["task"] == "questions"]
    mean = torch.tensor(study.confusion(table, 1, 3).to_numpy())
    real = torch.tensor(pair_matrix(table[table["layer"] == REAL].groupby(PAIR, sort=False)["value"].mean()).to_numpy())
    whole = confusion_correlation(mean, real, generator=np.random.default_rng(0))
    assert at.loc[("questions", "p_value"), "mean"] == pytest.approx(whole.p_value)
    assert at.loc[("questions", "spearman"), "mean"] == pytest.approx(whole.spearman)
    assert " ".join(result.details()).count("Nearest anchors") == 1
    renamed = table["class_a"].str.upper(), table["class_b"].str.upper()
    own = table.assign(class_a=renamed[0], class_b=renamed[1]).where(table["seed"] == 1, table)
    assert [len(part["seed"].unique()) for part in seeds_by_classes(own)] == [1, 1]
    assert 0 < study.summary(own).query("metric == 'p_value'")["mean"].min() <= 1
    assert study.summary(own)["seed_sd"].notna().any()


def test_refusals_say_what_to_do() -> None:
    model = tiny.model("gpt2")
    with pytest.raises(InputError, match="make its prompts by"):
        error_diagnosis(model, films())
    with pytest.raises(InputError, match="components at most"):
        error_diagnosis(model, STUDY.prompts(TASK, tiny.tokenizer(), seed=0, samples=12), components=(50,))
    with pytest.raises(InputError, match="use demonstrations='per_seed'"):
        STUDY.prompts(TASK, tiny.tokenizer(), demonstrations="per_prompt")
    with pytest.raises(InputError, match="label word of every class"):
        STUDY.run(model, STUDY.prompts(TASK, tiny.tokenizer(), mislabelled=(1, 0, 0)))
    with pytest.raises(InputError, match=r"components is .*; give whole numbers from 1 on"):
        ErrorDiagnosis(components=())
    result = replace(STUDY, layer=9).run(model, STUDY.prompts(TASK, tiny.tokenizer(), seed=0))
    assert "layers 0-2" in str(result.claims)
    with pytest.raises(InputError, match="layers 0-2"):
        result.figure()
