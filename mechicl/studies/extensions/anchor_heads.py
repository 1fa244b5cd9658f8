"""Which attention heads gather into label words, which read them, and what is lost without them?

The saliency of a head's edges (|A dL/dA|) gives its enrichment. Reading is the saliency of the target's row on label
words, and gathering the saliency in label words' rows, each relative to an average token; random text at matched
positions is the null. A ranking by enrichment is useful only if it holds for other prompts, so we correlate heads'
ranks between prompts with different demonstrations.

Enrichment measures what a head prefers, not how much effect it has. So the k heads to ablate are those with the most
saliency on label words, per edge, beyond that on random text: the first-order effect of these edges, in logits. Their
output is set to zero, or to its mean. Heads are ranked on even-numbered prompts and ablated on odd-numbered ones.
Controls are the same number of other heads: for each, one of four with the nearest output norm, in its layer or, if
fewer than four are left there, in the nearest. They are drawn anew for every seed, and the spread of the draws is part
of every interval. We measure label loyalty, word loyalty and accuracy, and the loss on the prompts' texts, which
separates heads of in-context learning from heads that all prediction needs. If other heads do the same work, nothing
is lost.

Each head is also ablated alone, on a few prompts: how much does the answer's logit drop relative to the other label
words' mean? This covers everything the head does, not only its edges to label words, and other heads may compensate.

Induction and previous-token heads are identified by their scores on repeated random tokens (Olsson et al. 2022). We
measure these scores and count the heads that two top-k lists share. Position 0, the attention sink, counts as neither
label word nor text token, and the scores exclude it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from mechicl.claims import Claim, Evidence
from mechicl.declared import Switch
from mechicl.errors import InputError
from mechicl.hooks import Patch, run
from mechicl.metrics import jaccard
from mechicl.metrics.objective import Objective
from mechicl.models import hooked
from mechicl.patches import AblateHeads
from mechicl.patches.ablate_heads import head_means
from mechicl.probes import HeadEnrichment, TextLoss, TopTokens
from mechicl.prompts import PromptSet, generator_of
from mechicl.results import Result
from mechicl.studies.drawing import Drawing, where
from mechicl.studies.extensions.head_ablations import (
    Heads,
    lost_alone,
    matched_heads,
    output_norms,
    standard_scores,
    top_heads,
)
from mechicl.studies.extensions.heads_figure import heads_panels, overlap
from mechicl.studies.parts import DEMONSTRATION_SET, set_names
from mechicl.studies.summary import by_metric, intervals, mean_with_interval
from mechicl.studies.twins import TWINS, AgainstTwins, against_twins, given

_SOURCE = "beyond Label Words are Anchors, section 2.1"
_LOST = (
    "label loyalty lost to mean ablation, minus the loss from ablating the same number of heads of the same layers "
    "with about the same output norm"
)
READING = Claim(
    "heads-reading", "Predictions depend on the heads that read label words.", _SOURCE, _LOST, "label loyalty", TWINS,
    0.1,
)  # fmt: skip
GATHERING = Claim(
    "heads-gathering", "Predictions depend on the heads that gather into label words.", _SOURCE, _LOST, "label loyalty",
    TWINS, 0.1,
)  # fmt: skip
SAME = Claim(
    "heads-same", "The same heads read label words whatever the demonstrations.", _SOURCE,
    "rank correlation of heads' reading between prompts with other demonstrations", "correlation", TWINS, 0.1,
)  # fmt: skip
KINDS = ("reading", "gathering")
_TOKENS = ("label words", "random text")
_SCORES, _EFFECTS = ("induction", "previous"), ("label_loyalty", "word_loyalty_5", "accuracy", "loss")
_HEAD = (
    *KINDS, "reading_random_text", "gathering_random_text", "reading_effect", "gathering_effect", "lost_alone", *_SCORES
)  # fmt: skip
_LOSS = Objective("logit_difference", "predicted")


@dataclass(frozen=True)
class AnchorHeads(AgainstTwins):
    """Two kinds of rows, by the column `part`.

    "heads", a row per prompt, layer and head: reading and gathering of label words and of random text, times an average
    token; their effects, saliency per edge beyond that of random text, in logits; `lost_alone`, the drop of the
    answer's logit relative to the other label words' mean when this head alone is set to its mean (for the first
    odd-numbered prompts, else NaN); induction and previous-token scores.
    "ablations", a row per odd-numbered prompt, arm (nothing; reading or gathering heads; controls of either, one row
    per draw) and method (zero, mean): gold and predicted class, label loyalty, word loyalty (k = 5), accuracy, and loss
    on the prompt's texts, in nats.
    """

    k: Annotated[int, Switch("Number of heads ablated together; at most half of the model's.", min=1)] = 5
    draws: Annotated[int, Switch("Random draws of control heads.", min=1)] = 3

    alone: Annotated[
        int, Switch("Prompts per demonstration set for ablating each head alone; 0 skips this.", min=0)
    ] = 4

    name = "anchor-heads"
    title = "Heads that gather and read"
    shows = "Reading and gathering of every head, and predictions without the strongest heads."
    source = _SOURCE
    claim = "Which heads gather into label words and read them, and what is lost without them?"
    claims = (READING, GATHERING, SAME)
    no_paper_protocol = "the paper sums over heads"
    gradients = True
    shared_options = {"samples": 32, "demonstrations": "per_prompt"}
    may_lack = (*_HEAD, *_EFFECTS, "gold", "predicted", "head", "layer", "draw")
    each_twin_reads = 8
    least_read = 2

    def passes(self, n_layers: int) -> float:
        # One pass per head, on a few prompts, covers half the layers on average; a layer has about n_layers / 2 heads.
        of_single_heads = self.alone * n_layers**2 / 4 / int(self.shared_options["samples"])
        return 6 + 2 * (1 + self.draws) + of_single_heads

    def is_clean(self, table: pd.DataFrame) -> pd.Series[bool]:
        return (table["weights"] == "as given") & (table["arm"] == "nothing")

    def read(self, model: Any, material: PromptSet, batch_size: int) -> pd.DataFrame:
        if len(material) < 2:
            raise InputError("anchor-heads ranks heads on some prompts and ablates them on others; give two or more.")
        heads = self._heads(model, material, batch_size)
        sizes = hooked(model).sizes
        ranked = heads[heads["prompt"] % 2 == 0].groupby(["layer", "head"])
        shape = (sizes.n_layers, sizes.n_heads)
        score = {kind: ranked[f"{kind}_effect"].mean().to_numpy().reshape(shape) for kind in KINDS}
        even, odd = (material.select(range(start, len(material), 2)) for start in (0, 1))
        means = head_means(model, even, batch_size=batch_size)
        heads = heads.merge(self._lost_alone(model, odd, means), how="left", on=["prompt", "layer", "head"])
        ablations = pd.concat(self._ablations(model, even, odd, score, means, batch_size), ignore_index=True)
        ablations["prompt"] = 2 * ablations["prompt"] + 1
        return pd.concat([heads.assign(part="heads"), ablations.assign(part="ablations")], ignore_index=True)

    def of_twin(self, model: Any, material: PromptSet, batch_size: int) -> pd.DataFrame:
        """Leave out single heads, on which no claim rests."""
        return replace(self, alone=0).read(model, material, batch_size)

    def _heads(self, model: Any, prompts: PromptSet, batch_size: int) -> pd.DataFrame:
        probes = [HeadEnrichment(_LOSS, name, absolute) for absolute in (False, True) for name in _TOKENS]
        readings = run(model, prompts, probes, batch_size=batch_size)
        table, null, effect, effect_of_text = (readings[probe].frame() for probe in probes)
        scores = standard_scores(model)
        return table.assign(
            **{f"{kind}_random_text": null[kind] for kind in KINDS},
            **{f"{kind}_effect": effect[kind] - effect_of_text[kind] for kind in KINDS},
            **{name: of_head[table["layer"], table["head"]] for name, of_head in scores.items()},
            arm="", method="",
        )  # fmt: skip

    def _lost_alone(self, model: Any, odd: PromptSet, means: Float[Tensor, "layer head d_head"]) -> pd.DataFrame:
        """A row per prompt, layer and head, for the first few prompts."""
        first = odd.prompts[: self.alone]
        lost = np.stack([lost_alone(model, prompt, means) for prompt in first]) if first else np.empty((0, 0, 0))
        prompt, layer, head = (place.flatten() for place in np.indices(lost.shape))
        return pd.DataFrame({"prompt": 2 * prompt + 1, "layer": layer, "head": head, "lost_alone": lost.flatten()})

    def _ablations(
        self, model: Any, even: PromptSet, odd: PromptSet, score: Mapping[str, np.ndarray],
        means: Float[Tensor, "layer head d_head"], batch_size: int,
    ) -> Iterator[pd.DataFrame]:  # fmt: skip
        norms = output_norms(model, even, batch_size)
        k, generator = min(self.k, norms.size // 2), generator_of(odd[0].tokens, 0)
        chosen = {kind: top_heads(score[kind], k) for kind in KINDS}
        arms: list[tuple[str, float, Heads]] = []
        for kind, heads in chosen.items():
            others = [one for one in np.ndindex(norms.shape) if one not in heads]
            arms.append((kind, np.nan, heads))
            arms += [(f"{kind} controls", float(draw), matched_heads(heads, norms, others, generator=generator))
                     for draw in range(self.draws)]  # fmt: skip
        clean = self._answers(model, odd, [], batch_size)
        yield _against(clean, clean).assign(arm="nothing", method="")
        for arm, draw, heads in arms:
            for method, values in (("mean", means), ("zero", None)):
                answers = self._answers(model, odd, [AblateHeads(heads, values)], batch_size)
                yield _against(answers, clean).assign(arm=arm, method=method, draw=draw)

    def _answers(self, model: Any, prompts: PromptSet, patches: Sequence[Patch], batch_size: int) -> dict[str, Any]:
        top, loss = TopTokens(min(5, hooked(model).sizes.d_vocab)), TextLoss()
        readings = run(model, prompts, [top, loss], patches, batch_size=batch_size, progress=None)
        return {
            "gold": prompts.gold, "predicted": readings.predicted, "top": readings[top].values,
            "loss": readings[loss]["loss"],
        }  # fmt: skip

    def evidence(self, claim: Claim, table: pd.DataFrame) -> Evidence:
        if claim is SAME:
            if _agreement(given(table)).empty:
                return Evidence.nothing("This claim needs two demonstration sets or more.")
            return against_twins(_agreement, table)
        kind = "reading" if claim is READING else "gathering"
        means = where(given(table), part="ablations", method="mean").groupby("arm")["loss"].mean()
        clean = where(given(table), arm="nothing")["loss"].mean()
        note = (
            f"The loss on texts rises by {means[kind] - clean:.2f} nats without the {kind} heads, by "
            f"{means[f'{kind} controls'] - clean:.2f} without their controls."
        )
        return against_twins(_lost_by[kind], table, controls=_draws(given(table), kind), note=note)

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Means: model, task, shots, metric, part, arm, method, layer, head, mean, low, high, n, seeds.

        For heads: reading, gathering and their nulls (arm and method are empty). For ablations: the effects (layer and
        head are -1). Only for the model as given, not its twins.
        """
        rows = given(table)
        rows = rows.assign(**{name: rows[name].fillna(-1).astype(int) for name in ("layer", "head")})
        place = ("part", "arm", "method", "layer", "head")
        long = by_metric(rows, (*_HEAD, *_EFFECTS), place)
        return mean_with_interval(long, "value", ["model", "task", "shots", "metric", *place])

    def drawing(self, result: Result) -> Drawing:
        summary = result.summary()
        note = f"mean of tasks; k = {self._k(result)}; {intervals(summary)}"
        n_alone = where(summary, metric="lost_alone")["n"]
        note += f"; single heads: {n_alone.max()} prompts per task" if len(n_alone) else ""
        panels = heads_panels(summary)
        widths = (1.0, 1.0) if len(panels) % 2 == 0 else ()  # scores come in pairs
        return Drawing(summary, panels, x_title="", note=note, hover="closest", height=260, widths=widths)

    def tables(self, result: Result) -> dict[str, pd.DataFrame]:
        """Per task, how many of the k highest heads two scores share, and how many are expected by chance."""
        return {f"Heads in common, of the {self._k(result)} highest": overlap(result.summary(), self._k(result))}

    def _k(self, result: Result) -> int:
        heads = where(result.table, part="heads")[["layer", "head"]].drop_duplicates()
        return min(self.k, len(heads) // 2)


def _against(answers: Mapping[str, Any], clean: Mapping[str, Any]) -> pd.DataFrame:
    right = (answers["predicted"] == answers["gold"]).double().where(answers["gold"] >= 0, np.nan)
    return pd.DataFrame({
        "prompt": np.arange(len(right)), "gold": answers["gold"].numpy(), "predicted": answers["predicted"].numpy(),
        "label_loyalty": (answers["predicted"] == clean["predicted"]).double().numpy(),
        "word_loyalty_5": jaccard(answers["top"], clean["top"]).double().numpy(), "accuracy": right.numpy(),
        "loss": answers["loss"].double().numpy(),
    })  # fmt: skip


def _lost(rows: pd.DataFrame, kind: str) -> pd.Series[float]:
    ablated = where(rows, part="ablations", method="mean")
    index = ["seed", DEMONSTRATION_SET, "prompt"]
    table = ablated.assign(seed=ablated["seed"].map(str))
    loyalty: pd.DataFrame = table.pivot_table(
        index=index, columns="arm", values="label_loyalty"
    )  # mean over the controls' draws
    lost: pd.Series[float] = loyalty[f"{kind} controls"] - loyalty[kind]
    return lost


def _draws(rows: pd.DataFrame, kind: str) -> np.ndarray | None:
    """Mean label loyalty under each draw of control heads, without differences between seeds; None for one draw."""
    drawn = where(rows, arm=f"{kind} controls", method="mean")
    means = drawn.pivot_table(index=drawn["seed"].map(str), columns="draw", values="label_loyalty")
    n = means.shape[1]
    if n < 2:
        return None
    within = means.sub(means.mean(axis=1), axis=0) * np.sqrt(n / (n - 1))  # as spread as draws around their true mean
    return np.asarray(within).flatten()


_lost_by = {"reading": lambda rows: _lost(rows, "reading"), "gathering": lambda rows: _lost(rows, "gathering")}


def _agreement(rows: pd.DataFrame) -> pd.Series[float]:
    """Of each prompt, the rank correlation of its heads' reading with that on prompts of other sets.

    Each correlation belongs to two prompts. Prompts' deviations from the mean are therefore doubled (Hoeffding's
    projection), so that an interval over prompts is one of the mean over pairs.
    """
    heads = where(rows, part="heads")
    heads = heads.assign(seed=heads["seed"].map(str), excess=heads["reading"] - heads["reading_random_text"])
    index = ["seed", DEMONSTRATION_SET, "prompt"]
    table = heads.pivot(index=index, columns=["layer", "head"], values="excess")
    sets = set_names(table.index)
    ranks = table.rank(axis=1).to_numpy()
    ranks = ranks - ranks.mean(1, keepdims=True)
    ranks /= np.maximum(np.linalg.norm(ranks, axis=1, keepdims=True), 1e-12)
    other = sets[:, None] != sets
    means = np.where(other, ranks @ ranks.T, 0).sum(1) / np.maximum(other.sum(1), 1)
    agreement: pd.Series[float] = pd.Series(means, table.index)[other.any(1)]
    return 2 * agreement - agreement.mean()
