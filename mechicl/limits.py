"""Check before work begins that it fits the machine: memory as a function of sizes, and free memory.

Estimates give the order of magnitude, with a safety factor of 1.5, and are not a guarantee.
"""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any

from mechicl.errors import InputError

COPIES = 2
"""During conversion, both the original and the new model are in memory, so weights exist twice."""


def duration(seconds: float) -> str:
    """A time as one word: seconds, minutes, hours or days."""
    units = ((86400, "days"), (3600, "hours"), (60, "minutes"))
    return next((name for size, name in units if seconds >= 2 * size), "seconds")


def pass_bytes(sizes: Any, length: int, itemsize: int) -> int:
    """Bytes that one prompt of this length takes in a forward pass: one running block, and every layer's residual.

    `sizes` are a model's (`mechicl.models.Sizes`), `itemsize` is the bytes of a number (4 for float32).
    """
    attention = 4 * sizes.n_heads * length**2  # scores, mask, softmax, and a hook's copy
    block = length * (12 * sizes.d_model + 4 * sizes.d_mlp)
    residuals = length * sizes.d_model * (sizes.n_layers + 1)
    needed: float = 1.5 * itemsize * (attention + block + residuals) + 4 * sizes.d_vocab
    return int(needed)


def prompts_that_fit(sizes: Any, length: int, itemsize: int, device: Any) -> int | None:
    """Number of prompts of this length that fit in a pass; None if free memory is unknown.

    Raises:
        InputError: not even one fits.
    """
    free = free_bytes(device)
    if free is None:
        return None
    needed = pass_bytes(sizes, length, itemsize)
    if needed > free:
        raise InputError(
            f"A prompt of {length} tokens does not fit: estimated memory {in_words(needed)}, free memory "
            f"{in_words(free)} on {device}; use shorter prompts, a smaller model, or a lower-precision dtype."
        )
    return free // needed


def check_weights_fit(name: object, numbers: int, itemsize: int, device: Any) -> None:
    """Raise InputError if a model's weights, and their copy, exceed free memory."""
    needed = numbers * itemsize * COPIES
    free = free_bytes(device)
    if free is not None and needed > free:
        raise InputError(
            f"{name} does not fit: estimated memory {in_words(needed)}, free memory {in_words(free)} on {device}; use "
            "dtype='bfloat16', a smaller model, or another machine."
        )


def free_bytes(device: Any) -> int | None:
    """Available memory of a device; None if unknown.

    On CUDA it includes PyTorch's reusable cache, which `mem_get_info` counts as used. On the host it is the machine's
    available memory, or less if a control group (Docker, SLURM) or `ulimit -v` allows less.
    """
    if str(device).startswith("cuda"):
        import torch

        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    rooms = (_in_the_machine(), *_in_control_groups(), _under_ulimit())
    return min((max(0, room) for room in rooms if room is not None), default=None)


def return_freed_memory() -> None:
    """Return freed memory to the system: glibc and PyTorch keep it, gigabytes after a few untrained twins."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with suppress(OSError, AttributeError, TypeError):  # no glibc
        ctypes.CDLL(None).malloc_trim(0)


def _in_the_machine() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):  # no Linux
        return None


def _in_control_groups(
    root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> Iterator[int]:
    """Memory that each control group around this process leaves; cached files count as free."""
    try:
        lines = [line.split(":", 2) for line in membership.read_text().splitlines()]
    except OSError:
        return
    for _, controllers, path in lines:
        first = controllers == "memory"  # version 1 of control groups, where each controller has a folder
        if not first and controllers:
            continue
        top = root / "memory" if first else root
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if first else ("memory.max", "memory.current")
        inside = PurePosixPath(path.lstrip("/"))
        for folder in (top / inside, *(top / parent for parent in inside.parents)):
            try:
                most, used = (int((folder / name).read_text()) for name in names)
                stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            except (OSError, ValueError):  # no such group, or "max"
                continue
            yield most - used + int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))


def _under_ulimit() -> int | None:
    try:
        import resource

        most = resource.getrlimit(resource.RLIMIT_AS)[0]
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError, ValueError):  # no Linux
        return None
    return None if most == resource.RLIM_INFINITY else most - taken


_LIBRARIES = 1_400_000_000
"""Measured bytes of address space of a study's libraries (mostly PyTorch) and a page, with one thread."""


def check_room_for_libraries() -> None:
    """Raise InputError if `ulimit -v` leaves too little to import PyTorch and TransformerLens, which would crash."""
    free = _under_ulimit()
    if free is not None and free < _LIBRARIES:
        raise InputError(
            f"PyTorch and TransformerLens need about {in_words(_LIBRARIES)} of address space, and `ulimit -v` leaves "
            f"{in_words(max(0, free))}; raise that limit."
        )


def numbers_in(files: Sequence[Path]) -> int:
    """Number of elements in safetensors files, from their headers alone."""
    total = 0
    for file in files:
        with file.open("rb") as opened:
            header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
        total += sum(prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    return total


def in_words(n_bytes: int) -> str:
    """Bytes as GiB, small amounts as MiB."""
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 2**29 else f"{max(int(n_bytes > 0), round(n_bytes / 2**20))} MiB"
