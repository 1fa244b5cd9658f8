"""*Label Words are Anchors*: the paper's way of computing beside ours, in one process, with equal results.

    python benchmarks/label_words.py [--model random|tiny-icl] [--only NAME ...] [--queries 16] [--repeats 3] [--busy]

The paper's way is plain code (`paper_way.py`): every prompt alone and whole, nothing cached. Both ways take turns, the
median of each is printed, and their results are compared. The random model has GPT-2-small's sizes, and its prompts
demonstrations as long as TREC's; tiny-icl answers its own task.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import paper_way
import torch
from setting import random_model, random_prompts, tiny_icl
from torch import Tensor

from mechicl import LabelAttention, compress, load_model, run_shared
from mechicl.engines.reweighting import Variant, fit_together
from mechicl.hooks import run
from mechicl.probes import SaliencyFlow
from mechicl.prompts import PromptSet
from mechicl.studies.label_words.isolation import Isolation
from mechicl.studies.label_words.reweighting import REWEIGHTED, Reweighting


@dataclass(frozen=True)
class Comparison:
    """Two ways to the same numbers."""

    name: str
    paper: Callable[[], Tensor]
    ours: Callable[[], Tensor]
    aim: float | None = None
    tolerance: float = 1e-4
    """Of the largest number."""
    paper_counts: int = 1
    """Units of work (steps) in one call of the paper's way."""
    ours_counts: int = 1
    floor: Callable[[], object] | None = None
    """What one unit of our work cannot do without."""


def forward(model: Any, prompts: PromptSet) -> list[Comparison]:
    """One whole prompt: TransformerLens's forward pass against mechicl's, which the paper's way below does not use."""
    one = prompts[:1]
    return [
        Comparison(
            "one prompt, forward",
            lambda: paper_way.label_logits(model, one),
            lambda: run(model, one, progress=None).label_logits,
        )
    ]


def information_flow(model: Any, prompts: PromptSet) -> list[Comparison]:
    """Saliency of all edges, reduced; the authors froze the weights only in their last version."""
    probe = SaliencyFlow()

    def ours() -> Tensor:
        return run(model, prompts, [probe], progress=None)[probe]

    return [
        Comparison("information flow, weights frozen", lambda: paper_way.flow(model, prompts, frozen=True), ours, 2),
        Comparison("information flow, as first published", lambda: paper_way.flow(model, prompts, frozen=False), ours),
    ]


def deep_layers(model: Any, prompts: PromptSet) -> list[Comparison]:
    """Attention to the label words."""
    probe = LabelAttention()

    def ours() -> Tensor:
        return run_shared(model, prompts, [probe], progress=None)[probe]

    return [Comparison("deep layers", lambda: paper_way.label_attention(model, prompts), ours, 3)]


def isolation(model: Any, prompts: PromptSet) -> list[Comparison]:
    """The study's five conditions: nothing, label words and random tokens, in the first and in the last layers."""
    study = Isolation(n_layers=(min(5, model.cfg.n_layers - 1),))
    patches = [study.patch(model, prompts, condition) for condition in study.conditions(model)]

    def ours() -> Tensor:
        return torch.cat(
            [run_shared(model, prompts, patches=[p] if p else [], progress=None).label_logits for p in patches]
        )

    return [Comparison("isolation, five conditions", lambda: paper_way.isolated(model, prompts, patches), ours, 3)]


def compression(model: Any, prompts: PromptSet) -> list[Comparison]:
    """Queries on a context of label words: hidden keys in the whole prompt, against the gathered cache."""

    def ours() -> Tensor:
        return compress(model, prompts[0], kept="label").ask(model, prompts, progress=None).label_logits

    kept = prompts[0].label_positions
    return [Comparison("context of label words", lambda: paper_way.on_kept(model, prompts, kept), ours, 3)]


def reweighting_step(model: Any, prompts: PromptSet) -> list[Comparison]:
    """A step of Adam on beta; ours with the reading of the prompts, and alone as well as six variants in lockstep."""
    two, order = prompts[:2], [[0, 1]]
    variants = [
        Variant(two), Variant(two, ("heads",)), Variant(two, ("layers",)), Variant(two, placement="presoftmax"),
        Variant(two, ("heads", "layers")), Variant(two, ("heads",), "presoftmax"),
    ]  # fmt: skip

    def ours(rows: list[Variant], epochs: int) -> Tensor:
        return fit_together(model, rows, order=order * epochs)[0].losses[:2]

    def paper() -> Tensor:
        return paper_way.fit(model, two, order)[1]

    return [
        Comparison(
            "re-weighting, one step", paper, lambda: ours(variants[:1], 30), 30, 1e-3, 2, 60,
            lambda: one_row_through(model),
        ),
        Comparison("re-weighting, one of six variants", paper, lambda: ours(variants, 30), 30, 1e-3, 2, 360),
    ]  # fmt: skip


