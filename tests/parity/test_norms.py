"""Norms against the stored independent computation (the paper publishes no code for them)."""

import numpy as np
import pytest

from mechicl.models import load_model
from mechicl.studies import norms
from tests.conftest import parity_files, read_json
from tests.parity.stored import stored_corpus


@pytest.mark.parametrize("path", parity_files("norms"))
@pytest.mark.parametrize("processing", ["none", "fold"])
def test_norms_are_the_stored_ones(path, processing, shared):
    stored = read_json(path)
    folder = str(shared / "models" / stored["meta"]["model"])
    model = load_model(folder, processing=processing, fold_value_biases=processing == "fold")
    expected = stored["hf_raw" if processing == "none" else "tl_processed"]
    corpus = stored_corpus(stored)
    everywhere = norms(model, corpus, protocol="paper").summary().set_index(["metric", "layer"])["mean"]
    without_0 = norms(model, corpus).summary().set_index(["metric", "layer"])["mean"]
    for part in ("attn", "mlp", "resid_pre", "resid_post"):
        np.testing.assert_allclose(everywhere[part], expected[part]["mean_all"], rtol=1e-4, err_msg=part)
        if part != "resid_post":
            np.testing.assert_allclose(
                without_0[f"{part}_norm"], expected[part]["mean_no_bos"], rtol=1e-4, err_msg=part
            )
        # Theirs is the median over all tokens, ours the mean of each sequence's.
        np.testing.assert_allclose(without_0[f"{part}_median"], expected[part]["median_no_bos"], rtol=0.1)
