"""*Label Words are Anchors*: the paper's way of computing beside ours, in one process, with equal results.

    python benchmarks/label_words.py [--layers 12 --width 768] [--queries 16] [--steps 3]

The paper's way is written out here in plain code: every prompt alone and whole; for re-weighting a forward and a
backward pass through the whole prompt with gradients of all weights, as the authors' scripts do. The model is random,
of the size asked for; demonstrations are as long as TREC's (6 of 22 tokens).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig

from mechicl import LabelAttention, compress, run_shared
from mechicl.engines.last_token import last_tokens
from mechicl.hooks import run
from mechicl.models import frozen
from mechicl.patches import ReweightAnchors
from mechicl.prompts import Prompt, PromptSet

CLASSES, DEMONSTRATION, QUERY = 6, 22, 16


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser()
    for name, default in (("layers", 12), ("width", 768), ("queries", 16), ("steps", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    model, prompts = random_model(asked.layers, asked.width), random_prompts(asked.queries)
    print(f"{asked.layers} layers, width {asked.width}, {len(prompts)} queries, prompts of {len(prompts[0])} tokens, "
          f"{torch.get_num_threads()} threads, {model.cfg.device}")  # fmt: skip
    print(f"{'experiment':<42}{'paper, s':>10}{'ours, s':>10}{'ratio':>8}")
    for name, compare in (
        ("re-weighting, one training step", reweighting),
        ("deep layers, all prompts", deep_layers),
        ("context of label words, all queries", compression),
    ):
        paper, ours = compare(model, prompts, asked.steps)
        print(f"{name:<42}{paper:>10.3f}{ours:>10.3f}{paper / ours:>8.1f}")


def random_model(layers: int, width: int) -> HookedTransformer:
    """A GPT-2-like model with random weights."""
    torch.manual_seed(0)
    cfg = HookedTransformerConfig(
        n_layers=layers, d_model=width, d_head=64, n_heads=width // 64, d_mlp=4 * width, n_ctx=1024, d_vocab=50257,
        act_fn="gelu_new", normalization_type="LN", seed=0,
    )  # fmt: skip
    return HookedTransformer(cfg).eval()


def random_prompts(n: int) -> PromptSet:
    """Queries of random tokens behind the same demonstrations."""
    generator = np.random.default_rng(0)
    shown = generator.integers(0, 50257, CLASSES * DEMONSTRATION).tolist()
    labels = [[(c + 1) * DEMONSTRATION - 2] for c in range(CLASSES)]
    queries = [generator.integers(0, 50257, QUERY).tolist() for _ in range(n)]
    ids = list(range(100, 100 + CLASSES))
    return PromptSet.of([Prompt.from_positions([*shown, *q], labels, ids, i % CLASSES) for i, q in enumerate(queries)])


def reweighting(model: Any, prompts: PromptSet, steps: int) -> tuple[float, float]:
    """A step of Adam on beta: whole prompt and all weights' gradients, against the last token with frozen weights."""
    betas = [torch.zeros(model.cfg.n_layers, model.cfg.n_heads, CLASSES, requires_grad=True) for _ in range(2)]
    optimisers = [torch.optim.Adam([beta], lr=0.01) for beta in betas]
    prepared = last_tokens(model, prompts[:steps])
    losses: list[list[float]] = [[], []]

    def step(way: int, index: int) -> None:
        batch = prompts.select([index]).batch()
        patch = ReweightAnchors(betas[way])
        if way == 0:
            logits = model.run_with_hooks(batch.tokens, fwd_hooks=patch.hooks(model, batch))[:, -1, batch.label_ids]
        else:
            logits = prepared[index].label_logits(model, [patch])
        loss = torch.nn.functional.cross_entropy(logits, batch.gold)
        optimisers[way].zero_grad()
        loss.backward()
        optimisers[way].step()
        losses[way].append(loss.item())

    paper = median([lambda i=i: step(0, i) for i in range(steps)])
    model.zero_grad()
    with frozen(model):
        ours = median([lambda i=i: step(1, i) for i in range(steps)])
    torch.testing.assert_close(torch.tensor(losses[0]), torch.tensor(losses[1]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(betas[0], betas[1], rtol=1e-2, atol=2e-4)
    return paper, ours


def deep_layers(model: Any, prompts: PromptSet, steps: int) -> tuple[float, float]:
    """Attention to the label words: every prompt whole, against demonstrations read once."""
    probe = LabelAttention()
    found: list[torch.Tensor] = []
    paper = median([lambda: found.append(run(model, prompts, [probe], batch_size=1)[probe])])
    ours = median([lambda: found.append(run_shared(model, prompts, [probe])[probe])])
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)
    return paper, ours


def compression(model: Any, prompts: PromptSet, steps: int) -> tuple[float, float]:
    """Queries on a context of label words: hidden keys in the whole prompt, against the gathered cache."""
    start, kept = prompts[0].query_start, prompts[0].label_positions
    hidden = torch.ones(len(prompts[0]), dtype=torch.bool)
    hidden[start:] = False
    hidden[list(kept)] = False

    def hide(scores: torch.Tensor, hook: Any) -> torch.Tensor:
        mask = torch.zeros(scores.shape[-2:], dtype=torch.bool)
        mask[start:] = hidden
        return scores.masked_fill(mask, -torch.inf)

    hooks = [(f"blocks.{layer}.attn.hook_attn_scores", hide) for layer in range(model.cfg.n_layers)]
    found: list[torch.Tensor] = []

    def whole() -> None:
        rows = [model.run_with_hooks(torch.tensor([p.tokens]), fwd_hooks=hooks)[:, -1] for p in prompts]
        found.append(torch.cat(rows)[:, list(prompts.label_ids)])

    def gathered() -> None:
        found.append(compress(model, prompts[0], kept="label").ask(model, prompts).label_logits)

    with torch.no_grad():
        paper, ours = median([whole]), median([gathered])
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)
    return paper, ours


def median(calls: list[Callable[[], None]]) -> float:
    """Median seconds of the calls."""
    seconds = []
    for call in calls:
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
