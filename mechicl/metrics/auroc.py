"""How well attention to the label words predicts the label, layer by layer (*Label Words are Anchors*, section 2.3)."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechicl.errors import InputError, check_count

Protocol = Literal["paper", "corrected"]


class LayerAUROC(NamedTuple):
    """AUROC of every layer, and the sample behind it."""

    values: Float[Tensor, "layer"]
    """NaN in every layer if there is none; `reason` says why."""
    classes: tuple[int, ...]
    """The classes present in the target; the others were dropped."""
    n: int
    reason: str | None = None


def auroc_by_layer(
    attention: Float[Tensor, "batch layer class_"], target: Int[Tensor, "batch"], *, protocol: Protocol = "corrected"
) -> LayerAUROC:
    """AUCROC_l: the target position's attention to each class's label words, as a score for the class.

    `attention` is summed over heads and over a class's positions; `target` is the model's own prediction in the paper
    (appendix E), or the gold label. Classes absent from the target are dropped and rows normalised to sum 1. With more
    than two classes left the AUROC is one-vs-one, averaged over pairs without weights. With two, `protocol="paper"`
    uses the raw attention to the second class, "corrected" its share. With one there is no AUROC: NaN and a reason.
    """
    if protocol not in ("paper", "corrected"):
        raise InputError(f"protocol is {protocol!r}; it must be 'paper' or 'corrected'.")
    values, classes = _weighted_auroc(attention, target, target[None], lambda n: torch.ones(1, n), protocol)
    n = len(target)
    reason = None if len(classes) > 1 else f"all {n} targets are class {classes[0]}: an AUROC needs two classes"
    return LayerAUROC(values[0], classes, n, reason)


def bootstrap_auroc(
    attention: Float[Tensor, "batch layer class_"], target: Int[Tensor, "batch"], *, generator: np.random.Generator,
    protocol: Protocol = "corrected", resamples: int = 500, sets: Int[np.ndarray, "batch"] | None = None,
) -> Float[Tensor, "resample layer"]:  # fmt: skip
    """AUCROC_l of resampled prompts, or of resampled whole demonstration `sets` (numbered from 0).

    NaN in a resample that lacks a class.
    """

    check_count("resamples", resamples)

    def counts(n: int) -> Tensor:
        unit = np.arange(n) if sets is None else sets
        units = int(unit.max()) + 1
        return torch.tensor(generator.multinomial(units, np.full(units, 1 / units), size=resamples)[:, unit])

    return _weighted_auroc(attention, target, target[None], counts, protocol)[0]


def permuted_auroc(
    attention: Float[Tensor, "batch layer class_"], target: Int[Tensor, "batch"], *, generator: np.random.Generator,
    protocol: Protocol = "corrected", permutations: int = 500,
) -> Float[Tensor, "permutation layer"]:  # fmt: skip
    """AUCROC_l of targets permuted over prompts: the null of attention unrelated to the target."""
    check_count("permutations", permutations)
    orders = generator.permuted(np.tile(np.arange(len(target)), (permutations, 1)), axis=1)
    dealt = target.cpu()[torch.tensor(orders)]
    return _weighted_auroc(attention, target, dealt, lambda n: torch.ones(1, n), protocol)[0]


def _weighted_auroc(
    attention: Float[Tensor, "batch layer class_"],
    target: Int[Tensor, "batch"],
    dealt: Int[Tensor, "deal batch"],
    draw: Callable[[int], Tensor],
    protocol: Protocol,
) -> tuple[Float[Tensor, "resample layer"], tuple[int, ...]]:
    """The AUROC by layer of prompts weighted by each row of weights, and the classes in the target.

    For a pair of classes it is how often a prompt of one scores above a prompt of the other, ties counting half.
    `dealt` gives the prompts' classes: the target, or several permutations of it.
    """
    _check(attention, target)
    classes = tuple(sorted(set(target.tolist())))
    weights = draw(len(target)).double()
    if len(classes) < 2:
        rows = max(len(weights), len(dealt))
        return torch.full((rows, attention.shape[1]), torch.nan, dtype=torch.float64), classes
    scores = _scores(attention, classes, protocol)
    of_class = [weights * (dealt.cpu() == c) for c in classes]
    members = [weight.any(0).nonzero().flatten() for weight in of_class]

    def separated(a: int, b: int) -> Tensor:  # class a from class b by the score of a
        up, down = of_class[a][:, members[a]], of_class[b][:, members[b]]
        curves = []
        for score in scores[..., a].T:
            difference = score[members[a], None] - score[members[b]]
            above = (difference > 0).double() + (difference == 0).double() / 2
            curves.append(((up @ above) * down).sum(1) / (up.sum(1) * down.sum(1)))
        return torch.stack(curves, 1)

    if len(classes) == 2:
        return separated(1, 0), classes
    pairs = [(a, b) for a in range(len(classes)) for b in range(a)]
    return torch.stack([(separated(a, b) + separated(b, a)) / 2 for a, b in pairs]).mean(0), classes


def _scores(attention: Tensor, classes: tuple[int, ...], protocol: Protocol) -> Float[Tensor, "batch layer class_"]:
    """Each remaining class's score: its share or, for two classes under "paper", its raw attention."""
    kept = attention[..., list(classes)].detach().cpu().double()
    if len(classes) == 2 and protocol == "paper":
        return kept
    total = kept.sum(-1, keepdim=True)
    return torch.where(total > 0, kept / total, 1 / len(classes))  # no attention at all: no evidence


def _check(attention: Tensor, target: Tensor) -> None:
    if len(attention) != len(target) or not len(target):
        raise InputError(f"There are {len(attention)} prompts and {len(target)} targets; give one target per prompt.")
    if target.min() < 0 or target.max() >= attention.shape[-1]:
        raise InputError(
            f"Targets run from {int(target.min())} to {int(target.max())} for {attention.shape[-1]} classes; "
            "leave out prompts whose label is unknown (-1)."
        )
    if not attention.isfinite().all():
        raise InputError("Attention holds NaN or infinite values; an AUROC needs a finite score for every prompt.")


def cumulative_contribution(
    auroc: Float[Tensor, "*task layer"], *, clipped: bool = False
) -> Float[Tensor, "*task layer"]:
    """R_l = sum_{i<=l} (AUC_i - 1/2) / sum_{i<=L} (AUC_i - 1/2), the paper's equation 5; R_L = 1.

    Leading axes (tasks, seeds) have one curve each; the paper's figure has the R of their mean, `auroc.mean(0)`.
    `clipped` drops layers below chance, which otherwise subtract, so that R_l may leave [0, 1]. It is NaN if the total
    is 0.
    """
    excess = auroc.double() - 0.5
    excess = excess.clamp(min=0) if clipped else excess
    share = excess.cumsum(-1) / excess.sum(-1, keepdim=True)
    return torch.where(share.isinf(), torch.nan, share)
