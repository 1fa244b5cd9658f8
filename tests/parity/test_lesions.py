"""Dropped and swapped layers against the authors' run of their own code."""

from pathlib import Path

import numpy as np
import pytest

from mechicl import layer_lesions
from mechicl.corpora import load_corpus
from mechicl.engines.swap_weights import SwapWeights
from mechicl.engines.wavefront import lesion_sweep
from mechicl.models import load_model
from mechicl.patches import Drop
from tests.conftest import parity_files, read_json

_BITS = 1.2e-4
"""Of an entropy, by rounding of 50,257 float32 terms."""
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
        expected = fixture[kind]["loss_difference_base_minus_int"]
        np.testing.assert_allclose(means["loss_difference"], expected, atol=3e-5, err_msg=f"{kind} loss")


def test_the_sweep_gives_the_authors_rows(stored):
    """Entropies with the authors' clamp; without it they are off by more than what is allowed here."""
    fixture, arrays, model, corpus = stored
    n_layers = model.cfg.n_layers
    drops, swaps = [Drop(i) for i in range(n_layers)], [SwapWeights(i) for i in range(n_layers - 1)]
    compared = lesion_sweep(model, corpus.tokens, [*drops, *swaps], clamped=True)
    unclamped = lesion_sweep(model, corpus.tokens, [*drops, *swaps])
    for kind, rows in (("drop", slice(0, n_layers)), ("swap", slice(n_layers, None))):
        for name, found in (
            ("kl", compared.kl[rows, :, 1:]),
            ("H_int", compared.entropy[rows, :, 1:]),
            ("loss_int", compared.loss[rows, :, :-1]),
            ("loss_base", compared.base_loss[:, :-1].expand_as(compared.loss[rows, :, :-1])),
            ("H_base", compared.base_entropy[:, 1:].expand_as(compared.kl[rows, :, 1:])),
        ):
            atol = _BITS if name.startswith("H_") else 3e-4
            np.testing.assert_allclose(found, arrays[f"{kind}_{name}"], atol=atol, rtol=1e-6, err_msg=f"{kind} {name}")
        apart = np.abs(unclamped.entropy[rows, :, 1:] - arrays[f"{kind}_H_int"]).max()
        assert (apart > 2 * _BITS) == (model.cfg.d_vocab > 10_000), "a vocabulary of 512 has no token so improbable"
        same = compared.agreement[rows, :, 1:].mean((1, 2))
        np.testing.assert_allclose(same, fixture[kind]["top1_agreement_id"], atol=1e-7)
