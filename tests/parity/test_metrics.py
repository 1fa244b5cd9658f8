"""Measures of *Label Words are Anchors* on the authors' own attention, predictions and keys."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mechicl import metrics
from tests.conftest import parity_files, read_json


@pytest.mark.parametrize("path", parity_files("deep"))
def test_auroc_and_r_are_the_notebooks(path: Path) -> None:
    stored = read_json(path)
    attention = torch.tensor(stored["attention_sum_heads"]).transpose(1, 2)  # stored as [prompt class layer]
    predicted = torch.tensor(stored["reference"]["predicted_label"])
    result = metrics.auroc_by_layer(attention, predicted, protocol="paper")
    np.testing.assert_allclose(result.values, stored["AUCROC"], atol=1e-12)
    np.testing.assert_allclose(metrics.cumulative_contribution(result.values), stored["R"], atol=1e-9)


@pytest.mark.parametrize("path", parity_files("isolation"))
def test_loyalties_are_the_notebooks(path: Path) -> None:
    stored = read_json(path)
    reference = stored["reference"]
    for name, variant in stored["variants"].items():
        logits = (torch.tensor(run["class_logits"]) for run in (variant, reference))
        assert metrics.label_loyalty(*logits).mean().item() == pytest.approx(variant["label_loyalty"]), name
        for k in (5, 10):
            ids = (torch.tensor(run[f"top{k}_ids"]) for run in (variant, reference))
            loyalty = metrics.jaccard(*ids).mean().item()
            assert loyalty == pytest.approx(variant[f"word_loyalty_k{k}"], abs=1e-6), name


@pytest.mark.parametrize("path", parity_files("error_analysis"))
def test_confusions_are_the_notebooks(path: Path) -> None:
    stored = read_json(path)
    log_probs = torch.tensor(stored["eval_class_probs"], dtype=torch.float64).log()
    gold = torch.tensor([prompt["label"] for prompt in stored["eval_prompts"]])
    real = metrics.real_confusion(log_probs, gold)
    np.testing.assert_allclose(real, stored["conf_real_unrounded"], atol=1e-12)
    for name, predicted in stored["predicted"].items():
        ours = metrics.predicted_confusion(torch.tensor(predicted["k_hat"], dtype=torch.float64))
        np.testing.assert_allclose(ours, predicted["conf_pred_unrounded"], atol=1e-6, err_msg=name)
