"""Measure on the shipped model what the defects of the papers' code do; the page `defects.md` shows these numbers.

python docs/defects.py [NAME ...]        (make docs-figures)
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import mechicl as mi
from mechicl.metrics import auroc_by_layer
from mechicl.mlp_neurons import vocabulary_moments
from mechicl.models import blockwise, untrained
from mechicl.studies.stages.lesions import same_string

SEEDS = (42, 43, 44, 45, 46)
MEASURES: dict[str, Callable[..., str]] = {}


def measure(function: Callable[..., str]) -> Callable[..., str]:
    MEASURES[function.__name__] = function
    return function


@measure
def random_control(model: Any, sets: list[Any], text: Any) -> str:
    def loyalty(protocol: str) -> str:
        rows = mi.isolation(model, sets, n_layers=(2,), protocol=protocol).summary()
        rows = rows[(rows["isolated"] == "random tokens") & (rows["where"] == "first")]
        return _by(rows[rows["metric"] == "word_loyalty_5"], "task")

    return f"word loyalty with random tokens isolated in the first two layers: {_both(loyalty)}"


@measure
def word_loyalty_k(model: Any, sets: list[Any], text: Any) -> str:
    rows = mi.isolation(model, sets, n_layers=(2,)).summary()
    rows = rows[(rows["isolated"] == "label words") & (rows["where"] == "first")]
    found = (_by(rows[rows["metric"] == f"word_loyalty_{k}"], "task") for k in (5, 10))
    return "word loyalty with label words isolated in the first two layers: {} at k = 5, {} at k = 10".format(*found)


@measure
def raw_attention(model: Any, sets: list[Any], text: Any) -> str:
    def auroc(protocol: str) -> str:
        rows = mi.studies.deep_layers(model, sets, protocol=protocol).summary()
        return _curve(rows[(rows["metric"] == "AUCROC") & (rows["task"] == sets[0].task)], "layer")

    return f"AUROC by layer, two classes: {_both(auroc)}"


@measure
def class_layout(model: Any, sets: list[Any], text: Any) -> str:
    out = mi.run(model, sets[-1], [probe := mi.probes.LabelAttention()])
    attention = out[probe].values.sum(2)  # [prompt layer class]
    n, layers, classes = attention.shape
    as_read = attention.transpose(1, 2).reshape(n, layers, classes)  # written class by class, read layer by layer
    found = (_numbers(auroc_by_layer(a, out.predicted).values.tolist()) for a in (attention, as_read))
    return "AUROC by layer, four classes, one seed: {} as it is; {} as the notebook reads it".format(*found)


@measure
def position_offset(model: Any, sets: list[Any], text: Any) -> str:
    rows = mi.studies.compression(
        model, sets, kept=("label+template", "template"), positions=("original", "zero"), n_sets=1
    )
    rows = rows.summary()
    rows = rows[(rows["metric"] == "word_loyalty_5") & (rows["method"] == "hidden anchor")]
    rows = rows[rows["kept"] == "label+template"]
    found = (_by(rows[rows["positions"] == where], "task") for where in ("original", "zero"))
    return "word loyalty of the compressed context: {} with the query at its place, {} at position 0".format(*found)


@measure
def union_of_sets(model: Any, sets: list[Any], text: Any) -> str:
    def best(protocol: str) -> str:
        rows = mi.studies.compression(model, sets, kept=("label+template",), positions=("original",), protocol=protocol)
        rows = rows.summary()
        return _by(rows[(rows["metric"] == "label_loyalty") & (rows["method"] == "hidden random, best set")], "task")

    return f"label loyalty of the best of 20 random sets: {_both(best)}"


@measure
def weighting_of_prompts(model: Any, sets: list[Any], text: Any) -> str:
    def share(protocol: str) -> str:
        rows = mi.information_flow(model, sets, protocol=protocol).summary()
        return _by(rows[(rows["metric"] == "S_wp") & (rows["layer"] == 0)], "task")

    return f"share of S_wp in layer 0: {_both(share)}"


@measure
def folded_value_biases(model: Any, sets: list[Any], text: Any) -> str:
    probe = mi.probes.SaliencyFlow()
    folded = mi.load_model("tiny-icl", processing="fold", fold_value_biases=True)
    readings = (mi.run(m, sets[0], [probe])[probe] for m in (model, folded))
    plain, changed = (torch.stack(list(reading.quantities.values()), -1) for reading in readings)
    worst = ((plain - changed).abs().amax((1, 2)) / plain.abs().amax((1, 2))).max()
    return f"S_wp, S_pq and S_ww of one prompt move by up to {worst:.0%} of the prompt's largest"


@measure
def faulty_lens(model: Any, sets: list[Any], text: Any) -> str:
    rows = mi.logit_lens(_folded(), text, authors_lens=True).summary()
    rows = rows[rows["metric"] == "entropy"]
    found = (_curve(rows[rows["lens"] == lens], "point", 2) for lens in ("authors", "corrected"))
    return "entropy in bits by point: {} with their lens, {} with the corrected one".format(*found)


@measure
def mean_of_cells(model: Any, sets: list[Any], text: Any) -> str:
    rows = mi.studies.local_attention(_folded(), text).summary()
    found = (_curve(rows[rows["metric"] == metric], "layer") for metric in ("pooled", "mass_5"))
    return "by layer: {} as the mean of entries, {} as the attention to five tokens".format(*found)


@measure
def shifted_rows(model: Any, sets: list[Any], text: Any) -> str:
    def correlations(folded: Any, corpus: Any) -> str:
        compared = mi.engines.lesion_sweep(folded, corpus.tokens, [mi.patches.Drop(2)], lengths=corpus.lengths)
        loss = compared.loss[0] - compared.base_loss
        stored, aligned = (_correlation(compared.kl[0, :, start:-1], loss[:, : -1 - start]) for start in (1, 0))
        return f"{stored:.2f} instead of {aligned:.2f}"

    return f"correlation of KL and added loss, layer 2 dropped: {_three(correlations)}"


@measure
def one_position_fewer(model: Any, sets: list[Any], text: Any) -> str:
    probes = [mi.probes.LogitLens("authors", only=("entropy",), last=last) for last in (False, True)]
    return f"entropy of the authors' lens at the last point, in bits: {_three(partial(_entropies, probes, -1))}"


@measure
def misfiled(model: Any, sets: list[Any], text: Any) -> str:
    def neurons(folded: Any, corpus: Any) -> str:
        net = blockwise(folded, "misfiled")
        found = vocabulary_moments(net.W_U, (net.W_out(layer) for layer in range(net.sizes.n_layers)), top=1)
        alone = (found.variance > 0.005) & (found.kurtosis <= 10)
        return f"{int(alone.sum())} of {alone.numel()}"

    return f"neurons that would be suppression neurons by their variance alone: {_three(neurons)}"


@measure
def clamped(model: Any, sets: list[Any], text: Any) -> str:
    def bits(folded: Any, corpus: Any) -> str:
        lesions = [mi.patches.Drop(1)]
        with_clamp, without = (
            mi.engines.lesion_sweep(folded, corpus.tokens, lesions, lengths=corpus.lengths, clamped=clamped)
            for clamped in (True, False)
        )
        added = (with_clamp.base_entropy - without.base_entropy)[:, 1:]
        return f"{added[~added.isnan()].mean():.1e}"

    return f"added to the clean model's entropy, in bits: {_three(bits)}"


@measure
def same_strings(model: Any, sets: list[Any], text: Any) -> str:
    def share(folded: Any, corpus: Any) -> str:
        compared = mi.engines.lesion_sweep(folded, corpus.tokens, [mi.patches.Drop(1)], lengths=corpus.lengths)
        both = (same_string(compared, corpus.tokenizer), compared.agreement)
        real = ~compared.agreement[0, :, 1:].isnan()
        by_string, by_id = (one[0, :, 1:][real].mean() for one in both)
        return f"{by_string:.4f} and {by_id:.4f}"

    return f"top-1 agreement by string and by id, layer 1 dropped: {_three(share)}"


@measure
def first_lens_point(model: Any, sets: list[Any], text: Any) -> str:
    probes = [mi.probes.LogitLens(lens, only=("entropy",)) for lens in ("authors", "corrected")]
    return f"entropy at the embedding, in bits: {_three(partial(_entropies, probes, 0))}"


@measure
def position_0_as_key(model: Any, sets: list[Any], text: Any) -> str:
    def share(folded: Any, corpus: Any) -> str:
        rows = mi.studies.local_attention(folded, corpus).table
        layers = rows.groupby("layer")[["pooled", "mass_5"]].mean()
        return f"{layers['pooled'].iloc[-1]:.3f} instead of {layers['mass_5'].iloc[-1]:.3f}"

    return f"in the last layer: {_three(share)}"


def _entropies(probes: list[Any], point: int, model: Any, corpus: Any) -> str:
    """Mean entropy at one point, as two lenses see it."""
    out = mi.run(model, corpus, probes, progress=None)
    return " instead of ".join(f"{out[probe]['entropy'][:, point].mean():.2f}" for probe in probes)


def _three(found: Callable[[Any, Any], str]) -> str:
    """On the shipped model, a real one, and that one untrained."""
    texts = (("tiny-icl", "tiny-icl"), ("smollm2-135m-q4", "pydocs"))
    models = [(mi.load_model(name, processing="fold", fold_value_biases=True), text) for name, text in texts]
    models.append((untrained(models[1][0], 0), "pydocs"))
    values = [
        found(one, mi.load_corpus(one.tokenizer, text, prepend_bos=True, n_ctx=64, tokens=300)) for one, text in models
    ]
    return "{} (tiny-icl), {} (smollm2-135m-q4), {} (the same untrained)".format(*values)


def _folded() -> Any:
    return mi.load_model("tiny-icl", processing="fold", fold_value_biases=True)


def _both(found: Callable[[str], str]) -> str:
    return f"{found('paper')} as in their code, {found('corrected')} corrected"


def _by(rows: pd.DataFrame, column: str) -> str:
    return " and ".join(f"{value:.2f}" for value in rows.sort_values(column)["mean"])


def _curve(rows: pd.DataFrame, x: str, digits: int = 2) -> str:
    return _numbers(rows.sort_values(x)["mean"].tolist(), digits)


def _numbers(values: list[float], digits: int = 2) -> str:
    return " ".join(f"{value:.{digits}f}" for value in values)


def _correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    both = torch.stack([a.flatten(), b.flatten()])
    return float(torch.corrcoef(both[:, both.isfinite().all(0)])[0, 1])


def main() -> None:
    """Measure all, or what is named, and keep the sentences for the page."""
    model = mi.load_model("tiny-icl")
    sets = [mi.load_task(task).prompts(model.tokenizer, samples=64, seed=seed)
            for task in ("tiny-topics-2", "tiny-topics-4") for seed in SEEDS]  # fmt: skip
    text = mi.load_corpus(model.tokenizer, "tiny-icl", prepend_bos=True, n_ctx=256, tokens=8000)
    path = Path(__file__).parent / "pages" / "defects.json"
    found = json.loads(path.read_text()) if sys.argv[1:] else {}
    found |= {name: MEASURES[name](model, sets, text) for name in sys.argv[1:] or MEASURES}
    path.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
