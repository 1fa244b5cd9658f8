"""Layer drops: the authors' way (two whole passes per layer and text) beside one wavefront, with equal results.

    python benchmarks/lesions.py --tokens 512 --length 256

A random model of GPT-2 small's size on the CPU (or, with --device cuda, on a GPU).
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable

import torch
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig

from mechicl.engines.wavefront import lesion_sweep
from mechicl.patches import Drop


def random_gpt2(device: str, layers: int) -> HookedTransformer:
    """GPT-2 small's sizes, random weights."""
    cfg = HookedTransformerConfig(
        n_layers=layers, d_model=768, d_head=64, n_heads=12, d_mlp=3072, n_ctx=1024, d_vocab=50257,
        act_fn="gelu_new", normalization_type="LN", seed=0, device=device,
    )  # fmt: skip
    return HookedTransformer(cfg).eval()


def authors_way(model: HookedTransformer, texts: Tensor) -> dict[str, Tensor]:
    """Their loop: for each layer and text the intact pass, the pass with zeroed outputs, and measures of all logits."""
    n_layers = model.cfg.n_layers
    rows: dict[str, list[Tensor]] = {"kl": [], "agreement": [], "entropy": [], "loss": []}
    for layer in range(n_layers):
        zeroed = [(f"blocks.{layer}.hook_{part}_out", _zero) for part in ("attn", "mlp")]
        for text in texts[:, None]:
            normal = model(text)[0]
            changed = model.run_with_hooks(text, fwd_hooks=zeroed)[0]
            log_p, log_q = normal.log_softmax(-1), changed.log_softmax(-1)
            rows["kl"].append((log_p.exp() * (log_p - log_q)).sum(-1))
            rows["agreement"].append((normal.argmax(-1) == changed.argmax(-1)).float())
            entropies, losses = zip(*(_entropy_and_loss(logits, text[0]) for logits in (normal, changed)), strict=True)
            rows["entropy"].append(entropies[1])
            rows["loss"].append(losses[1])
    return {name: torch.stack(parts).view(n_layers, len(texts), -1).cpu() for name, parts in rows.items()}


def _entropy_and_loss(logits: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    probs = logits.softmax(-1).clamp(min=1e-9)
    loss = torch.nn.functional.cross_entropy(logits[:-1], text[1:], reduction="none")
    return -(probs * probs.log2()).sum(-1), loss


def _zero(value: Tensor, hook: object) -> Tensor:
    return torch.zeros_like(value)


def timed(function: Callable[[], object], device: str) -> tuple[object, float]:
    start = time.perf_counter()
    result = function()
    if device == "cuda":
        torch.cuda.synchronize()
    return result, time.perf_counter() - start


def matmul_rate(device: str) -> float:
    """Floating point operations a second of the machine's own matrix product, of an MLP's shape."""
    a, b = torch.randn(4096, 768, device=device), torch.randn(768, 3072, device=device)
    timed(lambda: a @ b, device)
    _, seconds = timed(lambda: [a @ b for _ in range(10)], device)
    return 10 * 2 * a.shape[0] * b.numel() / seconds


def wavefront_flops(model: HookedTransformer, n_tokens: int, length: int) -> float:
    """Products of weights and of attention in one sweep of all drops, unembedding included."""
    cfg = model.cfg
    block = 2 * (4 * cfg.d_model**2 + 2 * cfg.d_model * cfg.d_mlp) + 4 * length * cfg.d_model
    passes = cfg.n_layers * (cfg.n_layers + 1) / 2  # block j runs for the intact pass and the j drops before it
    return n_tokens * (passes * block + (cfg.n_layers + 1) * 2 * cfg.d_model * cfg.d_vocab)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    model = random_gpt2(asked.device, asked.layers).requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    shape = (max(1, asked.tokens // asked.length), asked.length)
    texts = torch.randint(0, 50257, shape, generator=generator).to(asked.device)
    lesions = [Drop(layer) for layer in range(asked.layers)]
    lesion_sweep(model, texts[:, :16], lesions)  # warm up
    ours, fast = timed(lambda: lesion_sweep(model, texts, lesions, top_k=0), asked.device)
    theirs, slow = timed(lambda: authors_way(model, texts), asked.device)
    torch.testing.assert_close(ours.kl, theirs["kl"], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(ours.loss[..., :-1], theirs["loss"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.entropy, theirs["entropy"], atol=2e-3, rtol=1e-3)
    assert (ours.agreement - theirs["agreement"]).abs().mean() < 2e-3  # near ties may fall either way
    share = wavefront_flops(model, texts.numel(), asked.length) / fast / matmul_rate(asked.device)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{texts.numel()} tokens, {asked.layers} layers, {torch.get_num_threads()} threads, {asked.device}")
    print(f"authors' way {slow:.1f} s; wavefront {fast:.1f} s: {slow / fast:.1f} times as fast, equal results")
    print(f"share of the machine's matrix product rate: {share:.0%}; peak memory {memory:.1f} GiB")


if __name__ == "__main__":
    main()
