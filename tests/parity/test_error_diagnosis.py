"""Error diagnosis against the authors' own numbers, on their prompts drawn again."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mechicl.studies.label_words.error_diagnosis import ErrorDiagnosis
from mechicl.studies.label_words.pairs import REAL
from mechicl.tasks import load_task
from tests.conftest import parity_files, read_json


@pytest.mark.parametrize("path", parity_files("error_analysis"))
def test_confusions_equal_the_authors(path: Path, shared: Path, load_shared_model: Any) -> None:
    fixture = read_json(path)
    meta, model = fixture["meta"], load_shared_model(fixture["meta"]["model"])
    task = load_task(meta["task"], data=shared / "data" / meta["task"])
    rows = meta[next(key for key in meta if key.startswith("test_rows_in"))]
    shuffled = [rows[i] for i in np.random.default_rng(42).permutation(len(rows))]
    asked = task.prompts(model.tokenizer, order="class", rows=shuffled)
    behind = task.context_prompts(model.tokenizer, contexts=meta["n_contexts"], rows=rows)
    study = ErrorDiagnosis("paper", components=(5, 10), layer=meta["default_layer"])
    result = study.run(model, replace(asked, auxiliary={"contexts": behind}), batch_size=8)
    pairs = np.triu_indices(len(asked.class_names), 1)
    real = result.table[result.table["layer"] == REAL]["value"]
    np.testing.assert_allclose(real, np.array(fixture["conf_real_unrounded"])[pairs], atol=1e-9)
    for name, theirs in fixture["predicted"].items():
        layer, components = (int(part) for part in name.removeprefix("layer").split("_M"))
        ours = study.confusion(result.table, layer, components).to_numpy()
        np.testing.assert_allclose(ours[pairs], np.array(theirs["conf_pred_unrounded"])[pairs], atol=1e-4, err_msg=name)
    assert result.finding()
