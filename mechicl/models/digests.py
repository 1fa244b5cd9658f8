"""SHA-256 of files, and a fast fingerprint of weights, which shows whether their SHA-256 must be recomputed.

A fingerprint is never stored on disk. Weights in the host's memory are hashed in place (xxHash, at memory speed).
Weights on a CUDA device are not copied: their bits, as integers, are summed with random odd weights modulo 2^64, and
one transfer at the end brings all sums. Weights on other devices (MPS) are copied and hashed.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
import xxhash
from jaxtyping import Int64, Shaped
from torch import Tensor

_PART = 1 << 20
"""Bytes of a file that are read at a time."""
_INTEGERS_AT_ONCE = 1 << 20
"""Number of integers that are weighted and summed at a time (8 MiB of int64)."""
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int32, 16: torch.int32}
"""Integer type with which to read the bits of numbers of a given size: at most 32 bits at a time.

Two integers differ by less than 2^32, so their difference times that of two weights vanishes modulo 2^64 only if the
weights agree in their last 33 bits. With wider integers two changes of sign would cancel.
"""


def file_digest(path: Path) -> str:
    """SHA-256 of one file."""
    digest, part = hashlib.sha256(), bytearray(_PART)
    with path.open("rb", buffering=0) as file:
        while n := file.readinto(part):
            digest.update(memoryview(part)[:n])
    return digest.hexdigest()


def files_digest(files: Sequence[Path]) -> str:
    """SHA-256 of several files together, in order of their names, which are included."""
    digest = hashlib.sha256()
    for path in sorted(files, key=lambda path: path.name):
        digest.update(f"{path.name} {file_digest(path)}\n".encode())
    return digest.hexdigest()


def fingerprints(parameters: Iterable[Shaped[Tensor, "..."]]) -> list[int]:
    """One number per tensor, which changes with its bits or their order."""
    found: list[int] = []
    pending: dict[torch.device, list[tuple[int, Tensor]]] = {}
    for index, parameter in enumerate(parameters):
        bits = _as_it_lies(parameter.detach())
        if bits.device.type == "cuda":
            found.append(0)
            pending.setdefault(bits.device, []).append((index, weighted_sum(bits)))
        else:
            found.append(xxhash.xxh3_64_intdigest(bits.cpu().view(torch.uint8).numpy().data))
    for sums in pending.values():
        for (index, _), value in zip(sums, torch.stack([total for _, total in sums]).tolist(), strict=True):
            found[index] = value
    return found


def _as_it_lies(tensor: Tensor) -> Shaped[Tensor, " n"]:
    """All numbers in memory order, without copying a tensor that is transposed but dense."""
    strides = tensor.stride()
    order = sorted(range(tensor.ndim), key=lambda axis: -strides[axis])
    return tensor.permute(order).contiguous().view(-1)


def weighted_sum(numbers: Shaped[Tensor, " n"]) -> Int64[Tensor, ""]:
    """The bits of contiguous numbers as integers, each times a weight of its place, summed modulo 2^64 in place."""
    integers = numbers.view(_INTEGERS[numbers.element_size()])
    inner, outer = _weights(numbers.device)
    parts = [part.to(torch.int64).mul_(inner[: len(part)]).sum() for part in torch.split(integers, _INTEGERS_AT_ONCE)]
    sums = torch.stack(parts) if parts else integers.new_zeros(0, dtype=torch.int64)
    return (sums * outer[: len(sums)]).sum()


@functools.cache
def _weights(device: torch.device) -> tuple[Int64[Tensor, " part"], Int64[Tensor, " part"]]:
    """Odd weights of the places in a part, and of the parts (2^40 numbers at most)."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randint(-(2**62), 2**62, (2, _INTEGERS_AT_ONCE), generator=generator) * 2 + 1
    inner, outer = weights.to(device)
    return inner, outer
