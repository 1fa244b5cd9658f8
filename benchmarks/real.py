"""mechicl on the real model against plain Hugging Face code, with equal results, and against the machine's own rate.

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

import plain_studies
import torch
from classes import original, plain
from label_words import label_probs_of
from measuring import Clock, Rate, row
from torch import Tensor

import mechicl as mi
from mechicl.engines import run_shared
from mechicl.engines.compression import kept_positions, random_sets, without_the_rest
from mechicl.engines.wavefront import lesion_sweep
from mechicl.metrics import entropy, kl_divergence
from mechicl.models import smollm2
from mechicl.patches import Drop
from mechicl.probes import LogitLens, SaliencyFlow
from mechicl.prompts import PromptSet
from mechicl.studies.label_words.compression import READ_APART, Compression
from mechicl.studies.label_words.reweighting import Reweighting

MODEL = "smollm2-135m-q4"
ROWS = ("forward", "saliency", "drops", "lens", "compression", "reweighting")
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
    parser.add_argument("--only", nargs="*", choices=(*ROWS, "start"))
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
        "compression": compression(model, hf, few, in_blocks, readout),
        "reweighting": reweighting(model, hf, in_blocks, readout),
    }  # fmt: skip


def compression(model: Any, hf: Any, prompts: PromptSet, in_blocks: float, readout: float) -> Row:
    """The study with the query at its own positions and four random sets: nine contexts."""
    study, first = Compression(positions=("original",), n_sets=4), prompts[0]
    conditions = [one for one in study.conditions(model) if one["method"] != READ_APART]
    short = [without_the_rest(prompt) for prompt in prompts]
    sets = [kept_positions(first, kept) for kept in study.kept] + random_sets(first, study.n_sets, study.random_seed)
    tokens = (1 + len(sets)) * sum(map(len, prompts)) + sum(map(len, short))

    @torch.no_grad()
    def theirs() -> Tensor:
        whole = [plain_studies.label_logits(hf, some) for some in (prompts, short)]
        return torch.cat([*whole, *(plain_studies.on_kept(hf, prompts, kept) for kept in sets)]).softmax(-1)

    operations = tokens * in_blocks + (2 + len(sets)) * len(prompts) * readout
    return Row(theirs, lambda: label_probs_of(study, model, prompts, conditions), operations, None)


def reweighting(model: Any, hf: Any, in_blocks: float, readout: float) -> Row:
    """The paper's three rows with two epochs over four training prompts: 8 steps."""
    study = Reweighting("paper", epochs=2, per_class=2)
    prompts = study.prompts(mi.load_task("reviews"), model.tokenizer, samples=4, seed=42)
    training, more = prompts.auxiliary["training"], prompts.auxiliary["more_shots"]

    def theirs() -> Tensor:
        beta = plain_studies.fit(hf, training, study.epochs)
        with torch.no_grad():
            ways = ((prompts, None), (more, None), (prompts, beta))
            return torch.cat([plain_studies.label_logits(hf, *way) for way in ways])

    def ours() -> Tensor:
        tables = study.measure_all(model, prompts, study.conditions(model), batch_size=16)
        return torch.cat([torch.tensor(table["label_logits"].tolist()) for table in tables])

    read, asked = (sum(map(len, some)) for some in (training, [*prompts, *more, *prompts]))
    steps = 2 * study.epochs  # forward and back
    operations = (steps * read + asked) * in_blocks + (steps * len(training) + 3 * len(prompts)) * readout
    return Row(theirs, ours, operations, None)


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
