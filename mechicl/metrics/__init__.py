"""The studies' measures: pure functions of tensors, in nats unless bits are requested."""

from inspect import isfunction

from mechicl.doors import door
from mechicl.metrics.auroc import LayerAUROC, auroc_by_layer, bootstrap_auroc, cumulative_contribution, permuted_auroc
from mechicl.metrics.confusion import (
    Correlation,
    combined_p_value,
    confusion_correlation,
    predicted_confusion,
    real_confusion,
    scaled_keys,
)
from mechicl.metrics.distributions import (
    cross_entropy,
    entropy,
    entropy_of_log_probs,
    js_divergence,
    kl_divergence,
    kl_of_log_probs,
    log_probs,
)
from mechicl.metrics.intervals import Interval, bootstrap_mean
from mechicl.metrics.objective import Objective
from mechicl.metrics.predictions import (
    ClassificationScores,
    classification_scores,
    jaccard,
    label_loyalty,
    token_rank,
    top_1_agreement,
    top_k_ids,
    top_k_overlap,
    word_loyalty,
)
from mechicl.metrics.resampling import SetInterval, mean_over_sets
from mechicl.metrics.similarity import cka_matrix, cka_of_hsic, hsic_matrix

__all__ = [
    "ClassificationScores", "Correlation", "Interval", "LayerAUROC", "Objective", "SetInterval", "auroc_by_layer",
    "bootstrap_auroc", "bootstrap_mean", "cka_matrix", "cka_of_hsic", "classification_scores", "combined_p_value",
    "confusion_correlation", "cross_entropy", "cumulative_contribution", "entropy", "entropy_of_log_probs",
    "hsic_matrix", "jaccard", "js_divergence", "kl_divergence", "kl_of_log_probs", "label_loyalty", "log_probs",
    "mean_over_sets", "permuted_auroc", "predicted_confusion", "real_confusion", "scaled_keys", "token_rank",
    "top_1_agreement", "top_k_ids", "top_k_overlap", "word_loyalty",
]  # fmt: skip

for _function in filter(isfunction, [globals()[name] for name in __all__]):
    globals()[_function.__name__] = door(_function)


def __dir__() -> list[str]:
    return __all__
