"""How well a model predicts the texts of a prompt, beside the label words that it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mechicl.hooks import Probe, Watch
from mechicl.models import hooked
from mechicl.prompts import Prompt, PromptBatch
from mechicl.readings import mean_of


@dataclass(frozen=True)
class TextLoss(Probe):
    """Next-token loss, mean over the text tokens of demonstrations and query: reading [prompt].

    The token at position 0, which nothing predicts, does not count. Where texts are not marked (`from_positions`), all
    tokens but the label words are text.
    """

    units = {"loss": "nats"}
    terms = {"loss": "tokens"}

    def watch(self, model: Any, batch: PromptBatch) -> Watch:
        net = hooked(model)
        chosen = torch.zeros_like(batch.tokens, dtype=torch.bool)
        for row, prompt in enumerate(batch.prompts):
            chosen[row, [place - 1 for place in _text(prompt)]] = True
        sequence, position = chosen.nonzero(as_tuple=True)
        sums: list[Tensor] = []

        def see(resid: Tensor, hook: Any) -> None:
            losses = resid.new_zeros(resid.shape[:2], dtype=torch.float32)
            for rows, columns in zip(torch.split(sequence, 256), torch.split(position, 256), strict=True):
                logits = net.lens(resid.detach()[rows, columns])
                loss = torch.nn.functional.cross_entropy(logits, batch.tokens[rows, columns + 1], reduction="none")
                losses[rows, columns] = loss
            sums.append(losses.sum(1))

        def mean() -> dict[str, Tensor]:
            n = chosen.sum(1).cpu()
            return {"loss": mean_of(sums[-1], n), "tokens": n}

        return Watch([(f"blocks.{net.sizes.n_layers - 1}.hook_resid_post", see)], mean)


def _text(prompt: Prompt) -> list[int]:
    marked = {*prompt.w, *prompt.query_text} - {0}
    return sorted(marked or set(range(1, len(prompt))) - set(prompt.label_positions))
