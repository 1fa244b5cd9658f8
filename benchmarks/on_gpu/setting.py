"""What is measured on: random models of GPT-2-XL's shape and of a 7-B Llama's, their inputs, and a clock."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from measuring import VOCABULARY, Memory
from setting import random_prompts
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig

from mechicl.corpora import TokenCorpus
from mechicl.prompts import PromptSet


@dataclass(frozen=True)
class Shape:
    """Sizes of a random model."""

    family: str
    layers: int
    width: int
    heads: int
    key_value_heads: int
    mlp: int
    vocabulary: int = VOCABULARY


_FEW = 512
"""Tokens of a rehearsal's vocabulary."""
SHAPES = {
    "full": {
        "cut": Shape("gpt2", 4, 1600, 25, 25, 6400),
        "xl": Shape("gpt2", 48, 1600, 25, 25, 6400),
        "7b": Shape("llama", 32, 4096, 32, 8, 14336),
    },
    "tiny": {
        "cut": Shape("gpt2", 2, 128, 2, 2, 512, _FEW),
        "xl": Shape("gpt2", 4, 128, 2, 2, 512, _FEW),
        "7b": Shape("llama", 3, 128, 4, 2, 256, _FEW),
    },
}
PROMPTS = {"full": 16, "tiny": 3}
TEXTS = {"full": (4, 256), "tiny": (1, 32)}
CONTEXT = 1024


def random_model(shape: Shape, device: str, dtype: str) -> HookedTransformer:
    """A model of this shape, its random weights made on the device."""
    llama = shape.family == "llama"
    own: dict[str, Any] = (
        {
            "act_fn": "silu", "gated_mlp": True, "normalization_type": "RMS", "positional_embedding_type": "rotary",
            "rotary_dim": shape.width // shape.heads, "n_key_value_heads": shape.key_value_heads, "final_rms": True,
        }
        if llama
        else {"act_fn": "gelu_new", "normalization_type": "LN"}
    )  # fmt: skip
    cfg = HookedTransformerConfig(
        n_layers=shape.layers, d_model=shape.width, d_head=shape.width // shape.heads, n_heads=shape.heads,
        d_mlp=shape.mlp, n_ctx=CONTEXT, d_vocab=shape.vocabulary, seed=0, device=device, dtype=getattr(torch, dtype),
        model_name=f"random-{shape.family}", **own,
    )  # fmt: skip
    with torch.device(device):
        return HookedTransformer(cfg).eval().requires_grad_(False)


def plain_model(shape: Shape, device: str, dtype: str) -> Any:
    """Hugging Face's model of this shape, with eager attention, which alone gives attention patterns."""
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

    config = (
        LlamaConfig(
            hidden_size=shape.width, intermediate_size=shape.mlp, num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads, num_key_value_heads=shape.key_value_heads, vocab_size=shape.vocabulary,
            max_position_embeddings=CONTEXT,
        )
        if shape.family == "llama"
        else GPT2Config(
            n_embd=shape.width, n_layer=shape.layers, n_head=shape.heads, vocab_size=shape.vocabulary,
            n_positions=CONTEXT,
        )
    )  # fmt: skip
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype), attn_implementation="eager")
    return model.eval().requires_grad_(False)


def prompts_for(asked: argparse.Namespace) -> PromptSet:
    """Prompts of 148 tokens: six demonstrations, and a query of 16 tokens."""
    return random_prompts(PROMPTS[asked.size], SHAPES[asked.size]["xl"].vocabulary)


def texts_for(asked: argparse.Namespace, model: Any) -> Tensor:
    """Random token ids [text pos] of the model's vocabulary, on the host."""
    return torch.randint(0, model.cfg.d_vocab, TEXTS[asked.size], generator=torch.Generator().manual_seed(0))


def corpus_of(texts: Tensor) -> TokenCorpus:
    """Texts as a corpus of which every text is a document."""
    documents = torch.arange(len(texts))[:, None].expand(texts.shape)
    lengths = torch.full((len(texts),), texts.shape[1])
    return TokenCorpus(texts, lengths, documents, torch.full_like(documents, -1), None, True)


@dataclass(frozen=True)
class Taken:
    """What a call took."""

    result: Any
    seconds: float
    """Median of the repeats; of the first call, kernels' loading included, where there was no time for another."""
    gib: float
    """The most memory held, beyond what was held before."""
    repeats: int


def taken(call: Callable[[], Any], asked: argparse.Namespace, *, enough: float = 4.0, repeats: int = 3) -> Taken:
    """Call once to warm up, then up to `repeats` times, as long as the calls so far took less than `enough` seconds.

    A rehearsal calls once.
    """
    device = asked.device
    repeats = 0 if asked.size == "tiny" else repeats
    with Memory(device) as memory:
        result, first = _timed(call, device)
    seconds: list[float] = []
    while len(seconds) < repeats and first + sum(seconds) < enough:
        result, again = _timed(call, device)
        seconds.append(again)
    return Taken(result, median(seconds or [first]), memory.most - memory.before, len(seconds))


def _timed(call: Callable[[], Any], device: str) -> tuple[Any, float]:
    wait(device)
    start = time.perf_counter()
    result = call()
    wait(device)
    return result, time.perf_counter() - start


def wait(device: str) -> None:
    """Until a GPU has done what it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def deviation(found: Tensor, expected: Tensor) -> float:
    """The largest difference over the largest number; NaN where one is not finite."""
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    known = ~expected.isnan()  # such as the loss of a last token
    apart = (found - expected)[known].abs().max()
    return float(apart / expected[known].abs().max().clamp_min(1e-30))
