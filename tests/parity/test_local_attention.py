"""Attention to the previous five tokens against the authors' notebook."""

import numpy as np
import pytest
import torch

from mechicl.corpora import TokenCorpus
from mechicl.models import load_model
from mechicl.studies.stages import local_attention
from tests.conftest import parity_files, read_json


@pytest.mark.parametrize("path", parity_files("prev5"))
def test_pooled_means_are_the_notebooks(path, shared):
    stored = read_json(path)
    model = load_model(str(shared / "models" / stored["meta"]["model"]), processing="fold", fold_value_biases=True)
    lengths = torch.tensor([len(row) for row in stored["tokens"]])
    tokens = torch.zeros(len(lengths), int(lengths.max()), dtype=torch.long)
    for row, ids in enumerate(stored["tokens"]):
        tokens[row, : len(ids)] = torch.tensor(ids)
    corpus = TokenCorpus(tokens, lengths, torch.zeros_like(tokens), torch.full_like(tokens, -1), None, True)
    result = local_attention(model, corpus, protocol="paper", batch_size=2)
    by_document = result.table.groupby(["sequence", "layer"])["pooled"].mean().unstack()
    np.testing.assert_allclose(by_document, stored["per_document"], atol=1e-6)
    summary = result.summary().set_index("layer")
    np.testing.assert_allclose(summary["mean"], stored["mean"], atol=1e-6)
