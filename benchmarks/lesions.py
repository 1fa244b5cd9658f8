"""Layers dropped and swapped: the authors' way against one wavefront, in turns, with equal results.

    python benchmarks/lesions.py [--tokens 256 --length 256] [--size gpt2-xl --device cuda --dtype bfloat16]

The authors' algorithm, written out in plain code, goes layer by layer and text by text. What each row counts of it:

- drops, arithmetic: the clean pass and the pass with zeroed outputs, both through the hooked model; log-softmaxes,
  KL(clean || dropped), both entropies from clamped probabilities, both next-token losses, both argmaxes.
- drops: the same, and what their script does with each number: strings of the two most probable tokens (from a table;
  they call a tokenizer) and ten Python objects for every token.
- drops and swaps: the same for swapped neighbours, and for each swap what they do to the model, twice, there and back:
  rename the weights and build a hooked model from them. (They also go through a Hugging Face model and process the
  weights again; that is not counted.)

Ours is `lesion_sweep` of the same lesions, measures included, with its default batches. Memory is that of a process in
which nothing else runs.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from measuring import (
    Clock,
    Memory,
    Rate,
    arguments,
    block_operations,
    in_own_process,
    interleaved,
    machine,
    random_model,
    random_texts,
    row,
    unembedding_operations,
)
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformer_lens import HookedTransformer

from mechicl.engines.comparison import Compared
from mechicl.engines.wavefront import lesion_sweep
from mechicl.hooks import Patch
from mechicl.patches import Drop, Swap

ENOUGH = 4.0
"""GiB in which a sweep over 1,024 tokens of GPT-2 small's size has to run."""


def main() -> None:
    asked = arguments(__doc__, tokens=256, length=256).parse_args()
    model = random_model(asked)
    if asked.alone:
        return alone(model, asked)
    texts, clock = random_texts(asked), Clock(asked.device)
    rate = Rate(model, clock)
    n_layers = model.cfg.n_layers
    drops: list[Patch] = [Drop(layer) for layer in range(n_layers)]
    swaps: list[Patch] = [Swap(layer) for layer in range(n_layers - 1)]
    lesion_sweep(model, texts[:, :16], drops)  # warm up
    authors = Authors(model, clock)
    for _ in interleaved(authors.drop(texts), asked.repeats):
        rate.measure()
        dropped = clock.time("drops", lambda: lesion_sweep(model, texts, drops, top_k=0))
    for _ in interleaved(authors.swap(texts), asked.repeats):
        rate.measure()
        both = clock.time("drops and swaps", lambda: lesion_sweep(model, texts, [*drops, *swaps], top_k=0))
    exact = asked.dtype == "float32"
    for ours, layers, kind in (
        (dropped, range(n_layers), "drop"),
        (both, range(n_layers), "drop"),
        (both, range(n_layers, 2 * n_layers - 1), "swap"),
    ):
        if exact:
            assert_equal(ours, list(layers), authors.rows[kind], texts.shape)
    print(machine(model, rate))
    print(f"{texts.numel()} tokens in texts of {texts.shape[1]}; results {'equal' if exact else 'not compared'}")
    row("lesions", "authors' way, s", "ours, s", "ratio", "share of the product's rate")
    row("---", "---", "---", "---", "---")
    passes, bookkeeping, rebuilding = "authors' passes", "authors' bookkeeping", "authors' rebuilding"
    for name, ours_name, parts, lesions in (
        ("drops, arithmetic", "drops", [f"{passes} drop"], drops),
        ("drops", "drops", [f"{passes} drop", f"{bookkeeping} drop"], drops),
        (
            "drops and swaps",
            "drops and swaps",
            [f"{part} {kind}" for part in (passes, bookkeeping) for kind in ("drop", "swap")] + [rebuilding],
            [*drops, *swaps],
        ),
    ):
        theirs, seconds = clock.total(*parts), clock.median(ours_name)
        share = rate.share(operations(model, lesions, texts), ours_name)
        row(name, f"{theirs:.1f}", f"{seconds:.2f}", f"{theirs / seconds:.1f}", f"{share:.0%}")
    print(f"of the authors' seconds: rebuilding {clock.total(rebuilding):.1f}; products alone, drops: "
          f"{authors_operations(model, texts) / rate.operations * clock.median('product'):.1f}")  # fmt: skip
    options = ["--size", asked.size, "--device", asked.device, "--dtype", asked.dtype]
    options += ["--n-layers", str(n_layers)]
    print(in_own_process([*options, "--tokens", "1024", "--length", str(asked.length)]))


def alone(model: HookedTransformer, asked: argparse.Namespace) -> None:
    """Our way only, for its memory."""
    with Memory(asked.device) as memory:
        lesion_sweep(model, random_texts(asked), [Drop(layer) for layer in range(model.cfg.n_layers)])
    assert memory.most < ENOUGH or asked.size != "gpt2", f"{memory.most:.1f} GiB"
    print(f"all drops over {asked.tokens} tokens, in a process of its own: at most {memory.most:.2f} GiB "
          f"({memory.before:.2f} GiB with the model loaded)")  # fmt: skip


