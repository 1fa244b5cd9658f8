"""Tiny random models of every family, as Hugging Face and hooked pairs, for everybody's tests.

Built from configuration in a few milliseconds each and kept for the process. All biases are non-zero and
attention is far from uniform, so that a dropped bias, a wrong scale or a wrong position shows. `tokenizer()`
knows the words of the tasks.

    tiny.families                    names
    tiny.model("llama")              HookedTransformer (shared: leave its weights alone, or use tiny.fresh)
    tiny.model("llama/bridge")       TransformerBridge, which tiny.model("llama") is with TransformerLens 4
    tiny.cases                       names of all that every test of an architecture runs on
    tiny.pair("llama")               (Hugging Face model, HookedTransformer)
"""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable
from typing import Any

import torch

from mechicl.library import has_hooked_transformer

D_MODEL, N_LAYERS, N_HEADS, D_VOCAB, N_CTX = 32, 3, 4, 320, 512
WINDOW = 4
"""How far the local layers of `neo` and `gemma2` see."""

_WORDS = (
    "Review Sentiment Positive Negative Question Answer Type Abbreviation Entity Description Person Location "
    "Number Article World Sports Business Technology Dialogue Emotion Others Happy Sad Angry good bad film"
)


def _gpt2(**more: Any) -> Any:
    from transformers import GPT2Config

    sizes = {"n_embd": D_MODEL, "n_layer": N_LAYERS, "n_head": N_HEADS, "n_positions": N_CTX, "vocab_size": D_VOCAB}
    return GPT2Config(**sizes, **more)


def _gptj() -> Any:
    from transformers import GPTJConfig

    return GPTJConfig(
        n_embd=D_MODEL,
        n_layer=N_LAYERS,
        n_head=N_HEADS,
        n_positions=N_CTX,
        vocab_size=D_VOCAB,
        rotary_dim=4,
        tie_word_embeddings=False,
    )


def _neo() -> Any:
    from transformers import GPTNeoConfig

    return GPTNeoConfig(
        hidden_size=D_MODEL,
        num_layers=4,
        num_heads=N_HEADS,
        max_position_embeddings=N_CTX,
        vocab_size=D_VOCAB,
        window_size=WINDOW,
        attention_types=[[["global", "local"], 2]],
    )


_SIZES = {
    "hidden_size": D_MODEL,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": N_HEADS,
    "intermediate_size": 48,
    "max_position_embeddings": N_CTX,
    "vocab_size": D_VOCAB,
}


def _config(name: str, **more: Any) -> Callable[[], Any]:
    def build() -> Any:
        import transformers

        return getattr(transformers, name)(**{**_SIZES, **more})

    return build


_CONFIGS: dict[str, Callable[[], Any]] = {
    "gpt2": _gpt2,
    "gptj": _gptj,
    "neox": _config("GPTNeoXConfig", rotary_pct=0.5, intermediate_size=64, tie_word_embeddings=False),
    "neo": _neo,
    "llama": _config("LlamaConfig", num_key_value_heads=2, tie_word_embeddings=False),
    "qwen2": _config("Qwen2Config", num_key_value_heads=2),
    "qwen3": _config("Qwen3Config", num_key_value_heads=2, head_dim=8),
    "phi": _config("PhiConfig", partial_rotary_factor=0.5, tie_word_embeddings=False),
    "opt": _config("OPTConfig", ffn_dim=48, word_embed_proj_dim=D_MODEL),
    "gemma2": _config(
        "Gemma2Config",
        num_key_value_heads=2,
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=WINDOW,
        attn_logit_softcapping=5.0,
        final_logit_softcapping=8.0,
    ),
}
_VARIANTS: dict[str, Callable[[], Any]] = {
    "gpt2-inverse": lambda: _gpt2(scale_attn_by_inverse_layer_idx=True),
    "bloom": lambda: __import__("transformers").BloomConfig(
        hidden_size=D_MODEL, n_layer=N_LAYERS, n_head=N_HEADS, vocab_size=D_VOCAB
    ),
}

