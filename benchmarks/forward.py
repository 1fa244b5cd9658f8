"""The plain forward pass: a hooked model, Hugging Face's and our blocks, as shares of the machine's matrix product.

    python benchmarks/forward.py [--tokens 1024 --length 256] [--device cuda --dtype bfloat16]

The three hold the same weights, and their logits are equal. A pass goes from token ids to the logits of every
position. Operations of products are counted (none for norms, activations, softmax), those of attention over half of
the text, as it is causal.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from measuring import (
    VOCABULARY,
    Clock,
    Rate,
    arguments,
    block_operations,
    machine,
    random_model,
    random_texts,
    row,
    unembedding_operations,
)
from torch import Tensor
from transformer_lens.pretrained.weight_conversions.gpt2 import convert_gpt2_weights
from transformers import GPT2Config, GPT2LMHeadModel

from mechicl.models import hooked


@torch.no_grad()
def main() -> None:
    asked = arguments(__doc__, tokens=1024, length=256).parse_args()
    model, texts, clock = random_model(asked), random_texts(asked), Clock(asked.device)
    cfg, net, rate = model.cfg, hooked(model), Rate(model, clock)
    sizes = GPT2Config(
        n_embd=cfg.d_model, n_layer=cfg.n_layers, n_head=cfg.n_heads, vocab_size=VOCABULARY, n_positions=cfg.n_ctx
    )
    original = GPT2LMHeadModel(sizes).eval().to(asked.device, cfg.dtype)
    model.load_state_dict(convert_gpt2_weights(original, cfg), strict=False)

    def blocks() -> Tensor:
        resid = net.embed(texts)
        for layer in range(cfg.n_layers):
            resid, _ = net.block(layer, resid)
        return resid

    ways: dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]] = {
        "HookedTransformer": (lambda: model(texts, stop_at_layer=cfg.n_layers), lambda: model(texts)),
        "Hugging Face": (lambda: original.transformer(texts)[0], lambda: original(texts).logits),
        "our blocks": (blocks, lambda: net.lens(blocks())),
    }
    for _ in range(asked.repeats):
        rate.measure()
        for name, (without, whole) in ways.items():
            clock.time(f"{name}, blocks", without)
            logits = clock.time(name, whole)
            if name == "HookedTransformer":
                expected = logits
            elif asked.dtype == "float32":
                torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    print(machine(model, rate))
    print(f"{texts.numel()} tokens in texts of {texts.shape[1]}")
    row("forward pass", "blocks, s", "their share", "with logits, s", "share")
    row("---", "---", "---", "---", "---")
    inside = texts.numel() * cfg.n_layers * block_operations(model, texts.shape[1])
    outside = texts.numel() * unembedding_operations(model)
    for name in ways:
        alone = f"{name}, blocks"
        row(name, f"{clock.median(alone):.2f}", f"{rate.share(inside, alone):.0%}", f"{clock.median(name):.2f}",
            f"{rate.share(inside + outside, name):.0%}")  # fmt: skip


if __name__ == "__main__":
    main()
