"""Both ways where mechicl keeps two for one part of attention: what the second one brings.

    OMP_NUM_THREADS=1 python benchmarks/attention.py [--size gpt2-xl --device cuda --dtype bfloat16]

Attention runs in one fused kernel, or in parts: scores, softmax, average. Hook points on scores and pattern need the
parts, so mechicl keeps them; the kernel has to justify itself by speed. Projections run as one product per head on the
weights as they lie, or as one product of all heads on transposed weights, which are copied at every call. Ways take
turns, and results are equal.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from measuring import Clock, Rate, arguments, machine, random_model, row
from torch import Tensor

from mechicl.models import KeyValues, attention

Way = Callable[[], Tensor]
_SHAPES = {
    "one token after a prompt: a training step of re-weighting": (1, 1, 400),
    "one prompt": (1, 148, 0),
    "a batch of prompts": (16, 148, 0),
    "running text": (4, 512, 0),
    "one query on a context": (1, 22, 126),
    "a batch of queries on one context": (16, 22, 126),
    "a batch of queries on one long context": (16, 22, 800),
}
"""Sequences, their tokens, and cached keys that all of them share."""


@torch.no_grad()
def main() -> None:
    asked = arguments(__doc__, tokens=0, length=0).parse_args()
    asked.n_layers = 1
    model, clock = random_model(asked), Clock(asked.device)
    attn, cfg = model.blocks[0].attn, model.cfg

    def heads(batch: int, pos: int) -> Tensor:
        return torch.randn(batch, pos, cfg.n_heads, cfg.d_head, device=cfg.device, dtype=cfg.dtype)

    rate = Rate(model, clock)
    rate.measure()
    print(machine(model, rate))
    row("attention", "one kernel, ms", "in parts, ms", "parts / kernel")
    row("---", "---", "---", "---")
    for name, (batch, pos, cached) in _SHAPES.items():
        past = KeyValues(heads(1, cached), heads(1, cached), torch.arange(cached, device=cfg.device))
        new = KeyValues(heads(batch, pos), heads(batch, pos), torch.arange(cached, cached + pos, device=cfg.device))
        given = (attention.Scoring.of(attn), heads(batch, pos), new, past if cached else None)
        ways: tuple[Way, Way] = (partial(attention.fused, *given), partial(attention.in_parts, *given))
        _turns(clock, f"{name} ({batch} x {pos}{f' on {cached}' if cached else ''})", ways, asked.repeats)
    print()
    row("queries, keys and values of", "a product per head, ms", "one on copied weights, ms", "copied / per head")
    row("---", "---", "---", "---")
    weight, bias = attn.W_Q, attn.b_Q
    for rows in (1, 22, 148, 352, 2368):
        x = torch.randn(1, rows, cfg.d_model, device=cfg.device, dtype=cfg.dtype)
        ways = (partial(attention.per_head, x, weight, bias), partial(attention.all_heads, x, weight, bias))
        _turns(clock, f"{rows} rows", ways, asked.repeats)


def _turns(clock: Clock, name: str, ways: tuple[Way, Way], repeats: int) -> None:
    first, second = (way() for way in ways)
    tolerance = 1e-4 if first.dtype == torch.float32 else 1e-1
    torch.testing.assert_close(second, first, atol=tolerance, rtol=tolerance)
    for _ in range(5 * repeats):
        for number, way in enumerate(ways):
            clock.time(f"{name} {number}", lambda way=way: [way() for _ in range(10)][-1])  # type: ignore[misc]
    one, other = (100 * clock.median(f"{name} {number}") for number in (0, 1))
    row(name, f"{one:.2f}", f"{other:.2f}", f"{other / one:.2f}")


if __name__ == "__main__":
    main()
