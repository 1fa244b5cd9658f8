"""Numbers that can be trusted: NaN is told with its place, the same seed gives the same bits, order does not matter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from mechicl.errors import NumericalError
from mechicl.hooks import run
from mechicl.models import hooked
from mechicl.probes import LocalAttention
from mechicl.studies.study import Study
from tests import tiny
from tests.contract import catalogue

STUDIES = {study.name: study for study in catalogue.studies()}


@pytest.mark.parametrize(
    "name", [name for name, study in STUDIES.items() if study.reads != "weights" and name != "compression-speed"]
)
def test_nan_names_the_study_and_the_place(name: str) -> None:
    """NaN in one dimension of one layer, in one sequence: no study gives a table, and the message says whose it was.

    (The speed of compression measures seconds.)
    """
    model, study = tiny.fresh("gpt2"), STUDIES[name]

    def poison(value: Tensor, hook: Any) -> Tensor:
        poisoned = value.clone()
        poisoned[0, 1:, 2] = torch.nan
        return poisoned

    with hooked(model).hooks([("blocks.1.hook_mlp_out", poison)]), pytest.raises(NumericalError) as told:
        study.run(model, catalogue.studied(study), batch_size=2)
    sentence = str(told.value)
    assert sentence.startswith((f"{name}:", f"{name}, ")), sentence
    assert "nan" in sentence
    assert "\n" not in sentence


def test_nan_in_a_batch_is_told_by_its_indices() -> None:
    model, corpus = tiny.fresh("gpt2"), catalogue.text()
    with torch.no_grad():
        model.embed.W_E[int(corpus.tokens[1, 2])] = torch.inf
    with pytest.raises(NumericalError, match=r"last residual is nan at position \d+.* in the batch of \d"):
        run(model, corpus, [LocalAttention()], batch_size=1)


def measured(study: Study, model: Any, **options: Any) -> pd.DataFrame:
    table = study.run(model, catalogue.studied(study), **options).table
    return table.loc[:, [name for name in table if "seconds" not in name]]


@pytest.mark.parametrize("name", [name for name in STUDIES if name != "error-diagnosis"])
def test_the_same_seed_gives_the_same_bits_in_any_batches(name: str) -> None:
    """Twice the same: equal bit by bit. In other batches: equal to 1e-5 of the scale."""
    study, model = STUDIES[name], tiny.model("llama")
    once, again, others = (measured(study, model, batch_size=size) for size in (2, 2, 3))
    pd.testing.assert_frame_equal(once, again, check_exact=True)
    for column in once.select_dtypes("number"):
        scale = max(float(np.nanmax(np.abs(once[column].to_numpy(float)))), 1e-2)
        np.testing.assert_allclose(others[column], once[column], rtol=0, atol=2e-5 * scale, err_msg=column)


@pytest.mark.parametrize("name", ["isolation", "deep-layers", "information-flow", "norms", "logit-lens"])
def test_the_order_of_the_data_does_not_matter(name: str) -> None:
    study, model = STUDIES[name], tiny.model("gpt2")
    material = catalogue.studied(study)
    assert material is not None
    turned = material.select(list(range(len(material)))[::-1])
    one, other = (study.summary(study.run(model, part).table) for part in (material, turned))
    np.testing.assert_allclose(other["mean"], one["mean"], rtol=1e-5, atol=1e-7, equal_nan=True)
