"""Which of two equal ways to compute a part of a block is the faster one, by device.

The CPU's answers are measured. The GPU's follow from what PyTorch's kernels support and how many bytes are moved;
`benchmarks/gpu.py choices` measures both ways there.
"""

from __future__ import annotations

import torch

_ROWS_WORTH_A_COPY = {"cpu": 256}
_ROWS_ELSEWHERE = 512
"""A GPU multiplies the heads as a batch in the same tiles as one product of all heads, until there are rows enough for
tiles wider than a head.
"""


def rows_worth_a_copy(device: torch.device) -> int:
    """From how many rows on one product with transposed weights, which are copied for it, beats a product per head."""
    return _ROWS_WORTH_A_COPY.get(device.type, _ROWS_ELSEWHERE)


def repeats_keys(device: torch.device, dtype: torch.dtype, masked: bool) -> bool:
    """Whether keys that heads share are repeated before `scaled_dot_product_attention` sees them.

    On CUDA only the flash kernel knows shared keys, and it knows neither float32 nor masks: everything else would fall
    to the kernel that writes all scores to memory. Repeated keys go to the memory-efficient one.
    """
    return device.type == "cuda" and (masked or dtype not in (torch.float16, torch.bfloat16))
