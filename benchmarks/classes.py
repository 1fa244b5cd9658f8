"""HookedTransformer, Bridge and plain Hugging Face side by side: the same weights, the same numbers, in turns.

    OMP_NUM_THREADS=1 python benchmarks/classes.py [--model tiny-icl] [--repeats 3]

Both classes run through mechicl, in eager Python, one prompt at a time as the plain model does. With TransformerLens 4
there is no column for HookedTransformer. Measured are:

- forward: logits at q. Hugging Face's attention is its fused one.
- patterns: every layer's attention pattern is seen. Hugging Face's attention is eager, with output_attentions.
- saliency: |sum over heads of A dL/dA| of every layer, as its three mean flows.
- ablations: KL(clean || without a layer) at every position of a text of 64 tokens, layer after layer.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from measuring import Clock, row
from torch import Tensor
from torch.nn.functional import cross_entropy

import mechicl as mi
from mechicl.engines.wavefront import lesion_sweep
from mechicl.library import has_hooked_transformer
from mechicl.metrics import kl_divergence
from mechicl.models import frozen, hooked
from mechicl.patches import Drop
from mechicl.probes import SaliencyFlow

Ways = dict[str, Callable[[], Tensor]]
"""What is measured, and how one model does it."""
TASKS = {"smollm2-135m-q4": ("reviews", "pydocs"), "tiny-icl": ("tiny-topics-4", "tiny-icl")}
TOLERANCE = {"forward": 1e-4, "patterns": 1e-5, "saliency": 1e-4, "ablations": 1e-4}
"""Of the largest value."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=TASKS, default="smollm2-135m-q4")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--samples", type=int, default=4, help="prompts")
    asked = parser.parse_args()
    kinds = ("hooked", "bridge") if has_hooked_transformer() else ("bridge",)
    models = {kind: mi.load_model(asked.model, backend=kind) for kind in kinds}  # type: ignore[arg-type]
    tokenizer, (task, text) = models["bridge"].tokenizer, TASKS[asked.model]
    prompts = mi.load_task(task).prompts(tokenizer, samples=asked.samples, seed=42)
    texts = mi.load_corpus(tokenizer, text, prepend_bos=True, n_ctx=64, tokens=63).tokens
    ways = {kind: ours(model, prompts, texts) for kind, model in models.items()}
    ways["plain"] = plain(original(asked.model), prompts, texts)
    clock, found = Clock("cpu"), {}
    for _ in range(asked.repeats + 1):
        for what in TOLERANCE:
            for name, way in ways.items():
                found[name] = clock.time(f"{what} {name}", way[what])
            for name in kinds:
                off = float((found[name] - found["plain"]).abs().max() / found["plain"].abs().max())
                assert off < TOLERANCE[what], f"{what} of {name} differs by {off:.1e}"
    for seconds in clock.seconds.values():
        del seconds[0]  # a first pass examines the model and fills caches
    names = {"hooked": "HookedTransformer, s", "bridge": "Bridge, s", "plain": "Hugging Face, s"}
    row(asked.model, *(names[name] for name in ways), *(["Bridge / HookedTransformer"] if len(kinds) > 1 else []))
    row(*["---"] * (len(ways) + len(kinds)))
    for what in TOLERANCE:
        medians = [clock.median(f"{what} {name}") for name in ways]
        row(what, *(f"{value:.3f}" for value in medians), *([f"{medians[1] / medians[0]:.2f}"] * (len(kinds) - 1)))


