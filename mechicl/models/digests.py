"""SHA-256 of files, and a fast fingerprint of weights, which says whether their SHA-256 must be taken again.

A fingerprint is never kept on disk. Weights in the host's memory are hashed as they lie there (xxHash, at the speed of
memory). Weights on a CUDA device stay there: their bits, as integers, are summed with random odd weights modulo 2^64,
and one transfer at the end brings all sums. Of other devices (MPS) no integer arithmetic is asked: their weights are
copied and hashed.
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
"""Integers that are weighted and summed at a time (8 MiB of int64)."""
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int32, 16: torch.int32}
"""How the bits of numbers of so many bytes are read: at most 32 at a time.

Two integers differ by less than 2^32, so their difference times that of two weights vanishes modulo 2^64 only where
the weights agree in their last 33 bits. With wider integers two changes of sign would cancel.
"""


def file_digest(path: Path) -> str:
    """Of one file."""
    digest, part = hashlib.sha256(), bytearray(_PART)
    with path.open("rb", buffering=0) as file:
        while n := file.readinto(part):
            digest.update(memoryview(part)[:n])
    return digest.hexdigest()


def files_digest(files: Sequence[Path]) -> str:
    """Of several files together, in order of their names, which count too."""
    digest = hashlib.sha256()
    for path in sorted(files, key=lambda path: path.name):
        digest.update(f"{path.name} {file_digest(path)}\n".encode())
    return digest.hexdigest()


def fingerprints(parameters: Iterable[Shaped[Tensor, "..."]]) -> list[int]:
    """A number for each tensor that a change of its bits, or of their order, changes."""
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
    """All numbers in the order of memory, which copies nothing where a transposed tensor is dense."""
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
