"""Two studies in a row, whose batches must not shrink; memory that runs out, whereupon the batch is halved."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from mechicl import run
from mechicl.limits import free_bytes
from mechicl.models import hooked, provenance
from mechicl.probes import LabelAttention
from mechicl.studies.label_words.information_flow import InformationFlow
from mechicl.studies.label_words.isolation import Isolation
from on_gpu.setting import SHAPES, deviation, prompts_for, random_model, taken


def rows(asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """On GPT-2-XL in float32."""
    model = random_model(SHAPES[asked.size]["xl"], asked.device, "float32")
    for name in ("weights digested", "digest looked up"):
        digested = taken(lambda: provenance(model), asked, repeats=0)
        yield {"what": name, "seconds": digested.seconds}
    prompts = prompts_for(asked)
    seen: list[list[int]] = []
    for study in (InformationFlow(), Isolation(n_layers=(1,)), InformationFlow()):
        before = free_bytes(hooked(model).device) or 0
        with batches(model) as sizes:
            study.run(model, [prompts], batch_size=len(prompts))
        seen.append(sizes)
        yield {"what": study.name, "batches": str(sizes[:8]), "free before, GiB": before / 2**30}
    yield {"what": "batches of the same study are as large the second time", "ok": seen[0] == seen[2]}
    yield _halved(model, asked)


def _halved(model: Any, asked: argparse.Namespace) -> dict[str, Any]:
    """A pass whose memory is capped below what its batch needs gives the numbers of an uncapped one."""
    prompts, probe = prompts_for(asked), LabelAttention()
    free = taken(lambda: run(model, prompts, [probe], batch_size=len(prompts), progress=None), asked, repeats=0)
    with capped(model, asked.device, free.gib, len(prompts)), batches(model) as sizes:
        found = run(model, prompts, [probe], batch_size=len(prompts), progress=None)
    apart = deviation(found[probe].values, free.result[probe].values)
    return {
        "what": "memory that runs out halves the batch", "batches": str(sizes), "deviation": apart,
        "ok": sizes[-1] < len(prompts) and apart < 1e-4,
    }  # fmt: skip


@contextmanager
def capped(model: Any, device: str, needed_gib: float, n: int) -> Iterator[None]:
    """Less memory than the pass needs: PyTorch's own cap on a GPU, on the host a hook that refuses large batches."""
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(device).total_memory
        allowed = torch.cuda.memory_allocated() + 0.5 * needed_gib * 2**30
        torch.cuda.set_per_process_memory_fraction(allowed / total)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        return

    def refuse(value: torch.Tensor, hook: Any) -> None:
        if len(value) > n // 2:
            raise torch.OutOfMemoryError("the rehearsal's memory ran out")

    with hooked(model).hooks([("hook_embed", refuse)]):
        yield


@contextmanager
def batches(model: Any) -> Iterator[list[int]]:
    """Sizes of the batches that the model is given."""
    sizes: list[int] = []

    def see(value: torch.Tensor, hook: Any) -> None:
        sizes.append(len(value))

    with hooked(model).hooks([("hook_embed", see)]):
        yield sizes
