"""Scalars at the target position q whose gradient a probe may ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechicl.errors import InputError


@dataclass(frozen=True)
class Objective:
    """A loss over the label words at q, one value per prompt.

    `loss="cross_entropy"` is the paper's: cross-entropy in nats over the C label logits only (section 2.1 and the
    authors' code). `"logit_difference"` is the mean of the other labels' logits minus the target's: unlike for
    cross-entropy, its gradient does not vanish if the model is confident. `target` is the gold class (the paper) or the
    model's own predicted class.
    """

    loss: Literal["cross_entropy", "logit_difference"] = "cross_entropy"
    target: Literal["gold", "predicted"] = "gold"

    def __call__(
        self, label_logits: Float[Tensor, "batch class"], gold: Int[Tensor, "batch"]
    ) -> Float[Tensor, "batch"]:
        """The loss of each prompt.

        Raises:
            InputError: the gold class is requested but unknown, or there is only one class.
        """
        n_classes = label_logits.shape[-1]
        if n_classes < 2:
            raise InputError("The objective needs at least two label words; this prompt has one.")
        target = gold if self.target == "gold" else label_logits.detach().argmax(-1)
        if bool((target < 0).any()):
            raise InputError("A prompt has no gold label; give one, or use target='predicted'.")
        if self.loss == "cross_entropy":
            return torch.nn.functional.cross_entropy(label_logits, target, reduction="none")
        chosen = label_logits.gather(-1, target[:, None])[:, 0]
        return (label_logits.sum(-1) - chosen) / (n_classes - 1) - chosen
