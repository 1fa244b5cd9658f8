"""*Label Words are Anchors*: the paper's way of computing against ours, in one process, with equal results.

    python benchmarks/label_words.py [--model random|tiny-icl] [--only NAME ...] [--queries 16] [--repeats 3] [--busy]
        [--device cpu] [--dtype float32] [--size gpt2]

The paper's way is plain code (`paper_way.py`): every prompt alone and whole, nothing cached. Both ways take turns, the
median of each is printed, and in float32 their results are compared. The random model has GPT-2-small's sizes unless
told otherwise, and its prompts demonstrations as long as TREC's; tiny-icl answers its own task.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import paper_way
import torch
from setting import model_for, parser, random_prompts, tiny_icl
from torch import Tensor

from mechicl.engines import compress, run_shared
from mechicl.engines.compression import kept_positions, random_sets, without_the_rest
from mechicl.engines.reweighting import Variant, fit_together
from mechicl.hooks import run
from mechicl.probes import LabelAttention, SaliencyFlow
from mechicl.probes.target_query import TargetQuery
from mechicl.prompts import PromptSet
from mechicl.studies.extensions.anchor_sweep import AnchorSweep
from mechicl.studies.label_words.anchor_kinds import AnchorKinds
from mechicl.studies.label_words.compression import READ_APART, Compression
from mechicl.studies.label_words.isolation import Isolation
from mechicl.studies.label_words.reweighting import REWEIGHTED, Reweighting
from mechicl.studies.study import Study


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
        reading = run(model, prompts, [probe], progress=None)[probe]
        return torch.stack(list(reading.quantities.values()), -1)

    return [
        Comparison("information flow, weights frozen", lambda: paper_way.flow(model, prompts, frozen=True), ours, 2),
        Comparison("information flow, as first published", lambda: paper_way.flow(model, prompts, frozen=False), ours),
    ]


def deep_layers(model: Any, prompts: PromptSet) -> list[Comparison]:
    """Attention to the label words."""
    probe = LabelAttention()

    def ours() -> Tensor:
        return run_shared(model, prompts, [probe], progress=None)[probe].values

    return [Comparison("deep layers", lambda: paper_way.label_attention(model, prompts), ours, 3)]


def isolation(model: Any, prompts: PromptSet) -> list[Comparison]:
    """Five conditions of the study: nothing, label words and random tokens, in the first and in the last layers."""
    study = Isolation(n_layers=(min(5, model.cfg.n_layers - 1),))
    patches = [study.patches(model, prompts, condition) for condition in study.conditions(model)[:5]]

    def ours() -> Tensor:
        return torch.cat([run_shared(model, prompts, patches=some, progress=None).label_logits for some in patches])

    return [Comparison("isolation, five conditions", lambda: paper_way.isolated(model, prompts, patches), ours, 3)]


def compression(model: Any, prompts: PromptSet) -> list[Comparison]:
    """Queries on a context of label words: hidden keys in the whole prompt, against the gathered cache."""

    def ours() -> Tensor:
        return compress(model, prompts[0], kept="label").ask(model, prompts, progress=None).label_logits

    kept = prompts[0].label_positions
    return [Comparison("context of label words", lambda: paper_way.on_kept(model, prompts, kept), ours, 3)]


def compression_study(model: Any, prompts: PromptSet) -> list[Comparison]:
    """The study with the query at its own positions: full context, text anchor, three kept sets, 20 random sets."""
    study, first = Compression(positions=("original",)), prompts[0]
    conditions = [one for one in study.conditions(model) if one["method"] != READ_APART]
    sets = [kept_positions(first, kept) for kept in study.kept] + random_sets(first, study.n_sets, study.random_seed)

    def paper() -> Tensor:
        whole = [paper_way.label_logits(model, some) for some in (prompts, [without_the_rest(p) for p in prompts])]
        return torch.cat([*whole, *(paper_way.on_kept(model, prompts, kept) for kept in sets)]).softmax(-1)

    name = f"compression, the study ({2 + len(sets)} contexts)"
    return [Comparison(name, paper, lambda: label_probs_of(study, model, prompts, conditions), 3)]


def diagnosis(model: Any, prompts: PromptSet) -> list[Comparison]:
    """What error diagnosis takes from a model: queries at q in every layer, and predictions."""
    probe = TargetQuery()

    def ours() -> Tensor:
        seen = run_shared(model, prompts, [probe], progress=None)
        return torch.cat([seen[probe].values.flatten(1), seen.label_logits], 1)

    return [Comparison("error diagnosis, one context", lambda: paper_way.target_queries(model, prompts), ours, 3)]


def anchor_kinds(model: Any, prompts: PromptSet) -> list[Comparison]:
    """The study: each kind of token isolated in all layers, kept alone, left out."""
    study, first = AnchorKinds(), prompts[0]
    conditions, context = study.conditions(model), set(range(first.query_start))

    def paper() -> Tensor:
        found = []
        for one in conditions:
            of_kind = set(study.positions(first, one["kind"])) if one["kind"] else set()
            if one["change"] in ("nothing", "isolated"):
                found.append(paper_way.isolated(model, prompts, [study.patches(model, prompts, one)]))
            else:
                kept = context - of_kind if one["change"] == "left out" else of_kind
                bos = range(first.demonstrations[0].span[0])
                found.append(paper_way.on_kept(model, prompts, sorted({*bos, *kept})))
        return torch.cat(found).softmax(-1)

    name = f"anchor kinds, the study ({len(conditions)} conditions)"
    return [Comparison(name, paper, lambda: label_probs_of(study, model, prompts, conditions), 3)]


def anchor_sweep(model: Any, prompts: PromptSet) -> list[Comparison]:
    """The study: each kind of token isolated in each layer by itself."""
    study = AnchorSweep()
    conditions = study.conditions(model)
    patches = [study.patches(model, prompts, one) for one in conditions]

    def paper() -> Tensor:
        return paper_way.isolated(model, prompts, patches).softmax(-1)

    name = f"anchor sweep, the study ({len(conditions)} conditions)"
    return [Comparison(name, paper, lambda: label_probs_of(study, model, prompts, conditions), 3)]


def label_probs_of(study: Study, model: Any, prompts: PromptSet, conditions: list[Any]) -> Tensor:
    """Probabilities of the label words that a study measures, condition by condition."""
    tables = (study.measure(model, prompts, condition, batch_size=16) for condition in conditions)
    return torch.cat([torch.tensor(table["label_probs"].tolist()) for table in tables])


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
        torch.mv(weight, weight.new_ones(weight.shape[1]))
    for weight in reversed(weights):
        torch.mv(weight.T, weight.new_ones(weight.shape[0]))


def reweighting_study(model: Any, prompts: PromptSet) -> list[Comparison]:
    """The paper's three rows with all its training, ten epochs over four items of each class."""
    return _reweighting_study(model, prompts, prompts.auxiliary["training"], 10)


