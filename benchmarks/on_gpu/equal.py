"""Numbers on this device against the host's: float32 within its rounding, bfloat16 no worse than the host's own.

Of a 4-layer cut of GPT-2-XL with random weights, and of tiny-icl on its own task. TF32 is off, as in PyTorch's
defaults; a row says what it would change.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from setting import tiny_icl
from torch import Tensor

from mechicl import LogitLens, SaliencyFlow, compress, fit_reweighting, lesion_sweep, load_model, run, run_shared
from mechicl.mlp_neurons import vocabulary_moments
from mechicl.models.provenance import weight_digest
from mechicl.patches import Drop, IsolateLabels
from mechicl.prompts import PromptSet
from on_gpu.setting import SHAPES, corpus_of, deviation, prompts_for, random_model, taken, texts_for

BOUND = 2e-4
"""Of the largest number, in float32: sums of a few thousand terms in another order."""
LENS = ("entropy", "kl", "kl_reverse", "js_divergence", "loss")
"""Those that no tie decides."""
Quantity = Callable[[Any, PromptSet, Tensor], Tensor]


def _lens(model: Any, prompts: PromptSet, texts: Tensor) -> Tensor:
    probe = LogitLens(only=LENS)
    return run(model, corpus_of(texts), [probe], progress=None)[probe]


def _saliency(model: Any, prompts: PromptSet, texts: Tensor) -> Tensor:
    probe = SaliencyFlow()
    return run(model, prompts, [probe], progress=None)[probe]


def _isolated(model: Any, prompts: PromptSet, texts: Tensor) -> Tensor:
    return run_shared(model, prompts, patches=[IsolateLabels(range(2))], progress=None).label_logits


def _compressed(model: Any, prompts: PromptSet, texts: Tensor) -> Tensor:
    return compress(model, prompts[0], kept="label").ask(model, prompts, progress=None).label_logits


def _ablated(model: Any, prompts: PromptSet, texts: Tensor) -> Tensor:
    found = lesion_sweep(model, texts.to(model.cfg.device), [Drop(i) for i in range(model.cfg.n_layers)])
    return torch.stack([found.kl, found.entropy, found.loss])


def _moments(model: Any, prompts: PromptSet, texts: Tensor) -> Tensor:
    moments = vocabulary_moments(model.W_U, [model.blocks[0].mlp.W_out], top=1)
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
    for name, model, prompts in (
        ("cut of GPT-2-XL", cut, prompts_for(asked)[:4]),
        ("tiny-icl", tiny, tiny_icl(tiny, 4)),
    ):
        texts = texts_for(asked, model)[:2, :64]
        there = copied(model, asked.device)
        same = weight_digest(there) == weight_digest(model)
        yield {"model": name, "quantity": "weight digest", "ok": same}
        pairs = {"host": copied(model, "cpu", torch.bfloat16), "device": copied(model, asked.device, torch.bfloat16)}
        for quantity, of in QUANTITIES.items():
            expected = of(model, prompts, texts)
            apart = deviation(of(there, prompts, texts), expected)
            yield {
                "model": name, "quantity": quantity, "dtype": "float32", "deviation": apart, "bound": BOUND,
                "ok": apart <= BOUND,
            }  # fmt: skip
            half = {where: deviation(of(one, prompts, texts), expected) for where, one in pairs.items()}
            bound = 2 * half["host"] + 1e-3
            yield {
                "model": name, "quantity": quantity, "dtype": "bfloat16", "deviation": half["device"], "bound": bound,
                "ok": half["device"] <= bound,
            }  # fmt: skip
    if asked.device.startswith("cuda"):
        yield from tf32(cut, asked)


def copied(model: Any, device: str, dtype: torch.dtype | None = None) -> Any:
    """The model on a device, in a dtype."""
    there = copy.deepcopy(model).to(device, print_details=False)
    return there if dtype is None else there.to(dtype, print_details=False)


def tf32(model: Any, asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """How far TF32 moves each quantity, and how much faster a forward pass is."""
    there, prompts, texts = copied(model, asked.device), prompts_for(asked)[:4], texts_for(asked, model)[:2, :64]
    for quantity, of in QUANTITIES.items():
        exact = taken(lambda of=of: of(there, prompts, texts), asked, enough=1)
        torch.backends.cuda.matmul.allow_tf32 = True
        rough = taken(lambda of=of: of(there, prompts, texts), asked, enough=1)
        torch.backends.cuda.matmul.allow_tf32 = False
        yield {
            "model": "cut of GPT-2-XL", "quantity": quantity, "dtype": "TF32",
            "deviation": deviation(rough.result, exact.result), "times as fast": exact.seconds / rough.seconds,
        }  # fmt: skip