def ours(model: Any, prompts: Any, texts: Tensor) -> Ways:
    """Through the adapter, which is the same for both classes."""
    net = hooked(model)
    rows = [torch.tensor([prompt.tokens]) for prompt in prompts]
    drops = [Drop(layer) for layer in range(net.sizes.n_layers)]

    @torch.no_grad()
    def forward() -> Tensor:
        with frozen(net):
            return torch.cat([net.lens(net.forward(tokens)[:, -1]) for tokens in rows]).log_softmax(-1)

    def patterns() -> Tensor:
        seen: list[Tensor] = []
        look = lambda pattern, hook: seen.append(pattern[0, :, -1, :8].detach())  # noqa: E731
        with net.hooks([(f"blocks.{layer}.attn.hook_pattern", look) for layer in range(net.sizes.n_layers)]):
            forward()
        return torch.stack(seen)

    def saliency() -> Tensor:
        reading = mi.run(net, prompts, [probe := SaliencyFlow()], batch_size=1, progress=None)[probe]
        return torch.stack([reading[name] for name in ("S_wp", "S_pq", "S_ww")], -1)

    def ablations() -> Tensor:
        return lesion_sweep(net, texts, drops, top_k=0).kl

    return {"forward": forward, "patterns": patterns, "saliency": saliency, "ablations": ablations}


def original(name: str) -> Any:
    """The same weights as transformers loads them, frozen."""
    if name == "tiny-icl":
        from mechicl.shipped.model import read_weights, to_neox

        return to_neox(*read_weights()).eval().requires_grad_(False)
    from transformers import AutoModelForCausalLM

    from mechicl.models import smollm2

    return AutoModelForCausalLM.from_pretrained(smollm2.folder(), dtype=torch.float32).eval().requires_grad_(False)


def plain(model: Any, prompts: Any, texts: Tensor) -> Ways:
    """Plain code on the Hugging Face model."""
    stack = next(part for part in model.modules() if isinstance(getattr(part, "layers", None), torch.nn.ModuleList))

    @torch.no_grad()
    def forward() -> Tensor:
        model.set_attn_implementation("sdpa")
        rows = [model(torch.tensor([prompt.tokens]), use_cache=False, logits_to_keep=1).logits[0] for prompt in prompts]
        return torch.cat(rows).log_softmax(-1)

    def attentions(prompt: Any) -> tuple[Tensor, Any]:
        embedded = model.get_input_embeddings()(torch.tensor([prompt.tokens])).requires_grad_()
        out = model(inputs_embeds=embedded, output_attentions=True, use_cache=False, logits_to_keep=1)
        return out.logits[0, -1], out.attentions

    @torch.no_grad()
    def patterns() -> Tensor:
        model.set_attn_implementation("eager")
        return torch.stack([pattern[0, :, -1, :8] for prompt in prompts for pattern in attentions(prompt)[1]])

    def saliency() -> Tensor:
        model.set_attn_implementation("eager")
        return torch.stack([_flows(*attentions(prompt), prompt) for prompt in prompts])

    @torch.no_grad()
    def ablations() -> Tensor:
        model.set_attn_implementation("sdpa")
        layers, found = stack.layers, []
        for text in texts:
            clean = model(text[None], use_cache=False).logits[0]
            for layer in range(len(layers)):
                stack.layers = torch.nn.ModuleList([*layers[:layer], *layers[layer + 1 :]])
                found.append(kl_divergence(clean, model(text[None], use_cache=False).logits[0]))
                stack.layers = layers
        return torch.stack(found).unflatten(0, (len(texts), -1)).transpose(0, 1)

    return {"forward": forward, "patterns": patterns, "saliency": saliency, "ablations": ablations}


def _flows(logits: Tensor, attentions: tuple[Tensor, ...], prompt: Any) -> Tensor:
    """S_wp, S_pq and S_ww of each layer (Eq. 2-4)."""
    loss = cross_entropy(logits[list(prompt.label_ids)], torch.tensor(prompt.gold))
    gradients = torch.autograd.grad(loss, attentions)
    q, anchors = prompt.target, list(prompt.anchors)
    edges = torch.ones(attentions[0].shape[2:]).tril(-1).bool()
    wp, pq = torch.zeros_like(edges), torch.zeros_like(edges)
    wp[anchors], pq[q, anchors] = edges[anchors], True
    maps = [(pattern * gradient)[0].sum(0).abs() for pattern, gradient in zip(attentions, gradients, strict=True)]
    return torch.stack([torch.stack([of[e].mean() for e in (wp, pq, edges & ~wp & ~pq)]) for of in maps]).detach()


if __name__ == "__main__":
    main()
