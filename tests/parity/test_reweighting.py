"""Re-weighting against the authors' own numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mechicl.engines.prefix import run_shared
from mechicl.engines.reweighting import authors_orders, fit_reweighting
from tests.conftest import parity_files, read_json
from tests.parity.stored import stored_prompts


@pytest.mark.parametrize("path", parity_files("reweighting"))
def test_training_is_the_authors_step_by_step(path: Path, load_shared_model: Any) -> None:
    fixture = read_json(path)
    model = load_shared_model(fixture["meta"]["model"])
    train, test = (stored_prompts(fixture, fixture[f"{part}_prompts"]) for part in ("train", "test"))
    assert authors_orders(len(train), fixture["epochs"], fixture["meta"]["seed"]) == fixture["order_per_epoch"]
    gradients: list[torch.Tensor] = []
    fit = fit_reweighting(
        model, train, epochs=fixture["epochs"], seed=fixture["meta"]["seed"],
        observe=lambda beta, gradient: gradients.append(gradient),
    )  # fmt: skip
    np.testing.assert_allclose(fit.losses, fixture["step_loss"], atol=1e-4)
    first = np.array(fixture["grad_first_step"])
    np.testing.assert_allclose(gradients[0], first, atol=1e-4 * np.abs(first).max())
    np.testing.assert_allclose(fit.patch.beta, fixture["beta_final"], atol=5e-5)
    for patches, theirs in (([fit.patch], "test_with_beta"), ([], "test_without_beta")):
        probs = run_shared(model, test, patches=patches).label_probs
        np.testing.assert_allclose(probs, fixture[theirs]["class_probs"], atol=2e-5)
