"""Vocabulary moments against a naive float64 computation, and the invariances that cosines must have."""

import numpy as np
import pytest
import torch
from scipy.stats import kurtosis, skew
from torch import Tensor

from mechicl.errors import InputError
from mechicl.mlp_neurons import classify, entropy_neurons, null_space_score, vocabulary_moments

D_MODEL, D_VOCAB, D_MLP = 24, 1337, 40
MOMENTS = ("mean", "variance", "skewness", "kurtosis")


def weights(seed: int = 0) -> tuple[Tensor, list[Tensor]]:
    """A vocabulary with a rare direction that a few tokens share, so that some neurons are heavy-tailed."""
    generator = torch.Generator().manual_seed(seed)
    W_U = torch.randn(D_MODEL, D_VOCAB, generator=generator)
    W_U[0] *= 0.05
    W_U[0, 700:706] = 60
    W_out = [torch.randn(D_MLP, D_MODEL, generator=generator) for _ in range(2)]
    W_out[1][0] = 0
    W_out[1][0, 0] = 2.0
    W_out[1][1] = -W_out[1][0] * 5
    return W_U, W_out


def cosines(W_U: Tensor, w_out: Tensor) -> np.ndarray:
    W_U, w_out = W_U.double(), w_out.double()
    return ((w_out / w_out.norm(dim=1, keepdim=True)) @ (W_U / W_U.norm(dim=0))).numpy()


@pytest.mark.parametrize("chunk", [64, 200, 100_000])
def test_moments_equal_the_naive_ones(chunk: int) -> None:
    W_U, W_out = weights()
    moments = vocabulary_moments(W_U, iter(W_out), chunk=chunk)
    for layer, w_out in enumerate(W_out):
        x = cosines(W_U, w_out)
        naive = (x.mean(1), x.var(1), skew(x, axis=1), kurtosis(x, axis=1, fisher=False))
        for name, expected in zip(MOMENTS, naive, strict=True):
            np.testing.assert_allclose(getattr(moments, name)[layer], expected, rtol=2e-5, atol=2e-6, err_msg=name)


def test_the_variance_is_a_quadratic_form_in_the_unembeddings_covariance() -> None:
    """w' C w, with C the covariance of W_U's columns of length 1 over the vocabulary."""
    W_U, W_out = weights()
    covariance = np.cov((W_U / W_U.norm(dim=0)).double().numpy(), bias=True)
    direction = (W_out[0] / W_out[0].norm(dim=1, keepdim=True)).double().numpy()
    expected = np.einsum("nd,de,ne->n", direction, covariance, direction)
    np.testing.assert_allclose(vocabulary_moments(W_U, W_out).variance[0], expected, rtol=1e-5)


def test_float64_weights_are_computed_in_float64() -> None:
    W_U, W_out = weights()
    moments = vocabulary_moments(W_U.double(), [W_out[0].double()])
    np.testing.assert_allclose(moments.kurtosis[0], kurtosis(cosines(W_U, W_out[0]), axis=1, fisher=False), rtol=1e-10)


@pytest.mark.parametrize("top", [1, 7, 30, D_VOCAB])
def test_extreme_tokens_are_those_of_a_full_sort(top: int) -> None:
    W_U, W_out = weights()
    moments = vocabulary_moments(W_U.double(), [W_out[0].double()], top=top)
    x = torch.from_numpy(cosines(W_U, W_out[0]))
    for largest, tokens, values in (
        (True, moments.top_tokens, moments.top_cosines),
        (False, moments.bottom_tokens, moments.bottom_cosines),
    ):
        expected = x.topk(top, largest=largest)
        assert torch.equal(tokens[0], expected.indices)
        torch.testing.assert_close(values[0], expected.values)


def test_heavy_tails_towards_a_few_tokens_make_prediction_and_suppression_neurons() -> None:
    W_U, W_out = weights()
    moments = vocabulary_moments(W_U, W_out, top=6)
    classes = classify(moments)
    assert classes.prediction[1, 0]
    assert classes.suppression[1, 1]
    assert (
        sorted(moments.top_tokens[1, 0].tolist()) == sorted(moments.bottom_tokens[1, 1].tolist()) == [*range(700, 706)]
    )


