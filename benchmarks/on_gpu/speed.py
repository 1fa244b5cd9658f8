"""The papers' way, plain Hugging Face and ours: seconds, memory and ratio, on the same inputs.

In float32 the two ways' results are compared. The papers' loops over layers are measured on a few layers and scaled to
all.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import islice
from typing import Any

import label_words
import paper_way
import torch
from atlas import _lens as authors_lens
from lesions import Authors
from measuring import Clock
from neurons import _layer_moments as authors_moments
from torch import Tensor

from mechicl import run
from mechicl.engines import lesion_sweep
from mechicl.mlp_neurons import vocabulary_moments
from mechicl.models import provenance
from mechicl.patches import Drop, Swap
from mechicl.probes import LogitLens
from mechicl.prompts import PromptSet
from on_gpu.setting import (
    SHAPES,
    Shape,
    Taken,
    corpus_of,
    deviation,
    plain_model,
    prompts_for,
    random_model,
    taken,
    texts_for,
)

EXPERIMENTS = ("forward", "flow", "deep", "isolation", "compression", "step")
"""Of `label_words.py`."""
LAYERS = 6
"""On how many layers the papers' loops over layers are measured."""


def xl(asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """GPT-2-XL in float32: all three ways."""
    yield from _all(asked, SHAPES[asked.size]["xl"], "float32")


def xl_half(asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """GPT-2-XL in bfloat16: ours alone, for the extrapolation."""
    yield from _all(asked, SHAPES[asked.size]["xl"], "bfloat16", others=False)


def seven(asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A Llama of 7 B parameters in bfloat16: all three ways."""
    yield from _all(asked, SHAPES[asked.size]["7b"], "bfloat16")


def _all(asked: argparse.Namespace, shape: Shape, dtype: str, others: bool = True) -> Iterator[dict[str, Any]]:
    building = taken(lambda: random_model(shape, asked.device, dtype), asked, repeats=0)
    model = building.result
    yield {"name": "building the model", "ours, s": building.seconds, "ours, GiB": building.gib}
    digested = taken(lambda: provenance(model), asked, repeats=0)  # once, so that no experiment below pays for it
    yield {"name": "digesting its weights", "ours, s": digested.seconds, "ours, GiB": digested.gib}
    prompts, texts = prompts_for(asked), texts_for(asked, model)
    for name in EXPERIMENTS:
        for one in label_words.EXPERIMENTS[name](model, prompts):
            yield _compared(asked, one, model, name, prompts, dtype, others)
    if others:
        yield from _plain(asked, shape, dtype, prompts)
    yield _row("ablations", "tokens", texts.numel(), *_ablations(asked, model, texts, others))
    yield _row("lens", "tokens", texts.numel(), *_lens(asked, model, texts, others))
    yield _row("neurons", "layers", min(LAYERS, shape.layers), *_neurons(asked, model, others))


def _row(name: str, unit: str, n: float, ours: Taken, paper: Taken | None) -> dict[str, Any]:
    row = {
        "name": name, "unit": unit, "n": n, "ours, s": ours.seconds, "ours, GiB": ours.gib, "repeats": ours.repeats,
    }  # fmt: skip
    if paper is None:
        return row
    return row | {"paper, s": paper.seconds, "paper, GiB": paper.gib, "ratio": paper.seconds / ours.seconds}


def _compared(
    asked: argparse.Namespace, one: label_words.Comparison, model: Any, name: str, prompts: PromptSet, dtype: str,
    others: bool,
) -> dict[str, Any]:  # fmt: skip
    ours = taken(one.ours, asked)
    paper = None
    if others:
        model.requires_grad_(True)  # as in the authors' code, which takes gradients of the weights as well
        paper = _scaled(taken(one.paper, asked, repeats=1), one.ours_counts / one.paper_counts)
        model.requires_grad_(False)
    per = {"step": ("steps", one.ours_counts), "forward": ("prompts", 1)}.get(name, ("prompts", len(prompts)))
    row = _row(one.name, *per, ours, paper)
    if paper is not None and dtype == "float32":
        row["deviation"] = deviation(ours.result, paper.result)
        row["ok"] = row["deviation"] <= max(one.tolerance, 2e-4)
    return row


def _plain(asked: argparse.Namespace, shape: Shape, dtype: str, prompts: PromptSet) -> Iterator[dict[str, Any]]:
    """Hugging Face's forward pass and saliency by autograd, a prompt at a time; weights are its own."""
    model = plain_model(shape, asked.device, dtype)
    for name, call, n in (
        ("Hugging Face, one prompt, forward", lambda: _logits(model, prompts[:1]), 1),
        ("Hugging Face, information flow", lambda: _flow(model, prompts), len(prompts)),
    ):
        found = taken(call, asked, repeats=1)
        yield {"name": name, "unit": "prompts", "n": n, "Hugging Face, s": found.seconds, "GiB": found.gib}


@torch.no_grad()
def _logits(model: Any, prompts: PromptSet) -> Tensor:
    tokens = torch.tensor([prompt.tokens for prompt in prompts], device=model.device)
    return model(tokens).logits[:, -1]  # type: ignore[no-any-return]


def _flow(model: Any, prompts: PromptSet) -> Tensor:
    found = []
    for prompt in prompts:
        embedded = model.get_input_embeddings()(torch.tensor([prompt.tokens], device=model.device)).detach()
        out = model(inputs_embeds=embedded.requires_grad_(), output_attentions=True, use_cache=False)
        for pattern in out.attentions:
            pattern.retain_grad()
        loss = torch.nn.functional.cross_entropy(
            out.logits[:, -1, list(prompt.label_ids)].float(), torch.tensor([prompt.gold], device=model.device)
        )
        loss.backward()
        edges = [(A.float() * A.grad.float()).sum(1)[0].abs().detach() for A in out.attentions]
        found.append(torch.stack([paper_way._shares(edge, prompt) for edge in edges]))
    return torch.stack(found)


def _scaled(one: Taken, factor: float) -> Taken:
    return Taken(one.result, one.seconds * factor, one.gib, one.repeats)


def _ablations(asked: argparse.Namespace, model: Any, texts: Tensor, others: bool) -> tuple[Taken, Taken | None]:
    """All drops and swaps; the authors' passes for a few drops, counted for all drops and swaps."""
    n, there = model.cfg.n_layers, texts.to(asked.device)
    lesions = [*(Drop(i) for i in range(n)), *(Swap(i) for i in range(n - 1))]
    ours = taken(lambda: lesion_sweep(model, there, lesions, top_k=0), asked, enough=10, repeats=1)
    if not others:
        return ours, None
    authors = Authors(model, Clock(asked.device))
    measured = min(LAYERS, n)
    paper = taken(lambda: list(islice(authors.drop(there), measured)), asked, repeats=0)
    return ours, _scaled(paper, (2 * n - 1) / measured)


def _lens(asked: argparse.Namespace, model: Any, texts: Tensor, others: bool) -> tuple[Taken, Taken | None]:
    probe = LogitLens(only=("entropy", "kl"))
    ours = taken(lambda: run(model, corpus_of(texts), [probe], progress=None), asked)
    if not others:
        return ours, None
    there = texts.to(asked.device)
    return ours, taken(lambda: [authors_lens(model, text) for text in there[:, None]], asked, repeats=1)


def _neurons(asked: argparse.Namespace, model: Any, others: bool) -> tuple[Taken, Taken | None]:
    layers = range(min(LAYERS, model.cfg.n_layers))
    weights = [model.blocks[i].mlp.W_out for i in layers]
    ours = taken(lambda: vocabulary_moments(model.W_U, weights, top=1), asked)
    if not others:
        return ours, None
    return ours, _scaled(taken(lambda: authors_moments(model, 0), asked, repeats=1), len(layers))