_IDS = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
_LOCAL = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
_NEW: dict[str, Callable[[], Any]] = {
    "gemma3": _config("Gemma3TextConfig", num_key_value_heads=2, head_dim=8, **_LOCAL, **_IDS),
    "olmo2": _config("Olmo2Config", **_IDS),
    "smollm3": _config("SmolLM3Config", num_key_value_heads=2, no_rope_layer_interval=2, **_IDS),
    "qwen3moe": _config("Qwen3MoeConfig", num_key_value_heads=2, head_dim=8, num_experts=4, num_experts_per_tok=2,
                        moe_intermediate_size=16, **_IDS),
    "gptoss": _config("GptOssConfig", num_key_value_heads=2, head_dim=8, num_local_experts=4, **_LOCAL, **_IDS),
}  # fmt: skip
"""Architectures that HookedTransformers do not run block by block, or not at all."""

families: tuple[str, ...] = tuple(_CONFIGS)
"""Every family that runs block by block."""
new: tuple[str, ...] = tuple(_NEW)
"""Families of which there are Bridges alone."""
FIVE = ("gpt2", "gptj", "neox", "llama", "gemma2")
"""Joint and separate projections, attention that Hugging Face computes, parallel blocks, grouped keys, soft caps."""
HOOKED = has_hooked_transformer()
"""Whether there are HookedTransformers besides Bridges."""


def _cases() -> tuple[str, ...]:
    """Both classes where there are both; Bridges of five families alone unless MECHICL_MATRIX asks for all."""
    bridged = families if os.environ.get("MECHICL_MATRIX") else FIVE
    return (*(families if HOOKED else ()), *(f"{family}/bridge" for family in bridged))


cases = _cases()


@functools.cache
def huggingface(family: str) -> Any:
    """The Hugging Face model of a family, in evaluation mode, with random weights of a fixed seed."""
    from transformers import AutoModelForCausalLM

    config = {**_CONFIGS, **_VARIANTS, **_NEW}[family.removesuffix("/bridge")]()
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            # Gains near 1 (Gemma stores them less 1), weights that give scores a spread of about 2.
            gain = parameter.ndim == 1 and name.endswith("weight")
            scale = 0.2 if gain else 0.3 if parameter.ndim == 1 else 0.5 if "emb" in name or "wte" in name else 0.25
            parameter.copy_(noise * scale + (float(parameter.mean()) if gain else 0.0))
    return model.requires_grad_(False)


def initialised(family: str, seed: int) -> Any:
    """A Hugging Face model of a family as its own initialisation leaves it: untrained."""
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(_CONFIGS[family](), attn_implementation="eager")
    return model.eval().requires_grad_(False)


@functools.cache
def model(family: str) -> Any:
    """The HookedTransformer of a family (weights as they are, float32); one object per process."""
    return _hook(family, "none")


def fresh(family: str, processing: str = "none") -> Any:
    """A HookedTransformer of one's own, to edit, fold, hook or train."""
    return copy.deepcopy(model(family)) if processing == "none" else _hook(family, processing)


def pair(family: str) -> tuple[Any, Any]:
    """A family's Hugging Face model and its HookedTransformer."""
    return huggingface(family), model(family)


def is_bridge(family: str) -> bool:
    """Whether the model of this name is a TransformerBridge."""
    return family.endswith("/bridge") or not HOOKED


def _hook(family: str, processing: str) -> Any:
    from mechicl.models.convert import convert
    from mechicl.models.processing import Processing
    from mechicl.models.tokenizers import give_tokenizer

    original, backend = huggingface(family), "hooked"
    if is_bridge(family):  # which keeps the original's modules
        original, backend = copy.deepcopy(original).requires_grad_(True), "bridge"
    name = f"tiny-{family.removesuffix('/bridge')}"
    hooked = convert(original, Processing.named(processing), name=name, backend=backend)
    give_tokenizer(hooked, tokenizer())
    return hooked


@functools.cache
def tokenizer() -> Any:
    """A byte-level tokenizer in which the tasks' label words, with their leading space, are single tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    # Each word is an added piece rather than the product of merges, so that the vocabulary stays within
    # D_VOCAB.
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator([], trainers.BpeTrainer(initial_alphabet=alphabet, special_tokens=["<|endoftext|>"]))
    core.add_tokens([f" {word}" for word in _WORDS.split()])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        model_max_length=N_CTX,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )


def tokens(batch: int = 2, length: int = 20, seed: int = 0) -> torch.Tensor:
    """Random token ids [batch, length]."""
    return torch.randint(0, D_VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))
