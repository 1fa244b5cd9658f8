"""Deep layers against the authors' own numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mechicl.studies.label_words.deep_layers import DeepLayers
from tests.conftest import parity_files, read_json
from tests.parity.stored import stored_prompts


@pytest.mark.parametrize("path", parity_files("deep"))
def test_deep_layers_equal_the_authors(path: Path, load_shared_model: Any) -> None:
    fixture = read_json(path)
    prompts = stored_prompts(fixture)
    result = DeepLayers("paper").run(load_shared_model(fixture["meta"]["model"]), prompts, batch_size=8)
    theirs = np.array(fixture["attention_sum_heads"]).transpose(0, 2, 1)  # stored as [prompt class layer]
    ours = np.stack(result.table["attention"]).reshape(theirs.shape)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert result.table["predicted"].to_numpy()[:: theirs.shape[1]].tolist() == fixture["reference"]["predicted_label"]
    curves = result.summary().pivot(index="metric", columns="layer", values="mean")
    np.testing.assert_allclose(curves.loc["AUCROC"], fixture["AUCROC"], atol=1e-9)
    np.testing.assert_allclose(curves.loc["R"], fixture["R"], atol=1e-6)
