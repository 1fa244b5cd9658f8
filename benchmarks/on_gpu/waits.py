"""How often the host waits for the device: calls in a profile, of a model and of one twice as deep.

What grows with the layers is waited for once a layer. A CPU is never waited for: there the count is of operations that
would wait, of which some are taken on a CPU alone, and no row is judged.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from mechicl import run
from mechicl.engines import compress, fit_reweighting, lesion_sweep
from mechicl.patches import Drop, IsolateLabels
from mechicl.probes import LabelAttention, LogitLens, Norms, SaliencyFlow
from on_gpu.setting import SHAPES, corpus_of, prompts_for, random_model, texts_for

WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
ON_A_CPU = ("aten::_local_scalar_dense", "aten::nonzero")
SHAPE = replace(SHAPES["tiny"]["xl"], layers=4)


def rows(asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Waits in the shallow model, and how many more a layer takes."""
    shallow, deep = (random_model(replace(SHAPE, layers=n * SHAPE.layers), asked.device, "float32") for n in (1, 2))
    prompts, texts = prompts_for(asked)[:4], texts_for(asked, shallow)[:1, :64]
    corpus, there = corpus_of(texts), texts.to(asked.device)
    calls: dict[str, Callable[[Any], object]] = {
        "forward": lambda model: run(model, prompts, progress=None),
        "label attention": lambda model: run(model, prompts, [LabelAttention()], progress=None),
        "information flow": lambda model: run(model, prompts, [SaliencyFlow()], progress=None),
        "norms": lambda model: run(model, corpus, [Norms()], progress=None),
        "lens": lambda model: run(model, corpus, [LogitLens(only=("entropy", "kl"))], progress=None),
        "isolation": lambda model: run(model, prompts, patches=[IsolateLabels(range(2))], progress=None),
        "compressed context": lambda model: compress(model, prompts[0], kept="label").ask(
            model, prompts, progress=None
        ),
        "ablation sweep": lambda model: lesion_sweep(model, there, [Drop(0)], top_k=0),
        "ten re-weighting steps": lambda model: fit_reweighting(model, prompts[:1], epochs=10),
    }
    for name, call in calls.items():
        few, many = (waits(call, model, asked.device) for model in (shallow, deep))
        per_layer = (many - few) / SHAPE.layers
        row = {"call": name, "waits": few, "more for each layer": per_layer}
        yield row | ({"ok": per_layer <= 0.25} if asked.device.startswith("cuda") else {})


def waits(call: Callable[[Any], object], model: Any, device: str) -> int:
    """Waiting calls in a profile of the second run."""
    call(model)
    cuda = device.startswith("cuda")
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as found:
        call(model)
        if cuda:
            torch.cuda.synchronize()  # one wait of our own
    names = WAITS if cuda else ON_A_CPU
    return sum(event.count for event in found.key_averages() if event.key in names)