@dataclass
class Authors:
    """Their loops; `rows` holds their measures, [layer, text, pos] flattened, as Python numbers."""

    model: HookedTransformer
    clock: Clock
    rows: dict[str, dict[str, list[object]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.strings = [f" token {i}" for i in range(self.model.cfg.d_vocab)]

    def drop(self, texts: Tensor) -> Iterator[None]:
        """One step a layer: the pass with this layer's outputs zeroed."""
        for layer in range(self.model.cfg.n_layers):
            hooks = [(f"blocks.{layer}.hook_{part}_out", _zero_in_place) for part in ("attn", "mlp")]
            for text in texts[:, None]:
                self._compare("drop", text, self.model, hooks)
            yield

    def swap(self, texts: Tensor) -> Iterator[None]:
        """One step a layer: a model whose neighbours are swapped is built, and then the first one again."""
        for layer in range(self.model.cfg.n_layers - 1):
            swapped = self.clock.time("authors' rebuilding", lambda i=layer: rebuilt(self.model, i))
            for text in texts[:, None]:
                self._compare("swap", text, swapped, [])
            self.clock.time("authors' rebuilding", lambda i=layer, m=swapped: rebuilt(m, i))
            yield

    @torch.no_grad()
    def _compare(self, kind: str, text: Tensor, changed: HookedTransformer, hooks: list) -> None:  # type: ignore[type-arg]
        normal, lesioned, measures = self.clock.time(
            f"authors' passes {kind}", lambda: _passes(self.model, changed, hooks, text)
        )
        self.clock.time(f"authors' bookkeeping {kind}", lambda: self._keep(kind, text, normal, lesioned, measures))

    def _keep(self, kind: str, text: Tensor, normal: Tensor, lesioned: Tensor, measures: dict[str, Tensor]) -> None:
        rows = self.rows.setdefault(kind, {})
        for name, values in measures.items():
            rows.setdefault(name, []).extend(values.tolist())
        before, after = ([self.strings[i] for i in ids.tolist()] for ids in (normal, lesioned))
        rows.setdefault("token", []).extend(self.strings[i] for i in text[0].tolist())
        rows.setdefault("normal top token", []).extend(before)
        rows.setdefault("lesioned top token", []).extend(after)
        rows.setdefault("agreement", []).extend(a == b for a, b in zip(before, after, strict=True))


def _passes(
    model: HookedTransformer,
    changed: HookedTransformer,
    hooks: list,
    text: Tensor,  # type: ignore[type-arg]
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    normal = model(text)[0].float()
    lesioned = changed.run_with_hooks(text, fwd_hooks=hooks)[0].float()
    log_p, log_q = normal.log_softmax(-1), lesioned.log_softmax(-1)
    measures = {
        "kl": (log_p.exp() * (log_p - log_q)).sum(-1),
        "entropy before": _entropy(normal),
        "entropy": _entropy(lesioned),
        "loss before": cross_entropy(normal[:-1], text[0, 1:], reduction="none"),
        "loss": cross_entropy(lesioned[:-1], text[0, 1:], reduction="none"),
    }
    return normal.argmax(-1), lesioned.argmax(-1), measures


def _entropy(logits: Tensor) -> Tensor:
    probs = logits.softmax(-1).clamp(min=1e-9)
    return -(probs * probs.log2()).sum(-1)


def _zero_in_place(value: Tensor, hook: object) -> Tensor:
    value[:] = 0
    return value


def rebuilt(model: HookedTransformer, layer: int) -> HookedTransformer:
    """A new hooked model with the weights of two neighbouring layers exchanged."""
    cfg = copy.deepcopy(model.cfg)
    cfg.init_weights = False
    names = {f"blocks.{layer}.": f"blocks.{layer + 1}.", f"blocks.{layer + 1}.": f"blocks.{layer}."}
    weights = {}
    for name, value in model.state_dict().items():
        old = next((prefix for prefix in names if name.startswith(prefix)), None)
        weights[name if old is None else names[old] + name.removeprefix(old)] = value
    new = HookedTransformer(cfg).eval().requires_grad_(False)
    new.load_state_dict(weights)
    return new


def assert_equal(ours: Compared, lesions: list[int], rows: dict[str, list[object]], shape: torch.Size) -> None:
    """Equal but for rounding; of near ties either token may win. The clamp at 1e-9 adds to the authors' entropies."""

    def theirs(name: str, length: int) -> Tensor:
        return torch.tensor(rows[name], dtype=torch.float32).view(len(lesions), shape[0], length)

    torch.testing.assert_close(ours.kl[lesions], theirs("kl", shape[1]), atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(ours.loss[lesions][..., :-1], theirs("loss", shape[1] - 1), atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(ours.entropy[lesions], theirs("entropy", shape[1]), atol=2e-3, rtol=1e-3)
    assert (ours.agreement[lesions] - theirs("agreement", shape[1])).abs().mean() < 2e-3


def operations(model: HookedTransformer, lesions: list[Patch], texts: Tensor) -> float:
    """Products of one sweep: each pass shares the clean one's blocks as far as they agree."""
    n_layers = model.cfg.n_layers
    blocks = n_layers
    for lesion in lesions:
        dropped = lesion.layers(n_layers) if isinstance(lesion, Drop) else ()
        steps = [layer for layer in lesion.order(n_layers) or range(n_layers) if layer not in dropped]
        shared = next((at for at, layer in enumerate(steps) if layer != at), len(steps))
        blocks += len(steps) - shared
    per_token = blocks * block_operations(model, texts.shape[1]) + (1 + len(lesions)) * unembedding_operations(model)
    return texts.numel() * per_token


def authors_operations(model: HookedTransformer, texts: Tensor) -> float:
    """Products of two whole passes for every dropped layer (the dropped layer runs too, and is zeroed)."""
    n_layers = model.cfg.n_layers
    whole = n_layers * block_operations(model, texts.shape[1]) + unembedding_operations(model)
    return texts.numel() * 2 * n_layers * whole


if __name__ == "__main__":
    main()