def reweighting_sample(model: Any, prompts: PromptSet) -> list[Comparison]:
    """The paper's three rows with a thirtieth of its training: two epochs over four items, 8 steps."""
    return _reweighting_study(model, prompts, prompts.auxiliary["training"][:4], 2)


def _reweighting_study(model: Any, prompts: PromptSet, training: PromptSet, epochs: int) -> list[Comparison]:
    more = prompts.auxiliary["more_shots"]
    asked = replace(prompts, auxiliary={"training": training, "more_shots": more}, seed=42)
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
    "compression": compression, "compression-study": compression_study, "diagnosis": diagnosis, "kinds": anchor_kinds,
    "sweep": anchor_sweep, "step": reweighting_step, "sample": reweighting_sample, "study": reweighting_study,
}  # fmt: skip


def main() -> None:
    """Measure and print a table."""
    options = parser(__doc__)
    options.add_argument("--model", choices=("random", "tiny-icl"), default="random")
    all_but_study = [name for name in EXPERIMENTS if name != "study"]
    options.add_argument("--only", nargs="+", choices=EXPERIMENTS, default=all_but_study, help="study takes minutes")
    options.add_argument("--queries", type=int, default=16)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--busy", action="store_true", help="one thread, processor time: where others work as well")
    asked = options.parse_args()
    if asked.busy:
        torch.set_num_threads(1)
    model = model_for(asked)
    prompts = random_prompts(asked.queries) if asked.model == "random" else tiny_icl(model, asked.queries)
    clock = ", processor time" if asked.busy else ""
    print(f"{asked.model}: {model.cfg.n_layers} layers, width {model.cfg.d_model}; {len(prompts)} prompts of up to "
          f"{max(map(len, prompts))} tokens; {torch.get_num_threads()} threads, {model.cfg.device}, "
          f"torch {torch.__version__}; medians of {asked.repeats}{clock}")  # fmt: skip
    print("| experiment | paper's way, s | ours, s | ratio | aim | floor, s |\n|---|---|---|---|---|---|")
    for name in asked.only:
        for one in EXPERIMENTS[name](model, prompts):
            clock_of = time.process_time if asked.busy else time.perf_counter
            paper, ours, floor = measure(one, asked.repeats, clock_of, compare=asked.dtype == "float32")
            least = f"{floor:.4f}" if one.floor else "-"
            print(
                f"| {one.name} | {paper:.3f} | {ours:.4f} | {paper / ours:.1f} | {one.aim or '-'} | {least} |",
                flush=True,
            )


def wait() -> None:
    """Until a GPU, where there is one, has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measure(one: Comparison, repeats: int, clock: Callable[[], float], *, compare: bool) -> tuple[float, float, float]:
    """Median seconds per unit of work of both ways and of the floor, in turns; the ways' results may be compared."""
    seconds: list[list[float]] = [[], [], []]
    for _ in range(repeats):
        found = []
        for way, call in enumerate((one.paper, one.ours)):
            wait()
            start = clock()
            found.append(call())
            wait()
            seconds[way].append(clock() - start)
        if one.floor:
            start = clock()
            one.floor()
            wait()
            seconds[2].append(clock() - start)
        if compare:  # in bfloat16 a saliency is as far from itself on another path
            torch.testing.assert_close(
                found[1].double().cpu(), found[0].double().cpu(), rtol=1e-4,
                atol=one.tolerance * float(found[0].abs().max()),
            )  # fmt: skip
    paper, ours, floor = (statistics.median(of_way) if of_way else 0.0 for of_way in seconds)
    return paper / one.paper_counts, ours / one.ours_counts, floor


if __name__ == "__main__":
    main()
