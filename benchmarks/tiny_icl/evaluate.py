"""How good a tiny-icl is, on data that it never saw: `python -m benchmarks.tiny_icl.evaluate`.

Accuracy: held-out texts under held-out mappings, among the labels of the prompt. Running text: the mean
loss against the grammar's exact entropy on the same fresh documents.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.tiny_icl.classification import Shape, draw_sequence
from benchmarks.tiny_icl.export import from_checkpoint
from benchmarks.tiny_icl.grammar import spelling, surprisal, token_rows
from benchmarks.tiny_icl.network import Network, load_network
from mechicl.shipped.grammar import grammar, sample_words

SETTINGS = ((2, 1), (4, 1), (6, 1), (2, 5), (4, 3), (6, 3))  # classes, shots


def accuracy(network: Network, classes: int, shots: int, prompts: int, seed: int) -> float:
    """The share of held-out prompts whose right label is the most probable of the prompt's labels."""
    rng = np.random.default_rng(seed)
    drawn = [draw_sequence(classes, shots, 1, Shape(), "test", rng) for _ in range(prompts)]
    right = 0
    with torch.no_grad():
        for start in range(0, prompts, 50):
            part = drawn[start : start + 50]
            rows = torch.zeros(len(part), max(len(s.ids) for s in part), dtype=torch.long)
            for row, s in zip(rows, part, strict=True):
                row[: len(s.ids)] = torch.tensor(s.ids)
            logits = network(rows)
            for row, s in zip(logits, part, strict=True):
                right += int(row[s.label_positions[-1] - 1, s.labels].argmax()) == s.classes[-1]
    return right / prompts


@dataclass(frozen=True)
class RunningText:
    """Mean nats a token: the model's loss and the grammar's entropy, on the same documents."""

    loss: float
    entropy: float

    @property
    def excess(self) -> float:
        """The loss above the entropy, relative to it."""
        return self.loss / self.entropy - 1


def running_text(network: Network, documents: int, length: int, seed: int) -> RunningText:
    """Loss and exact entropy on fresh documents of `length` tokens and BOS."""
    words = sample_words(grammar(), documents, length, np.random.default_rng(seed))
    exact = np.stack([row[:length] for row in surprisal(grammar(), spelling(), words)])
    rows = torch.from_numpy(token_rows(words, length + 1))
    total = 0.0
    with torch.no_grad():
        for part in torch.split(rows, 16):
            logits = network(part[:, :-1])
            total += float(F.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten(), reduction="sum"))
    return RunningText(total / exact.size, float(exact.mean()))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, help="a training checkpoint, instead of the shipped weights")
    parser.add_argument("--prompts", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    network = from_checkpoint(given.checkpoint) if given.checkpoint else load_network()
    for classes, shots in SETTINGS:
        found = accuracy(network, classes, shots, given.prompts, given.seed)
        print(json.dumps({"classes": classes, "shots": shots, "accuracy": found}), flush=True)
    text = running_text(network, 64, 255, given.seed)
    print(json.dumps({"loss": text.loss, "entropy": text.entropy, "excess": text.excess}))


if __name__ == "__main__":
    main()
