"""A model's predictions, and how far two models agree: by token id, never by decoded string."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechicl.errors import InputError


def top_1_agreement(
    logits_a: Float[Tensor, "*pos vocab"], logits_b: Float[Tensor, "*pos vocab"]
) -> Bool[Tensor, "*pos"]:
    """Whether both have the same most probable token (its mean is the "relative accuracy" of *Stages of Inference*)."""
    return logits_a.argmax(-1) == logits_b.argmax(-1)


def top_k_ids(logits: Float[Tensor, "*pos vocab"], k: int) -> Int[Tensor, "*pos k"]:
    """The k most probable tokens, most probable first; equal logits are ordered by id."""
    vocabulary = logits.shape[-1]
    if not 1 <= k <= vocabulary:
        raise InputError(f"k is {k}; it counts tokens of a vocabulary of {vocabulary}: take 1 to {vocabulary}.")
    values, ids = logits.topk(min(k + 1, vocabulary), dim=-1)  # one more, to detect a tie at the boundary
    ids, by_id = ids.sort(dim=-1)
    values, by_value = values.gather(-1, by_id).sort(stable=True, dim=-1, descending=True)
    ids = ids.gather(-1, by_value)[..., :k]
    if k < vocabulary:
        tied = values[..., k - 1] == values[..., k]
        if tied.any():
            ids[tied] = logits[tied].sort(stable=True, dim=-1, descending=True).indices[..., :k]
    return ids


def jaccard(ids_a: Int[Tensor, "*pos k"], ids_b: Int[Tensor, "*pos k"]) -> Float[Tensor, "*pos"]:
    """Jaccard similarity |A n B| / |A u B| of two sets of k distinct ids, between 0 and 1."""
    shared = (ids_a.unsqueeze(-1) == ids_b.unsqueeze(-2)).sum((-1, -2)).float()
    return shared / (ids_a.shape[-1] + ids_b.shape[-1] - shared)


def top_k_overlap(
    logits_a: Float[Tensor, "*pos vocab"], logits_b: Float[Tensor, "*pos vocab"], k: int = 5
) -> Float[Tensor, "*pos"]:
    """Jaccard similarity of the two sets of k most probable tokens at each position."""
    return jaccard(top_k_ids(logits_a, k), top_k_ids(logits_b, k))


def token_rank(logits: Float[Tensor, "*pos vocab"], token: Int[Tensor, "*pos"]) -> Int[Tensor, "*pos"]:
    """Rank of a token, 1 for the most probable (1 / rank is the reciprocal rank); the lower id wins ties."""
    value = logits.gather(-1, token.long().unsqueeze(-1))
    earlier = torch.arange(logits.shape[-1], device=logits.device) < token.unsqueeze(-1)
    return 1 + (logits > value).sum(-1) + ((logits == value) & earlier).sum(-1)


def label_loyalty(
    class_logits: Float[Tensor, "batch class_"], reference: Float[Tensor, "batch class_"]
) -> Float[Tensor, "batch"]:
    """1 if a changed model predicts the same label word as the reference, else 0 (*Label Words*, section 2.2).

    Both arguments are the logits of the C label words at the target position; the paper prints 100 times the
    mean.
    """
    return (class_logits.argmax(-1) == reference.argmax(-1)).float()


def word_loyalty(
    logits: Float[Tensor, "batch vocab"], reference: Float[Tensor, "batch vocab"], k: int = 5
) -> Float[Tensor, "batch"]:
    """Jaccard similarity of the k most probable next tokens of both models at the target (section 2.2).

    The paper says k = 5; its committed isolation notebook has 10.
    """
    return top_k_overlap(logits, reference, k)


class ClassificationScores(NamedTuple):
    """How well labels are predicted, next to the score of a constant answer."""

    accuracy: float
    macro_f1: float
    """Mean F1 over the classes that occur as gold label or prediction."""
    balanced_accuracy: float
    """Mean recall over the classes that occur as gold label."""
    majority_rate: float
    """Accuracy of always answering the most frequent gold label: EmoC's is about 0.85, above the paper's
    accuracies.
    """
    n: int


def classification_scores(predicted: Int[Tensor, "batch"], gold: Int[Tensor, "batch"]) -> ClassificationScores:
    """Accuracy, macro-F1, balanced accuracy and the majority baseline of class predictions."""
    from sklearn.metrics import f1_score, recall_score

    if gold.numel() == 0 or predicted.shape != gold.shape:
        raise InputError(
            f"There are {predicted.numel()} predictions and {gold.numel()} gold labels; give one of each per prompt."
        )
    if gold.min() < 0:
        raise InputError("Some gold labels are unknown (-1); score only prompts whose label is known.")
    p, g = predicted.cpu().numpy(), gold.cpu().numpy()
    return ClassificationScores(
        accuracy=float((p == g).mean()),
        macro_f1=float(f1_score(g, p, average="macro", zero_division=0)),
        balanced_accuracy=float(recall_score(g, p, labels=sorted(set(g.tolist())), average="macro")),
        majority_rate=gold.bincount().max().item() / gold.numel(),
        n=gold.numel(),
    )
