"""Compression against the authors' own numbers, on their prompts drawn again."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mechicl.engines.compression import authors_random_set, authors_top_sets, kept_positions, without_the_rest
from mechicl.studies.label_words.compression import Compression
from mechicl.tasks import load_task
from tests.conftest import parity_files, read_json


def prompts_of(fixture: dict[str, Any], shared: Path, tokenizer: Any) -> Any:
    task = load_task(fixture["meta"]["task"], data=shared / "data" / fixture["meta"]["task"])
    return task.prompts(tokenizer, samples=len(fixture["prompts"]), seed=fixture["meta"]["seed"])


@pytest.mark.parametrize("path", parity_files("compression"))
def test_kept_sets_are_the_authors(path: Path, shared: Path, load_shared_model: Any) -> None:
    fixture = read_json(path)
    prompts = prompts_of(fixture, shared, load_shared_model(fixture["meta"]["model"]).tokenizer)
    variants = fixture["variants"]
    assert list(kept_positions(prompts[0])) == fixture["kept_positions"]
    for ours, theirs in zip(prompts, fixture["text_anchor_prompts"], strict=True):
        assert list(without_the_rest(ours).tokens) == theirs["input_ids"]
    (random,) = (variants[name] for name in variants if name.startswith("hidden_random_offset"))
    assert list(authors_random_set(prompts[0])) == random["kept_positions"]
    for index, ours in enumerate(authors_top_sets(prompts[0], 3)):
        assert list(ours) == variants[f"hidden_random_top_set{index}_offset_original"]["kept_positions"]


@pytest.mark.parametrize("path", parity_files("compression"))
def test_compression_equals_the_authors(path: Path, shared: Path, load_shared_model: Any) -> None:
    fixture = read_json(path)
    model = load_shared_model(fixture["meta"]["model"])
    prompts = prompts_of(fixture, shared, model.tokenizer)
    study = Compression("paper", n_sets=3)
    result = study.run(model, prompts, batch_size=8)
    table = result.table
    loyalty = study.loyalty(table)
    for name, theirs in fixture["variants"].items():
        method = next(m for m in METHODS if name.startswith(m))
        rows = table[table["method"] == METHODS[method]]
        if "offset" in name:
            rows = rows[rows["positions"] == ("zero" if "offset0" in name else "original")]
        if "set" in name.split("_offset")[0]:
            rows = rows[rows["set"] == int(name.split("_set")[1][0])]
        assert len(rows) == len(prompts), name
        np.testing.assert_allclose(np.stack(rows["label_probs"]), theirs["class_probs"], atol=2e-5, err_msg=name)
        assert rows["predicted"].tolist() == theirs["predicted_label"]
        for mine, authors in zip(rows["top_tokens"], theirs["top5_ids"], strict=True):
            assert set(mine[:5]) == set(authors)
        if method.endswith("top"):
            continue
        agreement = loyalty.loc[(loyalty["method"] == METHODS[method]) & loyalty["positions"].isin(rows["positions"])]
        for ours, key in (("label_loyalty",) * 2, ("word_loyalty_5", "word_loyalty_k5"), ("accuracy",) * 2):
            assert agreement[ours].mean() == pytest.approx(theirs[key], abs=1e-6), name


METHODS = {
    "full_icl": "full context",
    "text_anchor": "text anchor",
    "hidden_random_top": "hidden random, best set",
    "hidden_random": "hidden random",
    "hidden_anchor": "hidden anchor",
}
