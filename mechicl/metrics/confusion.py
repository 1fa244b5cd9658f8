"""Which classes a model confuses, and whether its anchors predict it (*Label Words are Anchors*, section
3.3).
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechicl.errors import InputError
from mechicl.metrics.precision import in_float64

FloatArray = npt.NDArray[np.float64]


def scaled_keys(
    queries: Float[Tensor, "sample d"], keys: Float[Tensor, "class_ d"], components: int = 10
) -> Float[Tensor, "class_ component"]:
    """k_hat: anchor keys along the queries' principal directions, each scaled by the queries' deviation along it.

    A key difference counts in proportion to the queries' variation in its direction (appendix J; M = 10 components).
    Signs of components are arbitrary, so use distances.
    """
    limit = min(len(queries) - 1, queries.shape[-1])
    if not 1 <= components <= limit:
        raise InputError(
            f"components is {components}; {len(queries)} queries of {queries.shape[-1]} dimensions allow 1 to {limit}."
        )
    exact = in_float64(queries)
    centred = exact - exact.mean(0)
    _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
    deviation = singular[:components] / math.sqrt(len(queries) - 1)
    scaled: Tensor = in_float64(keys) @ directions[:components].T * deviation
    return scaled


def predicted_confusion(keys: Float[Tensor, "class_ component"]) -> Float[Tensor, "class_ class_"]:
    """Conf_pred: distance between the classes' (scaled) anchor keys over the largest such distance (equation
    11).

    0 is most confused, 1 least; the diagonal is set to 1, as in the paper's figure.
    """
    exact = in_float64(keys)
    distance = torch.cdist(exact, exact, compute_mode="donot_use_mm_for_euclid_dist")
    if distance.max() == 0:
        raise InputError("All anchor keys are equal; confusion distances need keys that differ.")
    return (distance / distance.max()).fill_diagonal_(1.0)


def real_confusion(
    class_logits: Float[Tensor, "batch class_"], gold: Int[Tensor, "batch"]
) -> Float[Tensor, "class_ class_"]:
    """Conf_real: for each pair of classes, the AUROC with which their scores separate their test items (appendix K).

    The score of a against b is p_a / p_b, taken as a difference of logits (or log-probabilities). 1 is never confused,
    0.5 at random. Symmetric; diagonal 1; NaN for a pair with a class without items.
    """
    from sklearn.metrics import roc_auc_score

    n_classes = class_logits.shape[-1]
    confusion = torch.full((n_classes, n_classes), torch.nan, dtype=torch.float64).fill_diagonal_(1.0)
    scores, truth = class_logits.detach().cpu().double(), gold.cpu()
    for a, b in itertools.combinations(range(n_classes), 2):
        rows = (truth == a) | (truth == b)
        is_a = truth[rows] == a
        if is_a.any() and not is_a.all():
            auc = roc_auc_score(is_a.numpy(), (scores[rows, a] - scores[rows, b]).numpy())
            confusion[a, b] = confusion[b, a] = float(auc)
    return confusion


@dataclass(frozen=True)
class Correlation:
    """Agreement of two confusion matrices over their pairs of classes."""

    spearman: float
    pearson: float
    p_value: float
    """One-sided: how often permuted classes agree (Spearman) at least as well."""
    n_pairs: int
    n_permutations: int
    exact: bool
    relabelled: FloatArray = field(compare=False, repr=False)
    """Spearman correlation under each permutation of the classes."""


def confusion_correlation(
    predicted: Float[Tensor, "class_ class_"],
    real: Float[Tensor, "class_ class_"],
    *,
    generator: np.random.Generator,
    permutations: int = 10_000,
) -> Correlation:
    """Rank correlation over pairs of classes, tested by permuting the classes of one matrix (Mantel's test).

    Pairs share classes, so they are not exchangeable; classes are. All permutations are used if there are at most
    `permutations` (6 classes have 720). Classes without values (NaN) are left out.
    """
    from scipy.stats import rankdata

    kept = _known_classes(predicted, real)
    x, y = (matrix.cpu().double().numpy()[np.ix_(kept, kept)] for matrix in (predicted, real))
    rows, columns = np.triu_indices(len(kept), 1)
    if np.ptp(x[rows, columns]) == 0 or np.ptp(y[rows, columns]) == 0:
        raise InputError("All pairs of one matrix have the same confusion; a correlation needs differences.")
    orders, exact = _class_orders(len(kept), permutations, generator)
    ranks = np.zeros_like(x)
    ranks[rows, columns] = rankdata(x[rows, columns])
    ranks += ranks.T
    target = rankdata(y[rows, columns])
    spearman = float(_correlations(ranks[None, rows, columns], target)[0])
    relabelled = _correlations(ranks[orders[:, rows], orders[:, columns]], target)
    at_least = int((relabelled >= spearman - 1e-12).sum())
    return Correlation(
        spearman=spearman,
        pearson=float(_correlations(x[None, rows, columns], y[rows, columns])[0]),
        p_value=at_least / len(orders) if exact else (1 + at_least) / (1 + len(orders)),
        n_pairs=len(rows),
        n_permutations=len(orders),
        exact=exact,
        relabelled=relabelled,
    )


def combined_p_value(
    correlations: Sequence[Correlation], *, generator: np.random.Generator, permutations: int = 10_000
) -> float:
    """One-sided p-value of the mean Spearman correlation of independent pairs of matrices, such as seeds with different
    classes: the classes of each pair are permuted separately. For a single pair it is that pair's p-value.
    """
    if len(correlations) == 1:
        return correlations[0].p_value
    mean = np.mean([one.spearman for one in correlations])
    drawn = np.mean([generator.choice(one.relabelled, permutations) for one in correlations], axis=0)
    return float((1 + (drawn >= mean - 1e-12).sum()) / (1 + permutations))


def _known_classes(predicted: Tensor, real: Tensor) -> list[int]:
    unknown = (predicted.isnan() | real.isnan()).fill_diagonal_(False)
    kept = (~unknown).sum(0).gt(1).nonzero().flatten()  # a class without items is NaN against every other
    if len(kept) < 3:
        raise InputError(f"{len(kept)} classes have values in both; a correlation of pairs needs at least 3.")
    if unknown[kept][:, kept].any():
        raise InputError("Some pairs of classes are NaN though both classes have values; complete the matrices.")
    return [int(index) for index in kept]


def _class_orders(
    n_classes: int, permutations: int, generator: np.random.Generator
) -> tuple[npt.NDArray[np.intp], bool]:
    """Every permutation of the classes, or a number of random ones, one per row."""
    if math.factorial(n_classes) <= permutations:
        return np.array(list(itertools.permutations(range(n_classes)))), True
    return generator.permuted(np.tile(np.arange(n_classes), (permutations, 1)), axis=1), False


def _correlations(rows: FloatArray, target: FloatArray) -> FloatArray:
    """Pearson's correlation of each row with the target."""
    rows = rows - rows.mean(1, keepdims=True)
    target = target - target.mean()
    scale: FloatArray = np.sqrt((rows**2).sum(1) * (target**2).sum())
    return rows @ target / scale
