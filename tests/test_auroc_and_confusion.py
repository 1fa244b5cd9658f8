"""AUROC under resampling, anchor keys and Mantel's test, against scikit-learn, scipy and brute force."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

from mechicl import metrics
from mechicl.errors import InputError

Protocols = pytest.mark.parametrize("protocol", ["paper", "corrected"])


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def attention_of(n: int, n_classes: int, layers: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention with ties, somewhat larger for the target's class."""
    target = torch.arange(n) % n_classes
    own = torch.nn.functional.one_hot(target, n_classes)[:, None].double()
    return ((noise(n, layers, n_classes).abs() + own) * 2).round() + 1, target


# --- AUROC


@Protocols
@pytest.mark.parametrize("n_classes", [2, 3, 4])
def test_each_resample_has_the_auroc_of_its_prompts_written_out(n_classes: int, protocol: Any) -> None:
    """A resample's weights are counts: scikit-learn gives the same for the prompts repeated so often."""
    attention, target = attention_of(30, n_classes)
    generators = np.random.default_rng(3), np.random.default_rng(3)
    found = metrics.bootstrap_auroc(attention, target, generator=generators[0], protocol=protocol, resamples=8)
    assert found.shape == (8, 2)
    assert found.dtype == torch.float64
    for row, counts in zip(found, generators[1].multinomial(30, np.full(30, 1 / 30), size=8), strict=True):
        drawn = np.repeat(np.arange(30), counts)
        expected = metrics.auroc_by_layer(attention[drawn], target[drawn], protocol=protocol)
        assert expected.classes == tuple(range(n_classes))
        torch.testing.assert_close(row, expected.values)


def test_more_classes_are_averaged_over_pairs_one_against_one() -> None:
    """Hand and Till: a pair's items alone, each class's own score, both directions."""
    attention, target = attention_of(31, 3, layers=1)
    share = (attention / attention.sum(-1, keepdim=True))[:, 0].numpy()
    pairs = []
    for a, b in itertools.permutations(range(3), 2):
        rows = ((target == a) | (target == b)).numpy()
        pairs.append(roc_auc_score(target.numpy()[rows] == a, share[rows, a]))
    assert metrics.auroc_by_layer(attention, target).values.item() == pytest.approx(np.mean(pairs))


def test_no_attention_to_any_label_word_is_no_evidence() -> None:
    for n_classes in (2, 4):
        target = torch.arange(12) % n_classes
        assert metrics.auroc_by_layer(torch.zeros(12, 1, n_classes), target).values.tolist() == [0.5]
    attention, target = attention_of(20, 2, layers=1)
    with_nothing = attention.clone()
    with_nothing[3] = 0  # counts as half for each
    halves = attention.clone()
    halves[3] = 7
    torch.testing.assert_close(
        metrics.auroc_by_layer(with_nothing, target).values, metrics.auroc_by_layer(halves, target).values
    )


def test_a_single_class_has_no_resampled_auroc() -> None:
    found = metrics.bootstrap_auroc(
        torch.ones(5, 3, 2), torch.zeros(5, dtype=torch.long), generator=np.random.default_rng(0), resamples=4
    )
    assert found.shape == (4, 3)
    assert found.isnan().all()


def test_what_has_no_auroc_is_refused() -> None:
    attention, target = attention_of(6, 2)
    generator = np.random.default_rng(0)
    for wrong, sentence in (
        ((attention, target[:5]), "target is of shape|one target per prompt"),
        ((attention[:0], target[:0]), "target is of shape|one target per prompt"),
        ((attention, target + 1), "for 2 classes"),
        ((attention * torch.nan, target), "finite score"),
    ):
        for measure in (metrics.auroc_by_layer, lambda a, t: metrics.bootstrap_auroc(a, t, generator=generator)):
            with pytest.raises(InputError, match=sentence):
                measure(*wrong)
    with pytest.raises(InputError, match="'paper' or 'corrected'"):
        metrics.auroc_by_layer(attention, target, protocol="both")  # type: ignore[arg-type]


def test_clipped_contributions_have_no_layer_below_chance() -> None:
    raw = torch.tensor([0.4, 0.5, 0.9, 0.6])
    expected = torch.tensor([0, 0, 0.8, 1.0], dtype=torch.float64)
    torch.testing.assert_close(metrics.cumulative_contribution(raw, clipped=True), expected, rtol=1e-6, atol=1e-6)


# --- confusion


@pytest.mark.parametrize("components", [1, 4, 7])
def test_scaled_keys_are_principal_components_times_their_deviation(components: int) -> None:
    """Queries off the origin, keys elsewhere: distances as scikit-learn's PCA has them (signs are arbitrary)."""
    queries, keys = 3 * noise(20, 7) + 5, noise(4, 7, seed=1)
    pca = PCA(components).fit(queries.numpy())
    expected = keys.numpy() @ pca.components_.T * np.sqrt(pca.explained_variance_)
    found = metrics.scaled_keys(queries, keys, components)
    np.testing.assert_allclose(found.abs(), np.abs(expected), rtol=1e-9, atol=1e-9)