def one_row_through(model: Any) -> None:
    """One token's products with every weight of the blocks, forward and then back."""
    weights = [w.detach().flatten(0, -2) for name, w in model.named_parameters() if "blocks" in name and ".W_" in name]
    for weight in weights:
        torch.mv(weight, torch.ones(weight.shape[1]))
    for weight in reversed(weights):
        torch.mv(weight.T, torch.ones(weight.shape[0]))


def reweighting_study(model: Any, prompts: PromptSet) -> list[Comparison]:
    """The paper's three rows with all its training, ten epochs over four items of each class."""
    return _reweighting_study(model, prompts, prompts.companions["training"], 10)


def reweighting_sample(model: Any, prompts: PromptSet) -> list[Comparison]:
    """The paper's three rows with a thirtieth of its training: two epochs over four items, 8 steps."""
    return _reweighting_study(model, prompts, prompts.companions["training"][:4], 2)


def _reweighting_study(model: Any, prompts: PromptSet, training: PromptSet, epochs: int) -> list[Comparison]:
    more = prompts.companions["more_shots"]
    asked = replace(prompts, companions={"training": training, "more_shots": more}, seed=42)
    study = Reweighting("paper", epochs=epochs)

    def ours() -> Tensor:
        tables = study.measure_all(model, asked, study.conditions(model), batch_size=16)
        return torch.cat([torch.tensor(table["label_logits"].tolist()) for table in tables])

    def paper() -> Tensor:
        beta, _ = paper_way.fit(model, training, paper_way.orders(len(training), study.epochs))
        plain, longer = (paper_way.label_logits(model, some) for some in (prompts, more))
        return torch.cat([plain, longer, paper_way.label_logits(model, prompts, beta)])

    assert study.conditions(model)[-1]["method"] == REWEIGHTED
    name = f"re-weighting, the study with {epochs * len(training)} steps and {len(prompts)} questions"
    return [Comparison(name, paper, ours, 10, 1e-2)]


EXPERIMENTS = {
    "forward": forward, "flow": information_flow, "deep": deep_layers, "isolation": isolation,
    "compression": compression, "step": reweighting_step, "sample": reweighting_sample, "study": reweighting_study,
}  # fmt: skip


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=("random", "tiny-icl"), default="random")
    all_but_study = [name for name in EXPERIMENTS if name != "study"]
    parser.add_argument("--only", nargs="+", choices=EXPERIMENTS, default=all_but_study, help="study takes minutes")
    parser.add_argument("--queries", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--busy", action="store_true", help="one thread, processor time: where others work as well")
    asked = parser.parse_args()
    if asked.busy:
        torch.set_num_threads(1)
    if asked.model == "random":
        model, prompts = random_model(), random_prompts(asked.queries)
    else:
        model = load_model("tiny-icl")
        prompts = tiny_icl(model, asked.queries)
    clock = ", processor time" if asked.busy else ""
    print(f"{asked.model}: {model.cfg.n_layers} layers, width {model.cfg.d_model}; {len(prompts)} prompts of up to "
          f"{max(map(len, prompts))} tokens; {torch.get_num_threads()} threads, {model.cfg.device}, "
          f"torch {torch.__version__}; medians of {asked.repeats}{clock}")  # fmt: skip
    print("| experiment | paper's way, s | ours, s | ratio | aim | floor, s |\n|---|---|---|---|---|---|")
    for name in asked.only:
        for one in EXPERIMENTS[name](model, prompts):
            paper, ours, floor = measure(one, asked.repeats, time.process_time if asked.busy else time.perf_counter)
            least = f"{floor:.4f}" if one.floor else "-"
            print(
                f"| {one.name} | {paper:.3f} | {ours:.4f} | {paper / ours:.1f} | {one.aim or '-'} | {least} |",
                flush=True,
            )


def measure(one: Comparison, repeats: int, clock: Callable[[], float]) -> tuple[float, float, float]:
    """Median seconds per unit of work of both ways and of the floor, in turns; the ways' results are compared."""
    seconds: list[list[float]] = [[], [], []]
    for _ in range(repeats):
        found = []
        for way, call in enumerate((one.paper, one.ours)):
            start = clock()
            found.append(call())
            seconds[way].append(clock() - start)
        if one.floor:
            start = clock()
            one.floor()
            seconds[2].append(clock() - start)
        torch.testing.assert_close(
            found[1].double(), found[0].double(), rtol=1e-4, atol=one.tolerance * float(found[0].abs().max())
        )
    paper, ours, floor = (statistics.median(of_way) if of_way else 0.0 for of_way in seconds)
    return paper / one.paper_counts, ours / one.ours_counts, floor


if __name__ == "__main__":
    main()
