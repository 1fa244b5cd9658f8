"""Attention to the previous five tokens against the authors' notebook."""

import numpy as np
import pytest

from mechicl.models import load_model
from mechicl.studies import local_attention
from tests.conftest import parity_files, read_json
from tests.parity.stored import stored_corpus


@pytest.mark.parametrize("path", parity_files("prev5"))
def test_pooled_means_are_the_notebooks(path, shared):
    stored = read_json(path)
    model = load_model(str(shared / "models" / stored["meta"]["model"]), processing="fold", fold_value_biases=True)
    corpus = stored_corpus(stored)
    result = local_attention(model, corpus, protocol="paper", batch_size=2)
    by_document = result.table.groupby(["sequence", "layer"])["pooled"].mean().unstack()
    np.testing.assert_allclose(by_document, stored["per_document"], atol=1e-6)
    summary = result.summary().set_index("layer")
    np.testing.assert_allclose(summary["mean"], stored["mean"], atol=1e-6)
    of_100 = np.array(stored["sem"]) * np.sqrt(len(stored["per_document"]) / 100)  # theirs divides by root 100 always
    np.testing.assert_allclose(summary["high"] - summary["mean"], of_100, atol=1e-7)