def test_as_many_components_as_queries_have_directions() -> None:
    few, keys = noise(4, 9), noise(2, 9)
    assert metrics.scaled_keys(few, keys, 3).shape == (2, 3)
    for components in (0, 4):
        with pytest.raises(InputError, match="allow 1 to 3"):
            metrics.scaled_keys(few, keys, components)


def test_equal_anchors_have_no_confusion_and_near_ones_keep_their_digits() -> None:
    with pytest.raises(InputError, match="All anchor keys are equal"):
        metrics.predicted_confusion(torch.ones(3, 2))
    near = torch.tensor([[1e8], [1e8 + 1], [1e8 + 3]], dtype=torch.float64)
    confusion = metrics.predicted_confusion(near)
    torch.testing.assert_close(confusion[0], torch.tensor([1, 1 / 3, 1], dtype=torch.float64))


def symmetric(n: int, seed: int = 0) -> torch.Tensor:
    half = noise(n, n, seed=seed)
    return half + half.T


def test_a_confusion_correlates_by_pairs_and_is_tested_by_relabelling_classes() -> None:
    """Mantel's test written out: every relabelling of one matrix, ranks of its pairs, those at least as high."""
    x, y = symmetric(4), symmetric(4, seed=5)
    pairs = np.triu_indices(4, 1)
    found = metrics.confusion_correlation(x, y, generator=np.random.default_rng(0))
    expected = spearmanr(x.numpy()[pairs], y.numpy()[pairs]).statistic
    relabelled = [
        spearmanr(x.numpy()[np.ix_(order, order)][pairs], y.numpy()[pairs]).statistic
        for order in map(list, itertools.permutations(range(4)))
    ]
    assert found.spearman == pytest.approx(expected)
    assert found.pearson == pytest.approx(pearsonr(x.numpy()[pairs], y.numpy()[pairs]).statistic)
    assert found.p_value == np.mean([one >= expected - 1e-9 for one in relabelled])
    assert 0.05 < found.p_value < 0.95
    assert (found.exact, found.n_permutations) == (True, 24)


def test_as_many_permutations_as_there_are_is_all_of_them() -> None:
    def tested(permutations: int) -> metrics.Correlation:
        generator = np.random.default_rng(0)
        return metrics.confusion_correlation(symmetric(4), symmetric(4), generator=generator, permutations=permutations)

    assert tested(24).exact
    assert tested(24).p_value == 1 / 24  # only the classes' own order is as good
    sampled = tested(23)
    assert (sampled.exact, sampled.n_permutations) == (False, 23)
    hits = sampled.p_value * 24 - 1  # one more than were drawn, and than were as good: never zero
    assert hits == pytest.approx(round(hits))
    assert 0 <= hits < 12


def test_classes_without_values_are_left_out_of_a_correlation() -> None:
    x, y = symmetric(5), symmetric(5, seed=1)
    expected = metrics.confusion_correlation(x[:4, :4], y[:4, :4], generator=np.random.default_rng(0))
    for unknown in (x, y):  # in either matrix
        whole = unknown.clone()
        unknown[4] = unknown[:, 4] = torch.nan
        assert metrics.confusion_correlation(x, y, generator=np.random.default_rng(0)) == expected
        unknown.copy_(whole)
    x[3:] = x[:, 3:] = torch.nan
    assert metrics.confusion_correlation(x, y, generator=np.random.default_rng(0)).n_pairs == 3


@pytest.mark.parametrize("which", [0, 1])
def test_confusions_that_have_no_correlation_are_refused(which: int) -> None:
    generator = np.random.default_rng(0)

    def refused(changed: torch.Tensor, sentence: str) -> None:
        pair = [symmetric(4, seed=1), symmetric(4, seed=2)]
        pair[which] = changed
        with pytest.raises(InputError, match=sentence):
            metrics.confusion_correlation(*pair, generator=generator)

    refused(torch.ones(4, 4), "needs differences")
    two = symmetric(4)
    two[2:] = two[:, 2:] = torch.nan
    refused(two, "at least 3")
    hole = symmetric(4)
    hole[0, 1] = hole[1, 0] = torch.nan
    refused(hole, "complete the matrices")


def test_a_class_without_items_leaves_the_other_pairs_alone() -> None:
    gold, logits = torch.arange(20) % 2 * 2, noise(20, 3)  # nobody is of class 1
    confusion = metrics.real_confusion(logits, gold)
    assert confusion.dtype == torch.float64
    assert confusion[0, 1].isnan()
    assert confusion[1, 2].isnan()
    expected = roc_auc_score(gold.numpy() == 0, (logits[:, 0] - logits[:, 2]).numpy())
    assert confusion[0, 2] == confusion[2, 0] == pytest.approx(expected)
