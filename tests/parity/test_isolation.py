"""Isolation against the authors' own numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mechicl.studies.label_words.isolation import Isolation, authors_draws
from tests.conftest import parity_files, read_json
from tests.parity.stored import stored_prompts

CONDITIONS = {
    "label_first": ("label words", "first"),
    "label_last": ("label words", "last"),
    "random_first": ("random tokens", "first"),
    "random_last": ("random tokens", "last"),
}


@pytest.mark.parametrize("path", parity_files("isolation"))
def test_isolation_equals_the_authors(path: Path, load_shared_model: Any) -> None:
    fixture = read_json(path)
    n = fixture["n_isolated_layers"]
    prompts = stored_prompts(fixture)
    model = load_shared_model(fixture["meta"]["model"])
    study = Isolation("paper", n_layers=(n,))
    result = study.run(model, prompts, batch_size=8)
    loyalty = study.loyalty(result.table)
    expected = {("nothing", ""): fixture["reference"]} | {
        condition: fixture["variants"][name] for name, condition in CONDITIONS.items()
    }
    for (isolated, where), theirs in expected.items():
        rows = result.table[(result.table["isolated"] == isolated) & (result.table["where"] == where)]
        np.testing.assert_allclose(np.stack(rows["label_probs"]), theirs["class_probs"], atol=1e-5)
        assert rows["predicted"].tolist() == theirs["predicted_label"]
        for mine, authors in zip(rows["top_tokens"], theirs["top5_ids"], strict=True):
            assert set(mine[:5]) == set(authors)
        if isolated == "nothing":
            continue
        agreement = loyalty[(loyalty["isolated"] == isolated) & (loyalty["where"] == where)]
        for ours, name in (
            ("label_loyalty",) * 2,
            ("word_loyalty_5", "word_loyalty_k5"),
            ("word_loyalty_10", "word_loyalty_k10"),
        ):
            assert agreement[ours].mean() == pytest.approx(theirs[name], abs=1e-6)


@pytest.mark.parametrize("path", parity_files("isolation"))
def test_random_draws_are_the_authors(path: Path) -> None:
    fixture = read_json(path)
    prompts = stored_prompts(fixture)
    drawn = authors_draws(prompts, fixture["n_isolated_layers"])
    theirs = fixture["variants"]["random_first"]["drawn_positions"]
    assert [[*drawn[p]] for p in prompts] == [[row[key] for key in sorted(row, key=int)] for row in theirs]