def test_shape_ignores_the_length_of_w_out_and_its_sign_swaps_the_kinds() -> None:
    W_U, W_out = weights()
    moments = vocabulary_moments(W_U, W_out)
    longer = vocabulary_moments(W_U, [17 * w for w in W_out])
    flipped = vocabulary_moments(W_U, [-w for w in W_out])
    for name in MOMENTS:
        sign = -1 if name in ("mean", "skewness") else 1
        torch.testing.assert_close(getattr(longer, name), getattr(moments, name), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(getattr(flipped, name), sign * getattr(moments, name), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(longer.norm, 17 * moments.norm)
    assert torch.equal(classify(flipped).prediction, classify(moments).suppression)
    assert torch.equal(flipped.top_tokens, moments.bottom_tokens)


def test_rotating_the_residual_stream_changes_nothing() -> None:
    W_U, W_out = weights()
    rotation = torch.linalg.qr(torch.randn(D_MODEL, D_MODEL, generator=torch.Generator().manual_seed(3))).Q
    moments = vocabulary_moments(W_U, W_out)
    rotated = vocabulary_moments(rotation @ W_U, [w @ rotation.T for w in W_out])
    for name in MOMENTS:
        torch.testing.assert_close(getattr(rotated, name), getattr(moments, name), rtol=1e-4, atol=1e-5)


def test_counts_and_densities_follow_the_thresholds() -> None:
    W_U, W_out = weights()
    moments = vocabulary_moments(W_U, W_out)
    frame = classify(moments, kurtosis=10.0).frame().set_index(["kind", "layer"])
    assert frame.loc[("prediction", 1), "count"] >= 1
    assert frame.loc[("prediction", 1), "density"] == frame.loc[("prediction", 1), "count"] / D_MLP
    everything = classify(moments, kurtosis=0.0, variance=0.0)
    assert (everything.prediction | everything.suppression).all()
    assert everything.partition.all()
    assert not classify(moments, kurtosis=1e9, variance=1.0).partition.any()
    assert list(moments.frame().columns) == ["layer", "neuron", *MOMENTS, "norm"]
    assert len(moments.frame()) == 2 * D_MLP


def test_a_dead_neuron_has_no_shape_and_no_kind() -> None:
    W_U, W_out = weights()
    W_out[0][3] = 0
    moments = vocabulary_moments(W_U, W_out)
    assert moments.kurtosis[0, 3].isnan()
    assert moments.variance[0, 3] == 0
    assert not classify(moments).prediction[0, 3]


def test_entropy_neurons_write_long_vectors_where_the_vocabulary_does_not_read() -> None:
    W_U, W_out = weights()
    W_U[5] *= 1e-3  # one direction that W_U hardly reads
    W_out[1][4] = 0
    W_out[1][4, 5] = 50.0
    moments = vocabulary_moments(W_U, W_out)
    assert entropy_neurons(moments)[0] == (1, 4)
    assert entropy_neurons(moments, last_layers=1, squared_norm_at_least=1e6) == []
    score = null_space_score(W_U, W_out[1], fraction=0.01)
    assert score.argmax() == 4
    assert score[4] > 0.999
    assert score.median() < 0.5


def test_wrong_shapes_are_refused() -> None:
    W_U, W_out = weights()
    with pytest.raises(InputError, match=r"W_U needs \[d_mlp, 24\]"):
        vocabulary_moments(W_U, [W_out[0].T])
    with pytest.raises(InputError, match="no layer"):
        vocabulary_moments(W_U, [])
    with pytest.raises(InputError, match="top is 0"):
        vocabulary_moments(W_U, W_out, top=0)


def test_tokens_without_weights_are_left_out() -> None:
    """A row of padding in the embedding stays zero when it is initialised."""
    W_U, W_out = weights()
    others = [token for token in range(W_U.shape[1]) if token != 9]
    without = vocabulary_moments(W_U[:, others], W_out)
    W_U[:, 9] = 0
    found = vocabulary_moments(W_U, W_out)
    for name in ("mean", "variance", "kurtosis", "top_cosines"):
        assert torch.equal(getattr(found, name), getattr(without, name))
    assert torch.equal(found.top_tokens, torch.tensor(others)[without.top_tokens])
    with pytest.raises(InputError, match="0 tokens with weights"):
        vocabulary_moments(torch.zeros_like(W_U), W_out)
