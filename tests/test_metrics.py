"""Identities that the measures must satisfy, and agreement with scikit-learn, scipy and the formulas."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy as scipy_entropy
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from mechicl import metrics
from mechicl.errors import InputError


def logits(*shape: int, seed: int = 0, scale: float = 3.0) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- distances between distributions


def test_log_probabilities_of_a_real_vocabulary_are_exact_to_float32() -> None:
    z = logits(8, 49152)
    exact = z.double().log_softmax(-1)
    assert (metrics.log_probs(z) - exact).abs().max() < 5e-6
    assert (metrics.log_probs(z + 1000) - exact).abs().max() < 1e-4  # float32 of the logits themselves


def test_kl_is_scipys_and_zero_only_between_equal_distributions() -> None:
    p, q = logits(4, 7, 50), logits(4, 7, 50, seed=1)
    expected = scipy_entropy(p.double().softmax(-1).numpy(), q.double().softmax(-1).numpy(), axis=-1)
    torch.testing.assert_close(metrics.kl_divergence(p, q).double(), torch.tensor(expected), rtol=1e-5, atol=1e-6)
    assert metrics.kl_divergence(p, p + 5).max() < 1e-6  # a shift of logits is the same distribution
    assert (metrics.kl_divergence(p, q) - metrics.kl_divergence(q, p)).abs().max() > 0.1


def test_js_is_symmetric_and_at_most_ln_2() -> None:
    p, q = logits(20, 30, scale=30), logits(20, 30, seed=1, scale=30)
    torch.testing.assert_close(metrics.js_divergence(p, q), metrics.js_divergence(q, p))
    assert metrics.js_divergence(p, q).max() <= math.log(2) + 1e-6


def test_js_is_the_mean_distance_to_the_middle() -> None:
    p, q = logits(6, 30), logits(6, 30, seed=1)
    middle = ((p.softmax(-1) + q.softmax(-1)) / 2).log()
    expected = (metrics.kl_divergence(p, middle) + metrics.kl_divergence(q, middle)) / 2
    torch.testing.assert_close(metrics.js_divergence(p, q), expected, rtol=1e-4, atol=1e-6)
    apart = torch.tensor([[40.0, 0.0], [0.0, 40.0]])
    assert metrics.js_divergence(apart[0], apart[1]).item() == pytest.approx(math.log(2))


def test_excluded_tokens_contribute_nothing_to_p_and_infinity_to_q() -> None:
    p, q = logits(30), logits(30, seed=1)
    p[3] = -math.inf
    kept = [i for i in range(30) if i != 3]
    shift = (q.logsumexp(0) - q[kept].logsumexp(0)).item()
    assert metrics.kl_divergence(p, q).item() == pytest.approx(
        metrics.kl_divergence(p[kept], q[kept]).item() + shift, rel=1e-5
    )
    assert metrics.kl_divergence(q, p) == math.inf
    assert metrics.entropy(p).item() == pytest.approx(metrics.entropy(p[kept]).item(), rel=1e-5)


def test_entropy_of_a_uniform_distribution_is_log_vocab_in_either_unit() -> None:
    flat = torch.zeros(2, 64)
    torch.testing.assert_close(metrics.entropy(flat, unit="bits"), torch.full((2,), 6.0))
    torch.testing.assert_close(metrics.entropy(flat), torch.full((2,), math.log(64)))
    with pytest.raises(InputError, match="give 'nats' or 'bits'"):
        metrics.entropy(flat, unit="decibel")  # type: ignore[arg-type]


def test_half_precision_logits_are_summed_in_float32() -> None:
    z = logits(6, 5000).bfloat16()
    assert metrics.entropy(z).dtype == torch.float32
    torch.testing.assert_close(metrics.entropy(z), metrics.entropy(z.double()).float(), rtol=1e-5, atol=1e-5)


def test_float64_logits_are_summed_in_float64_and_a_certain_answer_has_no_entropy() -> None:
    z = logits(6, 50).double()
    assert metrics.entropy(z).dtype == metrics.kl_divergence(z, z).dtype == torch.float64
    assert metrics.entropy(torch.tensor([1e4, 0.0, 0.0])).item() == 0


def test_cross_entropy_is_torchs() -> None:
    z, target = logits(3, 5, 40), torch.randint(40, (3, 5), generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.cross_entropy(z.flatten(0, 1), target.flatten(), reduction="none").view(3, 5)
    torch.testing.assert_close(metrics.cross_entropy(z, target), expected)
    with pytest.raises(InputError, match="targets is of shape"):
        metrics.cross_entropy(z, target[:, 1:])


# --- predictions


def test_equal_logits_are_ordered_by_id() -> None:
    z = torch.zeros(2, 100)
    z[1, 70] = 1.0
    assert metrics.top_k_ids(z, 3).tolist() == [[0, 1, 2], [70, 0, 1]]
    assert metrics.top_k_ids(z[0], 100).tolist() == list(range(100))
    assert metrics.token_rank(z, torch.tensor([5, 5])).tolist() == [6, 7]


def test_top_k_and_rank_agree_with_a_full_stable_sort() -> None:
    z = logits(50, 30).round()  # rounded: many ties
    order = z.sort(dim=-1, descending=True, stable=True).indices
    assert torch.equal(metrics.top_k_ids(z, 7), order[:, :7])
    for rank in (0, 10, 29):
        assert (metrics.token_rank(z, order[:, rank]) == rank + 1).all()


def test_jaccard_of_five_takes_six_values() -> None:
    a = torch.arange(5)
    values = [metrics.jaccard(a, a + shift).item() for shift in range(6)]
    assert values == pytest.approx([1, 2 / 3, 3 / 7, 1 / 4, 1 / 9, 0])


def test_loyalty_to_oneself_is_one() -> None:
    z = logits(20, 300)
    assert metrics.word_loyalty(z, z).mean() == 1
    assert metrics.label_loyalty(z[:, :4], z[:, :4] * 2).mean() == 1
    assert metrics.top_1_agreement(z, z + 1).all()
    with pytest.raises(InputError, match="vocabulary of 300"):
        metrics.word_loyalty(z, z, k=301)


def test_a_tie_at_the_boundary_goes_to_the_lower_id_wherever_it_stands() -> None:
    """Ties on some rows and not on others, in tensors with further axes."""
    z = logits(4, 6, 30).round()
    z[0] = logits(6, 30, seed=2)  # no ties
    order = z.sort(dim=-1, descending=True, stable=True).indices
    for k in (1, 2, 30):
        assert torch.equal(metrics.top_k_ids(z, k), order[..., :k])
    assert torch.equal(metrics.token_rank(z, order[..., 4]), torch.full((4, 6), 5))
    with pytest.raises(InputError, match="take 1 to 30"):
        metrics.top_k_ids(z, 0)


def test_agreement_and_loyalty_count_the_most_probable_of_each_row() -> None:
    a = torch.tensor([[3.0, 2.0, 1.0], [0.0, 5.0, 1.0], [0.0, 1.0, 2.0]])
    b = torch.tensor([[9.0, 8.0, 0.0], [1.0, 0.0, 0.5], [5.0, 4.0, 6.0]])
    assert metrics.top_1_agreement(a, b).tolist() == [True, False, True]
    assert metrics.label_loyalty(a, b).tolist() == [1.0, 0.0, 1.0]
    z, other = logits(20, 300), logits(20, 300, seed=1)
    assert torch.equal(metrics.word_loyalty(z, other), metrics.top_k_overlap(z, other, 5))  # the paper's k


def test_scores_show_when_the_majority_answer_wins() -> None:
    gold = torch.tensor([0] * 8 + [1, 2])
    scores = metrics.classification_scores(torch.zeros(10, dtype=torch.long), gold)
    assert scores.accuracy == scores.majority_rate == 0.8
    assert scores.balanced_accuracy == pytest.approx(1 / 3)
    assert scores.macro_f1 == pytest.approx((2 * 0.8 / 1.8) / 3)
    with pytest.raises(InputError, match="unknown"):
        metrics.classification_scores(gold, gold - 1)


def test_scores_of_a_class_that_is_only_predicted_or_never_are_scikit_learns() -> None:
    gold, predicted = torch.tensor([0, 0, 2, 2, 2]), torch.tensor([0, 1, 2, 2, 0])
    scores = metrics.classification_scores(predicted, gold)
    assert scores.balanced_accuracy == pytest.approx((1 / 2 + 2 / 3) / 2)  # classes that somebody is of
    assert scores.macro_f1 == pytest.approx((1 / 2 + 0 + 4 / 5) / 3)  # and one that was only predicted
    assert scores.majority_rate == pytest.approx(3 / 5)
    for wrong in (gold[:0], gold[:4]):
        with pytest.raises(InputError, match=r"is of shape|give one of each per prompt"):
            metrics.classification_scores(wrong, gold if len(wrong) else wrong)


# --- AUROC and R_l


def test_binary_auroc_of_the_paper_ignores_the_first_class() -> None:
    attention = torch.rand(40, 3, 2, generator=torch.Generator().manual_seed(0))
    target = torch.arange(40) % 2
    for protocol, score in (("paper", attention[..., 1]), ("corrected", attention[..., 1] / attention.sum(-1))):
        result = metrics.auroc_by_layer(attention, target, protocol=protocol)  # type: ignore[arg-type]
        expected = [roc_auc_score(target, score[:, layer]) for layer in range(3)]
        assert result.values.tolist() == pytest.approx(expected)
        scaled = metrics.auroc_by_layer(attention * 7, target, protocol=protocol)  # type: ignore[arg-type]
        assert scaled.values.tolist() == pytest.approx(expected)


def test_classes_absent_from_the_target_are_dropped() -> None:
    attention = torch.rand(30, 2, 4, generator=torch.Generator().manual_seed(0))
    target = torch.arange(30) % 3
    kept = metrics.auroc_by_layer(attention, target)
    assert kept.classes == (0, 1, 2)
    torch.testing.assert_close(kept.values, metrics.auroc_by_layer(attention[..., :3], target).values)


def test_perfect_attention_reaches_one_and_a_single_class_has_a_reason() -> None:
    target = torch.arange(12) % 3
    attention = torch.nn.functional.one_hot(target, 3)[:, None].float()
    assert metrics.auroc_by_layer(attention, target).values.tolist() == [1.0]
    lonely = metrics.auroc_by_layer(attention, torch.zeros_like(target))
    assert lonely.values.isnan().all()
    assert lonely.classes == (0,)
    assert "two classes" in (lonely.reason or "")
    with pytest.raises(InputError, match="unknown"):
        metrics.auroc_by_layer(attention, target - 1)


def test_r_ends_at_one_and_leaves_the_unit_interval_only_unclipped() -> None:
    auroc = torch.tensor([[0.4, 0.6, 0.8], [0.3, 0.7, 0.9]])
    raw = metrics.cumulative_contribution(auroc)
    torch.testing.assert_close(raw[:, -1], torch.ones(2, dtype=torch.float64))
    assert raw.min() < 0 <= metrics.cumulative_contribution(auroc, clipped=True).min()
    assert metrics.cumulative_contribution(torch.full((3,), 0.5)).isnan().all()


# --- CKA


def test_unbiased_cka_is_one_with_itself_and_zero_between_independent_layers() -> None:
    layers = logits(2, 128, 768)
    cka = metrics.cka_matrix(layers)
    torch.testing.assert_close(cka.diagonal(), torch.ones(2, dtype=torch.float64))
    assert cka[0, 1].abs() < 0.03
    assert metrics.cka_matrix(layers, unbiased=False)[0, 1] > 0.8  # what the biased estimate makes of noise


def test_biased_hsic_is_the_formula() -> None:
    x, y = logits(9, 4).double(), logits(9, 3, seed=1).double()
    centre = torch.eye(9, dtype=torch.float64) - 1 / 9
    expected = (x @ x.T @ centre @ y @ y.T @ centre).trace() / 8**2
    torch.testing.assert_close(metrics.hsic_matrix([x, y], unbiased=False)[0, 1], expected)
    with pytest.raises(InputError, match=r"the same samples|of arrays .sample _."):
        metrics.hsic_matrix([x, y[:8]])


def test_cka_ignores_rotation_shift_and_scale() -> None:
    x = logits(40, 16).double()
    y = x[:, :5] ** 2
    rotation = torch.linalg.qr(logits(16, 16, seed=2).double()).Q
    torch.testing.assert_close(metrics.cka_matrix([x, y]), metrics.cka_matrix([4 * x @ rotation + 3, y]))


def test_unbiased_hsic_is_the_formula() -> None:
    x, y = logits(9, 4).double(), logits(9, 3, seed=1).double()
    k, l_ = x @ x.T, y @ y.T
    k.fill_diagonal_(0)
    l_.fill_diagonal_(0)
    n, one = 9, torch.ones(9, dtype=torch.float64)
    expected = (k @ l_).trace() + (one @ k @ one) * (one @ l_ @ one) / ((n - 1) * (n - 2))
    expected = (expected - 2 / (n - 2) * one @ k @ l_ @ one) / (n * (n - 3))
    torch.testing.assert_close(metrics.hsic_matrix([x, y])[0, 1], expected)


def test_constant_layers_and_too_few_samples_have_no_cka() -> None:
    cka = metrics.cka_matrix([logits(10, 4), torch.ones(10, 4)])
    assert cka[0, 0] == pytest.approx(1)
    assert cka[1].isnan().all()
    with pytest.raises(InputError, match="at least 4"):
        metrics.cka_matrix(logits(2, 3, 4))


# --- confusion


def test_confusion_distances_are_symmetric_with_maximum_one() -> None:
    keys = metrics.scaled_keys(logits(60, 32), logits(6, 32, seed=1), components=10)
    confusion = metrics.predicted_confusion(keys)
    torch.testing.assert_close(confusion, confusion.T)
    off_diagonal = confusion[~torch.eye(6, dtype=torch.bool)]
    assert off_diagonal.max() == 1
    torch.testing.assert_close(metrics.predicted_confusion(3 * keys), confusion)
    rescaled = metrics.scaled_keys(3 * logits(60, 32), 3 * logits(6, 32, seed=1), components=10)
    torch.testing.assert_close(metrics.predicted_confusion(rescaled), confusion)
    with pytest.raises(InputError, match="allow 1 to 32"):
        metrics.scaled_keys(logits(60, 32), logits(6, 32), components=33)


def test_real_confusion_separates_what_the_scores_separate() -> None:
    gold = torch.arange(40) % 3
    scores = torch.nn.functional.one_hot(gold, 4).float() + 0.1 * logits(40, 4, scale=1)
    confusion = metrics.real_confusion(scores, gold)
    assert confusion[:3, :3].min() == 1
    assert confusion[3, :3].isnan().all()
    noisy = metrics.real_confusion(logits(40, 3), gold)
    torch.testing.assert_close(noisy, noisy.T)
    assert 0 < noisy[0, 1] < 1
    assert (noisy.diagonal() == 1).all()


def test_correlation_of_confusions_is_exact_for_few_classes() -> None:
    matrix = logits(6, 6)
    matrix = matrix + matrix.T
    other = matrix + 0.1 * (noise := logits(6, 6, seed=1)) + 0.1 * noise.T
    result = metrics.confusion_correlation(matrix, other, generator=np.random.default_rng(0))
    pairs = np.triu_indices(6, 1)
    assert result.spearman == pytest.approx(spearmanr(matrix.numpy()[pairs], other.numpy()[pairs]).statistic)
    assert (result.n_pairs, result.n_permutations, result.exact) == (15, 720, True)
    assert result.p_value < 0.01
    sampled = metrics.confusion_correlation(matrix, other, generator=np.random.default_rng(0), permutations=500)
    assert not sampled.exact
    assert sampled.p_value == pytest.approx(result.p_value, abs=0.02)


# --- intervals


def test_bootstrap_covers_the_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    x = rng.exponential(size=(60, 400))  # 400 experiments side by side: further axes are vectorised
    interval = metrics.bootstrap_mean(x, generator=rng, level=0.9)
    covered = ((interval.low <= 1) & (interval.high >= 1)).mean()
    assert 0.8 < covered < 0.95
    np.testing.assert_allclose(interval.mean, x.mean(0))


def test_weights_make_a_ratio_of_sums() -> None:
    means, tokens = torch.tensor([1.0, 3.0]), torch.tensor([10, 30])
    interval = metrics.bootstrap_mean(means, weights=tokens, generator=np.random.default_rng(0))
    assert interval.mean == pytest.approx(2.5)
    assert interval.low == pytest.approx(1)
    assert interval.high == pytest.approx(3)


def test_correlated_samples_need_their_sets() -> None:
    rng = np.random.default_rng(0)
    seeds = np.repeat(np.arange(8), 50)
    x = rng.normal(size=8)[seeds] + 0.1 * rng.normal(size=400)
    naive = metrics.bootstrap_mean(x, generator=np.random.default_rng(1))
    of_sets = metrics.mean_over_sets(x, seeds, generator=np.random.default_rng(1))
    assert (naive.n, of_sets.sets) == (400, 8)
    assert of_sets.mean == pytest.approx(naive.mean)
    assert of_sets.high - of_sets.low > 3 * (naive.high - naive.low)


def test_the_same_generator_gives_the_same_interval_and_one_unit_none() -> None:
    x = logits(30)
    first, second = (metrics.bootstrap_mean(x, generator=np.random.default_rng(5)) for _ in range(2))
    assert first == second
    single = metrics.bootstrap_mean(x[:1], generator=np.random.default_rng(5))
    assert np.isnan(single.low)
    assert single.mean == pytest.approx(x[0].item())


def test_intervals_refuse_what_has_no_mean() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match=r"kl hold NaN .* 1 of 3 samples \(first: sample 1\)"):
        metrics.bootstrap_mean(torch.tensor([1.0, torch.nan, 2.0]), generator=rng, name="kl")
    with pytest.raises(InputError, match=r"no values to average|values is of shape .0."):
        metrics.bootstrap_mean(torch.zeros(0), generator=rng)
    with pytest.raises(InputError, match="one positive number"):
        metrics.bootstrap_mean(torch.ones(2), weights=torch.tensor([1.0, 0.0]), generator=rng)


def test_cka_needs_as_many_samples_as_its_estimate_divides_by() -> None:
    layers = [torch.randn(5, 3, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    assert metrics.hsic_matrix([layer[:4] for layer in layers]).isfinite().all()
    assert metrics.hsic_matrix([layer[:2] for layer in layers], unbiased=False).isfinite().all()
    for n, unbiased in ((3, True), (1, False)):
        with pytest.raises(InputError, match="too few for CKA"):
            metrics.hsic_matrix([layer[:n] for layer in layers], unbiased=unbiased)


def test_an_interval_is_the_percentiles_of_the_resampled_means(monkeypatch: pytest.MonkeyPatch) -> None:
    """Written out: as many draws as asked for, all used; also where the draws do not fit in one block."""
    x, weights = logits(7, 2).double().numpy(), np.arange(1.0, 8.0)
    counts = np.random.default_rng(4).multinomial(7, np.full(7, 1 / 7), size=300)
    means = (counts @ (x * weights[:, None])) / (counts @ weights)[:, None]
    for block in (1 << 23, 7 * 70):
        monkeypatch.setattr("mechicl.metrics.intervals._BLOCK", block)
        found = metrics.bootstrap_mean(
            x, weights=torch.tensor(weights), generator=np.random.default_rng(4), level=0.9, resamples=300
        )
        np.testing.assert_allclose(found.low, np.quantile(means, 0.05, axis=0))
        np.testing.assert_allclose(found.high, np.quantile(means, 0.95, axis=0))


@pytest.mark.parametrize(("level", "resamples"), [(0.0, 10), (1.0, 10), (0.5, 0)])
def test_an_interval_needs_a_level_between_0_and_1_and_a_resample(level: float, resamples: int) -> None:
    with pytest.raises(InputError, match="between 0 and 1 and at least one resample"):
        metrics.bootstrap_mean(torch.ones(3), generator=np.random.default_rng(0), level=level, resamples=resamples)
    once = metrics.bootstrap_mean(torch.arange(3.0), generator=np.random.default_rng(0), resamples=1)
    assert once.low == once.high
