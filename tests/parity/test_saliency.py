"""Information flow against the authors' own numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mechicl.hooks import run
from mechicl.models import load_model
from mechicl.probes import SaliencyFlow
from mechicl.studies.label_words.information_flow import InformationFlow
from mechicl.studies.label_words.saliency_map import saliency_map
from tests.conftest import parity_files, read_json
from tests.parity.stored import stored_prompts


@pytest.mark.parametrize("path", parity_files("saliency"))
def test_flow_equals_the_authors(path: Path, load_shared_model: Any) -> None:
    fixture = read_json(path)
    model, prompts = load_shared_model(fixture["meta"]["model"]), stored_prompts(fixture)
    result = InformationFlow("paper", untrained=0).run(model, prompts, batch_size=4)
    raw = np.array(fixture["S_raw"])  # [prompt metric layer]
    ours = result.table[["S_wp", "S_pq", "S_ww"]].to_numpy().reshape(len(prompts), -1, 3).transpose(0, 2, 1)
    np.testing.assert_allclose(ours, raw, rtol=1e-3, atol=1e-4 * raw.max())
    shares = np.array(fixture["S_share_per_layer"])
    summary = result.summary().pivot(index="metric", columns="layer", values="mean").loc[["S_wp", "S_pq", "S_ww"]]
    np.testing.assert_allclose(summary.to_numpy(), shares, atol=1e-4)


@pytest.mark.parametrize("path", parity_files("saliency"))
def test_maps_equal_the_authors(path: Path, load_shared_model: Any) -> None:
    fixture, arrays = read_json(path), np.load(path.with_suffix(".npz"))
    model, prompts = load_shared_model(fixture["meta"]["model"]), stored_prompts(fixture)
    for index in (0, 1):
        theirs = arrays[f"I_abs_prompt{index}"]
        ours = saliency_map(model, prompts[index], range(len(theirs))).numpy()
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * theirs.max())


@pytest.mark.parametrize("path", parity_files("saliency")[:1])
def test_folded_value_biases_would_be_noticed(path: Path, shared: Path) -> None:
    """The control: TransformerLens's default processing changes the saliency, so the tolerance means something."""
    fixture = read_json(path)
    folder = shared / "models" / fixture["meta"]["model"]
    model = load_model(str(folder), processing="fold", fold_value_biases=True)
    probe = SaliencyFlow()
    reading = run(model, stored_prompts(fixture), [probe])[probe]
    ours = torch.stack(list(reading.quantities.values()), -1)
    theirs = torch.tensor(fixture["S_raw"]).transpose(1, 2)
    assert (ours - theirs).abs().max() > 1e-2 * theirs.max()
