"""Peak memory of the first paper's studies on a random model of GPT-2-small's sizes, each in a process of its own.

    python benchmarks/memory.py [--tokens 148] [--long 1024] [--device cpu] [--dtype float32] [--size gpt2]

Linux: the peak is VmHWM of /proc/self/status, reset after the model is built and everything has run once on a short
prompt; what is printed is the peak above what the process held then. On a GPU both are what PyTorch allocated there. A
plain forward pass is TransformerLens's own, its graph is the same with gradients of activations.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paper_way
import torch
from setting import model_for, parser

from mechicl import isolation
from mechicl.engines import compress
from mechicl.engines.prefix import run_shared
from mechicl.engines.reweighting import fit_reweighting
from mechicl.hooks import run
from mechicl.models import frozen, recompute
from mechicl.probes import LabelAttention, SaliencyFlow
from mechicl.probes.target_query import TargetQuery
from mechicl.prompts import Prompt, PromptSet


def one_prompt(n: int) -> PromptSet:
    """A prompt of n tokens with six label words."""
    tokens = torch.randint(0, 50257, (n,), generator=torch.Generator().manual_seed(0)).tolist()
    return PromptSet.of([Prompt.from_positions(tokens, [[n * (c + 1) // 8] for c in range(6)], range(100, 106), 0)])


def graph(model: Any, prompts: PromptSet) -> None:
    """One forward pass that keeps what a backward pass needs, weights frozen."""

    def leaf(embedded: torch.Tensor, hook: Any) -> torch.Tensor:
        return embedded.detach().requires_grad_()

    with frozen(model), torch.enable_grad():
        tokens = torch.tensor([prompts[0].tokens], device=model.cfg.device)
        kept = model.run_with_hooks(tokens, fwd_hooks=[("hook_embed", leaf)])
        del kept


def saliency(budget: int) -> Callable[[Any, PromptSet], None]:
    """Information flow, with this many bytes allowed for the graph."""

    def measure(model: Any, prompts: PromptSet) -> None:
        recompute.GRAPH_BYTES = budget
        run(model, prompts, [SaliencyFlow()], progress=None)

    return measure


CASES: dict[str, Callable[[Any, PromptSet], object]] = {
    "plain forward": paper_way.label_logits,
    "deep layers": lambda model, prompts: run(model, prompts, [LabelAttention()], progress=None),
    "isolation": lambda model, prompts: isolation(model, prompts, n_layers=(5,)),
    "compression": lambda model, prompts: compress(model, prompts[0], kept="label").ask(model, prompts, progress=None),
    "error diagnosis": lambda model, prompts: run_shared(model, prompts, [TargetQuery()], progress=None),
    "re-weighting, three steps": lambda model, prompts: fit_reweighting(model, prompts, epochs=3),
    "re-weighting, authors' way": lambda model, prompts: paper_way.fit(model, prompts, [[0]] * 3),
    "a forward pass's graph": graph,
    "information flow": saliency(2**40),
    "information flow, blocks recomputed": saliency(0),
}


def measure(case: str, tokens: int, asked: argparse.Namespace) -> None:
    """Print the peak above the resting size, and the peak of the whole process, in MiB."""
    torch.set_num_threads(min(2, torch.get_num_threads()))
    model = model_for(asked)
    CASES[case](model, one_prompt(64))
    prompts = one_prompt(tokens)
    if asked.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() / 2**20
        CASES[case](model, prompts)
        most = torch.cuda.max_memory_allocated() / 2**20
    else:
        before = status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        CASES[case](model, prompts)
        most = status("VmHWM")
    print(f"{most - before:.0f} | {most:.0f}")


def status(name: str) -> float:
    """A line of this process's status, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def main() -> None:
    """One process for each case."""
    options = parser(__doc__)
    options.add_argument("--tokens", type=int, default=148)
    options.add_argument("--long", type=int, default=1024)
    options.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    options.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    asked = options.parse_args()
    if asked.case:
        return measure(asked.case, asked.tokens, asked)
    print("| one prompt | tokens | above the resting process, MiB | whole process, MiB |\n|---|---|---|---|")
    given = ["--device", asked.device, "--dtype", asked.dtype, "--size", asked.size]
    given += ["--n-layers", str(asked.n_layers)] if asked.n_layers else []
    for tokens in (asked.tokens, asked.long):
        for case in asked.only:
            command = [sys.executable, __file__, "--case", case, "--tokens", str(tokens), *given]
            found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip().splitlines()[-1]
            print(f"| {case} | {tokens} | {found} |", flush=True)


if __name__ == "__main__":
    main()
