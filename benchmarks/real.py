"""mechicl on the real model beside plain Hugging Face code, with equal results, and against the machine's own rate.

    python benchmarks/real.py [--repeats 3] [--samples 16] [--only NAME ...]

Both take turns in one process. Plain code passes one prompt or text at a time, whole; ours is called as a study calls
it. The share is that of the machine's matrix products which plain code could not do without, done in our time: it
exceeds 1 where we compute less. Then loading, and the start of a command.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from classes import original, plain
from measuring import Clock, Rate, row
from torch import Tensor

import mechicl as mi
from mechicl.engines import run_shared
from mechicl.engines.wavefront import lesion_sweep
from mechicl.metrics import entropy, kl_divergence
from mechicl.models import smollm2
from mechicl.patches import Drop
from mechicl.probes import LogitLens, SaliencyFlow

MODEL = "smollm2-135m-q4"
TOLERANCE = 1e-3
"""Of the largest value: sums of 49,152 probabilities in float32, in two orders."""


class Row(NamedTuple):
    """What is measured: two ways to the same numbers, the products that plain code needs, and the goal."""

    plain: Callable[[], Tensor]
    ours: Callable[[], Tensor]
    operations: float
    goal: float | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--samples", type=int, default=16, help="prompts of one seed")
    parser.add_argument("--only", nargs="*", choices=("forward", "saliency", "drops", "lens", "start"))
    asked = parser.parse_args()
    clock, model = Clock("cpu"), mi.load_model(MODEL)
    rate, rows = Rate(model, clock), compared(model, asked.samples)
    chosen = {name: one for name, one in rows.items() if asked.only is None or name in asked.only}
    for turn in range(asked.repeats + 1):
        rate.measure()
        for name, one in chosen.items():
            expected, found = clock.time(f"{name}, plain", one.plain), clock.time(f"{name}, ours", one.ours)
            off = float((found - expected).abs().max() / expected.abs().max())
            assert off < TOLERANCE, f"{name} differs by {off:.1e}"
            if not turn:  # a first pass examines the model and fills caches
                del clock.seconds[f"{name}, plain"], clock.seconds[f"{name}, ours"]
    gflops = rate.operations / clock.median("product") / 1e9
    print(f"{MODEL}, {torch.get_num_threads()} threads, matrix product {gflops:.0f} GFLOP/s; torch {torch.__version__}")
    row("", "Hugging Face, s", "mechicl, s", "ratio", "goal", "share of the rate")
    row(*["---"] * 6)
    for name, one in chosen.items():
        theirs, ours = clock.median(f"{name}, plain"), clock.median(f"{name}, ours")
        share = rate.share(one.operations, f"{name}, ours")
        row(name, f"{theirs:.2f}", f"{ours:.2f}", f"{theirs / ours:.2f}", one.goal or "-", f"{share:.0%}")
    if asked.only is None or "start" in asked.only:
        start()


def compared(model: Any, samples: int) -> dict[str, Row]:
    """What plain code of a few lines can do as well."""
    hf = original(MODEL)
    prompts = mi.load_task("reviews").prompts(model.tokenizer, samples=samples, seed=42)
    corpus = mi.load_corpus(model.tokenizer, "pydocs", prepend_bos=True, n_ctx=64, tokens=126)
    theirs, few = plain(hf, prompts, corpus.tokens), prompts[:4]
    few_theirs = plain(hf, few, corpus.tokens[:1])
    drops = [Drop(layer) for layer in range(model.cfg.n_layers)]
    flows = SaliencyFlow()
    labels = list(prompts[0].label_ids)
    in_blocks = 2 * sum(p.numel() for p in hf.model.layers.parameters())
    readout = 2 * hf.lm_head.weight.numel()
    read, shown = sum(map(len, prompts)), sum(map(len, few))
    n_text = corpus.tokens[:1].numel()

    def saliency() -> Tensor:
        reading = mi.run(model, few, [flows], progress=None)[flows]
        return torch.stack([reading[name] for name in ("S_wp", "S_pq", "S_ww")], -1)

    def forward() -> Tensor:
        return run_shared(model, prompts, progress=None).label_logits.softmax(-1)

    def lens() -> Tensor:
        probe = LogitLens(only=("entropy", "kl"))
        reading = mi.run(model, corpus, [probe], progress=None)[probe]
        return torch.stack([reading["entropy"], reading["kl"]], -1)

    return {
        "forward": Row(
            lambda: theirs["forward"]()[:, labels].softmax(-1), forward, read * in_blocks + len(prompts) * readout, 2
        ),
        "saliency": Row(few_theirs["saliency"], saliency, 2 * shown * in_blocks, 2.2),
        "drops": Row(
            few_theirs["ablations"],
            lambda: lesion_sweep(model, corpus.tokens[:1], drops, top_k=0).kl,
            (len(drops) + 1) * n_text * (in_blocks + readout), 2,
        ),
        "lens": Row(
            lambda: plain_lens(hf, corpus.tokens), lens,
            corpus.tokens.numel() * (in_blocks + (len(drops) + 1) * readout), None,
        ),
    }  # fmt: skip


@torch.no_grad()
def plain_lens(hf: Any, texts: Tensor) -> Tensor:
    """Mean entropy in bits, and KL(final || lens), of every point."""
    found = []
    for text in texts:
        states = hf(text[None], output_hidden_states=True, use_cache=False).hidden_states
        # The last of them is normed already.
        logits = [hf.lm_head(hf.model.norm(state))[0, 1:] for state in states[:-1]] + [hf.lm_head(states[-1])[0, 1:]]
        found.append(
            torch.stack(
                [
                    torch.stack([entropy(one, unit="bits").mean(), kl_divergence(logits[-1], one).mean()])
                    for one in logits
                ]
            )
        )
    return torch.stack(found)


def start() -> None:
    """Seconds from nothing: transformers' load against ours, an import against a whole small command."""
    from transformers import AutoModelForCausalLM

    row("", "without mechicl, s", "mechicl, s", "more, s")
    row(*["---"] * 4)
    times = {
        "load the model": (
            lambda: AutoModelForCausalLM.from_pretrained(smollm2.folder(), dtype=torch.float32),
            lambda: mi.load_model(MODEL),
        ),
        "a command on 30 tokens": (lambda: _process("-c", "import transformer_lens"), _command),
    }
    for name, ways in times.items():
        without, ours = (_seconds(way) for way in ways)
        row(name, f"{without:.1f}", f"{ours:.1f}", f"{ours - without:+.1f}")


def _seconds(call: Callable[[], object]) -> float:
    before = time.perf_counter()
    call()
    return time.perf_counter() - before


def _process(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)


def _command() -> None:
    with tempfile.TemporaryDirectory() as folder:
        call = ["run", "norms", "--model", "tiny-icl", "--text", "tiny-icl", "--tokens", "30", "--out", folder]
        _process("-c", f"from mechicl.cli import main; import sys; sys.argv = ['mechicl', *{call!r}]; sys.exit(main())")


if __name__ == "__main__":
    main()
