"""Both of two equal ways, where `mechicl.models.attention` chooses by device: is its choice the faster one here?"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mechicl.models import attention
from on_gpu.setting import SHAPES, deviation, taken

Way = Callable[[], Tensor]


@torch.no_grad()
def rows(asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row for each choice, size and dtype: both ways' microseconds, and which one mechicl takes."""
    device = torch.device(asked.device)
    for dtype in (torch.float32, torch.bfloat16):
        yield from _projections(asked, device, dtype)
        yield from _norms(asked, device, dtype)
        yield from _grouped(asked, device, dtype)


def _compared(
    asked: argparse.Namespace, what: str, dtype: torch.dtype, first: Way, second: Way, takes_second: bool
) -> dict[str, Any]:
    once, other = (taken(_many(way), asked, enough=0.5) for way in (first, second))
    return {
        "choice": what, "dtype": str(dtype).removeprefix("torch."), "first, us": 1e6 * once.seconds / _TIMES,
        "second, us": 1e6 * other.seconds / _TIMES, "mechicl takes": "second" if takes_second else "first",
        "right": takes_second == (other.seconds < once.seconds), "deviation": deviation(other.result, once.result),
    }  # fmt: skip


_TIMES = 20


def _many(way: Way) -> Way:
    def call() -> Tensor:
        for _ in range(_TIMES - 1):
            way()
        return way()

    return call


def _projections(asked: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> Iterator[dict[str, Any]]:
    """A product per head against one product on a copy of the weights."""
    shape, bound = SHAPES[asked.size]["xl"], attention.rows_worth_a_copy(device)
    weight = torch.randn(shape.heads, shape.width, shape.width // shape.heads, device=device, dtype=dtype)
    bias = weight[:, 0].contiguous()
    for n in (1, 16, 64, 128, 256, 512, 1024, 4096) if asked.size == "full" else (1, 512):
        x = torch.randn(1, n, shape.width, device=device, dtype=dtype)

        what = f"{n} rows projected: a product per head / one on copied weights"
        ways = (partial(way, x, weight, bias) for way in (attention.per_head, attention.all_heads))
        yield _compared(asked, what, dtype, *ways, n >= bound)


def _norms(asked: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> Iterator[dict[str, Any]]:
    """An RMS norm written out against PyTorch's, which mechicl takes on every device."""
    shape = SHAPES[asked.size]["7b"]
    for n in (1, 2048) if asked.size == "full" else (1, 64):
        x = torch.randn(1, n, shape.width, device=device, dtype=dtype).float()  # statistics are float32

        def written_out(x: Tensor = x) -> Tensor:
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)

        def fused(x: Tensor = x) -> Tensor:
            return F.rms_norm(x, (shape.width,), None, 1e-5)

        yield _compared(asked, f"RMS norm of {n} rows: written out / PyTorch's", dtype, written_out, fused, True)


def _grouped(asked: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> Iterator[dict[str, Any]]:
    """Keys that heads share, left to the kernel against repeated for every head."""
    shape = SHAPES[asked.size]["7b"]
    batch, n = (8, 512) if asked.size == "full" else (2, 32)
    d_head, groups = shape.width // shape.heads, shape.heads // shape.key_value_heads
    q = torch.randn(batch, shape.heads, n, d_head, device=device, dtype=dtype)
    k, v = torch.randn(2, batch, shape.key_value_heads, n, d_head, device=device, dtype=dtype)
    mask = torch.ones(n, n, dtype=torch.bool, device=device).tril()
    for masked in (False, True):
        more = {"attn_mask": mask} if masked else {"is_causal": True}

        def shared(more: Any = more) -> Tensor:
            return F.scaled_dot_product_attention(q, k, v, enable_gqa=True, **more)

        def repeated(more: Any = more) -> Tensor:
            keys, values = (x.repeat_interleave(groups, 1) for x in (k, v))
            return F.scaled_dot_product_attention(q, keys, values, **more)

        takes = attention.repeats_keys(device, dtype, masked)
        what = f"grouped keys{', masked' if masked else ''}: left to the kernel / repeated"
        yield _compared(asked, what, dtype, shared, repeated, takes)
