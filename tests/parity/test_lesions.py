"""Dropped and swapped layers against the authors' run of their own code."""

from pathlib import Path

import numpy as np
import pytest

from mechicl import layer_lesions
from mechicl.corpora import load_corpus
from mechicl.engines.wavefront import lesion_sweep
from mechicl.models import load_model
from mechicl.patches import Drop, Swap
from tests.conftest import parity_files, read_json

LAYER_MEANS = {"kl": "kl", "agreement": "top1_agreement_string", "entropy_difference": "entropy_difference_bits"}


@pytest.fixture(scope="module", params=parity_files("lesion"))
def stored(request, shared):
    path: Path = request.param
    fixture = read_json(path)
    folder = shared / "models" / fixture["meta"]["model"]
    model = load_model(str(folder), processing="fold", fold_value_biases=True)
    n_ctx = len(fixture["tokens"][0])
    corpus = load_corpus(model.tokenizer, fixture["texts"], n_ctx=n_ctx, packing="documents", prepend_bos=True)
    return fixture, np.load(path.with_suffix(".npz")), model, corpus


def test_the_papers_protocol_gives_the_authors_layer_means(stored):
    fixture, _, model, corpus = stored
    summary = layer_lesions(model, corpus, protocol="paper").summary()
    for kind in ("drop", "swap"):
        means = summary[summary["kind"] == kind].set_index(["metric", "layer"])["mean"]
        for metric, key in LAYER_MEANS.items():
            np.testing.assert_allclose(means[metric], fixture[kind][key], atol=3e-5, err_msg=f"{kind} {metric}")
        expected = -np.array(fixture[kind]["loss_difference_base_minus_int"])
        np.testing.assert_allclose(means["loss_difference"], expected, atol=3e-5, err_msg=f"{kind} loss")


def test_the_sweep_gives_the_authors_rows(stored):
    fixture, arrays, model, corpus = stored
    n_layers = model.cfg.n_layers
    drops, swaps = [Drop(i) for i in range(n_layers)], [Swap(i) for i in range(n_layers - 1)]
    compared = lesion_sweep(model, corpus.tokens, [*drops, *swaps])
    for kind, rows in (("drop", slice(0, n_layers)), ("swap", slice(n_layers, None))):
        for name, found in (
            ("kl", compared.kl[rows, :, 1:]),
            ("H_int", compared.entropy[rows, :, 1:]),
            ("loss_int", compared.loss[rows, :, :-1]),
            ("loss_base", compared.base_loss[:, :-1].expand_as(compared.loss[rows, :, :-1])),
            ("H_base", compared.base_entropy[:, 1:].expand_as(compared.kl[rows, :, 1:])),
        ):
            # The authors raise every probability to 1e-9 at least: up to 30 bits for each of d_vocab tokens.
            atol = 3e-4 + (30e-9 * model.cfg.d_vocab if name.startswith("H_") else 0)
            np.testing.assert_allclose(found, arrays[f"{kind}_{name}"], atol=atol, rtol=1e-4, err_msg=f"{kind} {name}")
        same = compared.agreement[rows, :, 1:].mean((1, 2))
        np.testing.assert_allclose(same, fixture[kind]["top1_agreement_id"], atol=1e-7)
