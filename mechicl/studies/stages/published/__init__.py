"""Values from the paper and the authors' notebooks, for comparison with measured ones.

Notebook values are read off their figures (attention to about 0.002, entropy 0.05 bits, counts one neuron). The
notebooks ran on other text than ours, so only neuron counts, which need no text, should agree exactly. Values marked as
a replication are from others' runs on WikiText-2. Many claims of the paper have no number; if they name a place (a
depth), we compare the measured place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pandas as pd

from mechicl.results import Result
from mechicl.studies.drawing import where
from mechicl.studies.stages.lesions import late_windows
from mechicl.studies.stages.published import neurons
from mechicl.studies.stages.published.rows import Comparisons, Row, curve, means, model_of, peak
from mechicl.studies.stages.published.values import ATTENTION, ENTROPY, REPLICATED, SUB_JOINER
from mechicl.studies.stages.word_merging import WordMerging


def against_published(results: Sequence[Result]) -> pd.DataFrame:
    """Published and measured values: quantity, place (layer, lens point, depth), published, measured.

    `results` are those of this paper's studies, in both protocols if there are two: notebook values are compared with
    the authors' protocol.
    """
    rows: list[Row] = []
    for result in results:
        followed = result.study.protocol == "paper" or not _has_paper(results, result.name)
        for name, authors, compare in _QUANTITIES:
            if name == result.name and (followed or not authors):
                rows += compare(result)
    table = pd.DataFrame(rows, columns=["quantity", "place", "published", "measured"])
    return table.drop_duplicates(["quantity", "place"], ignore_index=True)


def _has_paper(results: Sequence[Result], name: str) -> bool:
    return any(one.name == name and one.study.protocol == "paper" for one in results)


def _attention(result: Result) -> Comparisons:
    return curve("mean attention to one of the previous five tokens", result, ATTENTION, "pooled")


def _authors_lens(result: Result) -> Comparisons:
    return curve("entropy of the authors' lens (bits)", result, ENTROPY, "entropy", x="point", lens="authors")


def _corrected_lens(result: Result) -> Comparisons:
    lens = where(result.summary(), lens="corrected").set_index(["metric", "point"])["mean"].sort_index()
    if model_of(result) == "gpt2-xl" and len(lens):
        quantity = "entropy of the corrected lens (bits)"
        yield quantity, "point 0", "0.5 (one prompt)", f"{lens['entropy', 0]:.3f}"
        yield quantity, "largest", "3.5 (one prompt)", f"{lens['entropy'].max():.3f}"
        yield "KL(final || corrected lens) (bits)", "point 0", "about 20", f"{lens['kl', 0] / math.log(2):.3f}"


def _repeats(result: Result) -> Comparisons:
    """The paper says that windows in the latter half lower entropy consistently."""
    for row in late_windows(result.summary()).itertuples():
        yield f"{row.kind}: windows that lower entropy", "latter half", "all", f"{row.lower} of {row.n}"


def _sub_joiner(result: Result) -> Comparisons:
    """The authors chose one head by eye, without a score; its rank among all heads is our measurement."""
    if model_of(result) not in SUB_JOINER:
        return
    assert isinstance(result.study, WordMerging)
    heads = where(result.study.heads(result.table), pieces=4).reset_index(drop=True)
    layer, head = SUB_JOINER[model_of(result)]
    for place, one in where(heads, layer=layer, head=head).iterrows():
        measured = f"rank {int(str(place)) + 1} of {len(heads)}, AUROC {one['auroc']:.2f}"
        yield "sub-joiner head, words of 4 tokens", f"L{layer}.H{head}", "chosen by eye", measured
        bias = f"{one['first_bias']:+.2f}"
        yield "its attention to the first token less the others'", f"L{layer}.H{head}", "above 0", bias


def _largest_norm(result: Result) -> Comparisons:
    norm = means(result, "mlp" if result.study.protocol == "paper" else "mlp_norm")
    yield "norm of the MLPs' output is largest", "depth", "in the last layers", peak(norm)


def _best_probe(result: Result) -> Comparisons:
    yield "word in context is classified best", "depth", "in the middle", peak(means(result, "probe", x="point"))


def _best_window(result: Result) -> Comparisons:
    scores = where(result.summary(), benchmark="hellaswag", metric="acc_norm")
    repeats = scores[scores["kind"].str.startswith("repeat")]
    if len(repeats):
        last = max(1, int(where(scores, kind="drop")["layer"].max()))
        best = repeats.sort_values("mean").iloc[-1]
        yield "the best window to repeat begins", "depth", "0.8-0.9", f"{best['layer'] / last:.2f}"


def _seconds(published: str) -> Callable[[Result], Comparisons]:
    def compare(result: Result) -> Comparisons:
        seconds, text = result.provenance.get("seconds"), result.provenance.get("text", {})
        if seconds is not None:
            measured = f"{seconds:.0f} s for {text.get('tokens', 0)} tokens (finished parts are read, not run)"
            yield f"time of {result.name}", "whole study", published, measured

    return compare


def _agreement(result: Result) -> Comparisons:
    """Top-1 agreement over the middle half of the layers, and, if published, over the first and last eighth."""
    middle_published, edges_published = REPLICATED.get(model_of(result), (None, None))
    for kind in ("drop", "swap"):
        same = means(result, "agreement", kind=kind)
        if not len(same):
            continue
        n = int(same.index.max()) + 1
        middle = same[(same.index >= n // 4) & (same.index <= n - 1 - n // 4)].mean()
        quantity, published = f"same most probable token, {kind}", "0.72-0.95 (the paper's abstract)"
        if kind == "drop" and middle_published is not None:
            published += f"; {middle_published} (a replication)"
        yield quantity, "middle half", published, f"{middle:.3f}"
        if kind == "drop" and edges_published is not None:
            edge = max(1, round(n / 8))
            edges = same[(same.index < edge) | (same.index >= n - edge)].mean()
            yield quantity, "first and last eighth", f"{edges_published} (a replication)", f"{edges:.3f}"


_QUANTITIES: tuple[tuple[str, bool, Callable[[Result], Comparisons]], ...] = (
    ("local-attention", True, _attention),
    ("local-attention", True, _seconds("for 100 documents, one GPU: 8-33 s (GPT-2), 1-5.5 min (Pythia, Phi)")),
    ("word-merging", False, _sub_joiner),
    ("logit-lens", True, _authors_lens),
    ("logit-lens", False, _corrected_lens),
    ("neurons", False, neurons.counts),
    ("neurons", False, neurons.densities),
    ("neurons", False, neurons.entropy_neurons),
    ("voting", True, neurons.voters),
    ("layer-lesions", True, _agreement),
    ("layer-lesions", False, _repeats),
    ("layer-lesions", True, _seconds("8 h for 1M tokens and one kind of ablation (two A6000)")),
    ("norms", False, _largest_norm),
    ("wic", False, _best_probe),
    ("benchmarks", False, _best_window),
)
"""Study, whether the published values belong to the authors' protocol, and the comparison."""
