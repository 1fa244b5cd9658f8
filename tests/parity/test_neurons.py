"""Neuron statistics and counts against the authors' notebook, on weights processed as theirs were."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mechicl.mlp_neurons import classify, vocabulary_moments
from mechicl.models import hooked, load_model
from tests.conftest import parity_files, read_json

NAMES = {"mean": "vocab_mean", "variance": "vocab_var", "skewness": "vocab_skew", "kurtosis": "vocab_kurt"}


@pytest.mark.parametrize("path", parity_files("neurons"))
def test_moments_and_counts_are_the_notebooks(path: Path, shared: Path) -> None:
    stored: dict[str, Any] = read_json(path)
    expected = np.load(path.with_suffix(".npz"))
    folder = shared / "models" / stored["meta"]["model"]
    model = hooked(load_model(str(folder), processing="fold", fold_value_biases=True))
    moments = vocabulary_moments(model.W_U, [model.W_out(layer) for layer in range(model.sizes.n_layers)])
    for name, key in NAMES.items():
        scale = np.abs(expected[key]).max()
        np.testing.assert_allclose(getattr(moments, name), expected[key], rtol=0, atol=2e-6 * scale, err_msg=name)
    for threshold, counts in stored["counts_by_kurtosis_threshold"].items():
        classes = classify(moments, kurtosis=float(threshold))
        assert classes.prediction.sum(1).tolist() == counts["prediction"]
        assert classes.suppression.sum(1).tolist() == counts["suppression"]
