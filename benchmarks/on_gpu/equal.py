"""Numbers on this device against the host's in float32: the same within rounding, and bfloat16 as near as it can be.

Of a 4-layer cut of GPT-2-XL with random weights, and of tiny-icl on its own task. TF32 is off, as in PyTorch's
defaults; a row says what it would change. On tiny-icl bfloat16 may be twice as far off as the host's own bfloat16.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from setting import tiny_icl
from torch import Tensor

from mechicl import load_model, run
from mechicl.engines import compress, fit_reweighting, lesion_sweep, run_shared
from mechicl.mlp_neurons import vocabulary_moments
from mechicl.models.provenance import weight_digest
from mechicl.patches import Drop, IsolateLabels
from mechicl.probes import LogitLens, SaliencyFlow
from mechicl.prompts import PromptSet
from mechicl.readings import Reading
from on_gpu.setting import SHAPES, corpus_of, deviation, prompts_for, random_model, taken, texts_for

BOUND = 2e-4
"""Of the largest number, in float32: sums of a few thousand terms in another order."""
HALF = 0.05
"""In bfloat16 on the cut, whose own passes take the host minutes; a rehearsal's smaller one is off by 0.01."""
LENS = ("entropy", "kl", "kl_reverse", "js_divergence", "loss")
"""Those that no tie decides."""
Quantity = Callable[[Any, PromptSet, Tensor], Tensor]


def _numbers(reading: Reading) -> Tensor:
    return torch.stack(list(reading.quantities.values()), -1)


def _lens(model: Any, prompts: PromptSet, texts: Tensor) -> Tensor:
    probe = LogitLens(only=LENS)
    return _numbers(run(model, corpus_of(texts), [probe], progress=None)[probe])


def _saliency(model: Any, prompts: PromptSet, texts: Tensor) -> Tensor:
    probe = SaliencyFlow()
    return _numbers(run(model, prompts, [probe], progress=None)[probe])


def _isolated(model: Any, prompts: PromptSet, texts: Tensor) -> Tensor:
    return run_shared(model, prompts, patches=[IsolateLabels(range(2))], progress=None).label_logits


def _compressed(model: Any, prompts: PromptSet, texts: Tensor) -> Tensor:
    return compress(model, prompts[0], kept="label").ask(model, prompts, progress=None).label_logits


def _ablated(model: Any, prompts: PromptSet, texts: Tensor) -> Tensor:
    found = lesion_sweep(model, texts.to(model.cfg.device), [Drop(i) for i in range(model.cfg.n_layers)])
    return torch.stack([found.kl, found.entropy, found.loss])


def _moments(model: Any, prompts: PromptSet, texts: Tensor) -> Tensor:
    moments = vocabulary_moments(model.W_U, [model.blocks[0].mlp.W_out[:256]], top=1)
    return torch.stack([moments.kurtosis, moments.skewness])


QUANTITIES: dict[str, Quantity] = {
    "forward": lambda model, prompts, texts: run(model, prompts, progress=None).label_logits,
    "saliency": _saliency,
    "isolation": _isolated,
    "compressed context": _compressed,
    "ablation sweep": _ablated,
    "lens": _lens,
    "re-weighting, losses": lambda model, prompts, texts: fit_reweighting(model, prompts[:2], epochs=3).losses,
    "neuron moments": _moments,
}


def rows(asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row for each model, dtype and quantity."""
    cut = random_model(SHAPES[asked.size]["cut"], "cpu", "float32")
    tiny = load_model("tiny-icl")
    own = tiny_icl(tiny, 4)
    for name, model, prompts in (("tiny-icl", tiny, own), ("cut of GPT-2-XL", cut, prompts_for(asked)[:2])):
        texts = texts_for(asked, model)[:2, :32]
        there = copied(model, asked.device)
        yield {"model": name, "quantity": "weight digest", "ok": weight_digest(there) == weight_digest(model)}
        expected = {}
        for quantity, of in QUANTITIES.items():
            start = time.perf_counter()
            expected[quantity] = of(model, prompts, texts)
            seconds = time.perf_counter() - start
            row = _judged(of(there, prompts, texts), expected[quantity], BOUND)
            yield {"model": name, "quantity": quantity, "dtype": "float32", **row, "host, s": seconds}
        half = copied(model, asked.device, torch.bfloat16)
        host = copied(model, "cpu", torch.bfloat16) if model is tiny else None
        for quantity, of in QUANTITIES.items():
            bound = HALF
            if host is not None:
                bound = 2 * deviation(of(host, prompts, texts), expected[quantity]) + 1e-3
            row = _judged(of(half, prompts, texts), expected[quantity], bound)
            yield {"model": name, "quantity": quantity, "dtype": "bfloat16", **row}
    if asked.device.startswith("cuda"):
        yield from tf32(cut, asked)


def _judged(found: Tensor, expected: Tensor, bound: float) -> dict[str, Any]:
    apart = deviation(found, expected)
    return {"deviation": apart, "bound": bound, "ok": apart <= bound}


def copied(model: Any, device: str, dtype: torch.dtype | None = None) -> Any:
    """The model on a device, in a dtype."""
    there = copy.deepcopy(model).to(device, print_details=False)
    return there if dtype is None else there.to(dtype, print_details=False)


def tf32(model: Any, asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """How far TF32 moves each quantity, and how much faster a forward pass is."""
    there, prompts, texts = copied(model, asked.device), prompts_for(asked)[:2], texts_for(asked, model)[:2, :32]
    for quantity, of in QUANTITIES.items():
        exact = taken(lambda of=of: of(there, prompts, texts), asked, enough=1)
        torch.backends.cuda.matmul.allow_tf32 = True
        rough = taken(lambda of=of: of(there, prompts, texts), asked, enough=1)
        torch.backends.cuda.matmul.allow_tf32 = False
        yield {
            "model": "cut of GPT-2-XL", "quantity": quantity, "dtype": "TF32",
            "deviation": deviation(rough.result, exact.result), "times as fast": exact.seconds / rough.seconds,
        }  # fmt: skip
