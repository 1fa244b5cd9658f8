"""Activation patching at label words: what do they carry, to whom, and in which layers?

*Label Words are Anchors* cuts attention and correlates it with predictions; we transplant activations. A clean prompt
and its twin differ only in the demonstrations' label words: in the twin, each class's demonstrations carry the next
class's word. The logit difference is the logit of the clean prompt's answer less the mean of the other label words'
logits. Layer by layer, we copy activations at one kind of token from the clean run into the twin: residual, attention
output, MLP output, or keys and values. The share of the logit difference that this restores measures what these tokens
carry there. The map is computed twice: to first order (gradient times difference, one backward pass), and exactly.

Then we transplant whole sets: the keys and values of a kind of token in all layers at once. If predictions follow the
transplanted label words (sufficient), and the clean prompt loses its answer when it gets the twin's label words
(necessary), class information flows through the label words and not through later tokens that have read them.

Only label words differ between the two prompts, so everything before the first label word is the same in both and
restores nothing by construction; position 0 belongs to no kind. With random weights, too, most of the difference passes
through label words, so a share alone proves nothing. The claims count predictions that follow, against the same number
of random text tokens at matched positions, and compare the model with its untrained twins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mechicl.claims import Claim, Evidence
from mechicl.declared import Switch
from mechicl.engines.attribution import attributed
from mechicl.engines.patching import SITES, TARGET, Site, Transplant, transplanted
from mechicl.engines.prefix import run_shared, shared_demonstrations
from mechicl.metrics.objective import Objective
from mechicl.models import Adapter, hooked
from mechicl.probes.enrichment import TOKEN_SETS, token_sets
from mechicl.prompts import Prompt, PromptSet
from mechicl.results import Result
from mechicl.studies.drawing import Drawing, where
from mechicl.studies.extensions.exchanged_labels import with_exchanged_labels
from mechicl.studies.extensions.patching_figure import patching_panels
from mechicl.studies.parts import DEMONSTRATION_SET
from mechicl.studies.summary import intervals, mean_with_interval
from mechicl.studies.twins import TWINS, AgainstTwins, against_twins, given

_SOURCE = "beyond Label Words are Anchors, sections 2.1 and 2.2"
LABELS, RANDOM = "label words", "random text"
KINDS = (LABELS, "separators", "text", RANDOM, "target")
"""In the order of the map's columns."""
ALL_LAYERS = -1
"""In the column `layer`."""
INTO_TWIN, INTO_CLEAN = "clean into twin", "twin into clean"
_FOLLOWING = "share of prompts with the clean answer, minus the same with random text tokens transplanted"
SUFFICIENT = Claim(
    "patching-sufficient", "Predictions follow the transplanted label words.", _SOURCE, _FOLLOWING, "of prompts", TWINS,
    0.1,
)  # fmt: skip
NECESSARY = Claim(
    "patching-necessary", "Without the prompt's own label words, the model no longer gives the clean answer.",
    _SOURCE, "share of prompts whose answer changes, minus the same with random text tokens transplanted", "of prompts",
    TWINS, 0.1,
)  # fmt: skip
DEEP = Claim(
    "patching-read-deep", "Label words are read in deep layers.", _SOURCE,
    "logit difference that their clean keys and values restore, layer by layer: the second half of the layers less the "
    "first", "of the logit difference", TWINS, 0.2,
)  # fmt: skip
_LOSS = Objective("logit_difference")


@dataclass(frozen=True)
class AnchorPatching(AgainstTwins):
    """A row per prompt, direction, site, kind of token and layer (-1: all layers at once).

    Gold, clean and twin answer; gap: logit difference between clean and twin; change: how far the transplant moves it
    towards the source prompt, in logits, and the resulting answer; attributed: change to first order (map only).
    """

    sites: Annotated[
        tuple[Site, ...], Switch("What is patched in single layers: resid_post, attn_out, mlp_out, keys_values.")
    ] = SITES

    exact: Annotated[int, Switch("Prompts per set for the exact map; the first-order map uses all prompts.", min=1)] = 8

    name = "anchor-patching"
    title = "What label words carry"
    shows = "Activation patching of label words and other tokens, by layer: how much of the answer is restored."
    source = _SOURCE
    claim = "Do predictions follow transplanted label words, and fail without them?"
    claims = (SUFFICIENT, NECESSARY, DEEP)
    no_paper_protocol = "the paper transplants nothing"
    gradients = True
    shared_options = {"samples": 32, "demonstrations": None}
    may_lack = ("attributed", "change", "answer")
    each_twin_reads = 8

    def passes(self, n_layers: int) -> float:
        return len(self.sites) * len(KINDS) * n_layers / 6 + 4  # one pass over the demonstrations serves many queries

    def is_clean(self, table: pd.DataFrame) -> pd.Series[bool]:
        """One row of each prompt."""
        names = ["weights", "seed", DEMONSTRATION_SET, "prompt", "task"]
        return (table["weights"] == "as given") & ~table.duplicated([name for name in names if name in table])

    def read(self, model: Any, material: PromptSet, batch_size: int) -> pd.DataFrame:
        return self._read(model, material, self.sites, batch_size)

    def of_twin(self, model: Any, material: PromptSet, batch_size: int) -> pd.DataFrame:
        return self._read(model, material, ("keys_values",), batch_size, (LABELS, RANDOM))

    def _read(
        self, model: Any, prompts: PromptSet, sites: Sequence[Site], batch_size: int, kinds: Sequence[str] = KINDS
    ) -> pd.DataFrame:
        """Both prompts with the clean prompt's answer as their gold class, for the objective."""
        predicted = run_shared(model, prompts, batch_size=batch_size, progress=None).label_logits.argmax(-1).tolist()
        clean = [replace(prompt, gold=answer) for prompt, answer in zip(prompts, predicted, strict=True)]
        twins = [with_exchanged_labels(prompt) for prompt in clean]
        tables, n_exact = [], min(self.exact, len(prompts))
        for group in shared_demonstrations(prompts):
            base, source = [twins[i] for i in group], [clean[i] for i in group]
            positions = positions_of(clean[group[0]])
            chosen = {kind: positions[kind] for kind in kinds if positions[kind]}
            exact = [place for place, i in enumerate(group) if i < n_exact]
            parts = _measured(hooked(model), base, source, chosen, sites, exact, batch_size)
            rows = pd.concat(parts, ignore_index=True)
            rows["prompt"] = np.take(group, rows["prompt"])
            tables.append(rows)
        table = pd.concat(tables, ignore_index=True)
        table.insert(1, "gold", prompts.gold.numpy()[table["prompt"]])
        table.insert(2, "predicted", np.take(predicted, table["prompt"]))
        return table.sort_values("prompt", kind="stable", ignore_index=True)

    def evidence(self, claim: Claim, table: pd.DataFrame) -> Evidence:
        if missing := {LABELS, RANDOM} - set(table["kind"]):
            return Evidence.nothing(f"These prompts mark no tokens as {' or '.join(sorted(missing))}.")
        if claim is DEEP:
            if table["layer"].max() < 1 or "keys_values" not in set(given(table)["site"]):
                return Evidence.nothing("This claim needs the site keys_values, and a model of two layers or more.")
            return against_twins(_deep, table)
        changed = given(table)["predicted"] != given(table)["twin_answer"]
        note = f"Exchanged labels change {changed.mean():.0%} of the answers."
        return against_twins(_follows if claim is SUFFICIENT else _loses, table, note=note)

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """Means: model, task, shots, metric, direction, site, kind, layer (-1: all), mean, low, high, n, seeds.

        `restored`: share of the logit difference that moves towards the source prompt, a ratio of sums over prompts;
        `attributed`: the same to first order; `clean_answer`: share of prompts that give it. Only for the model as
        given.
        """
        rows = given(table)
        rows = rows[rows["gap"] != 0]
        weight, sign = rows["gap"].abs(), np.sign(rows["gap"])
        by = ["model", "task", "shots", "metric", "direction", "site", "kind", "layer"]
        right = (rows["answer"] == rows["predicted"]).astype(float).where(rows["answer"].notna())
        parts = [
            rows.assign(metric="restored", value=rows["change"] * sign / weight, weight=weight),
            rows.assign(metric="attributed", value=rows["attributed"] * sign / weight, weight=weight),
            rows.assign(metric="clean_answer", value=right, weight=1.0),
        ]
        known = pd.concat([part[part["value"].notna()] for part in parts], ignore_index=True)
        return mean_with_interval(known, "value", by, weight="weight")

    def drawing(self, result: Result) -> Drawing:
        """One map per site, to first order and exact; and the answers with whole sets transplanted."""
        summary = result.summary()
        return Drawing(
            summary, patching_panels(summary, self.sites, KINDS), x="kind", x_title="", hover="closest", height=190,
            note=f"share of the logit difference; mean of tasks; {intervals(summary)}",
        )  # fmt: skip

    def tables(self, result: Result) -> dict[str, pd.DataFrame]:
        return {"Correlation of first order and exact, over layers and kinds": agreement(given(result.table))}

    def details(self, result: Result) -> list[str]:
        table = agreement(given(result.table))
        sizes = ", ".join(
            f"{site} {r:.2f}" for site, r in table.groupby("site", sort=False)["correlation"].mean().items()
        )
        return [*super().details(result), f"Correlation of the first-order map with the exact one: {sizes}."]


def positions_of(prompt: Prompt) -> dict[str, tuple[int, ...]]:
    """The tokens of each kind, none for a kind that is not marked; position 0, a common attention sink, is in none.

    Random text has as many tokens as the label words: a match for each label word, and for its further sub-tokens the
    text tokens nearest to them, as far as there are any.
    """
    labels = prompt.label_positions
    matched = set(token_sets(prompt)[TOKEN_SETS.index(RANDOM)]) - set(labels)
    others = set(prompt.w) - matched - {0}
    nearest = sorted(others, key=lambda place: (min(abs(place - label) for label in labels), place))
    matched |= set(nearest[: max(0, len(labels) - len(matched))])
    kinds = (labels, prompt.separator_positions, prompt.w, tuple(sorted(matched)))
    return {kind: tuple(place for place in places if place) for kind, places in zip(KINDS, kinds, strict=False)} | {
        "target": (TARGET,)
    }


def _measured(
    net: Adapter, twins: Sequence[Prompt], clean: Sequence[Prompt], kinds: Mapping[str, tuple[int, ...]],
    sites: Sequence[Site], exact: Sequence[int], batch_size: int,
) -> Iterator[pd.DataFrame]:  # fmt: skip
    """The map, and whole sets in both directions, for prompts with the same demonstrations."""
    sites = [site for site in sites if site != "mlp_out" or net.sizes.d_mlp]
    layers, nothing = tuple(range(net.sizes.n_layers)), Transplant("keys_values", (0,), ())
    inside = [kind for kind in kinds if kinds[kind] != (TARGET,)]
    sets = [("keys_values", kind, ALL_LAYERS) for kind in inside]
    whole = [nothing, *(Transplant("keys_values", layers, kinds[kind]) for kind in inside)]
    into_twin = transplanted(net, twins, clean, whole, batch_size=batch_size)
    back = transplanted(net, clean, twins, whole, batch_size=batch_size)
    answers = torch.tensor([prompt.gold for prompt in clean])
    ends = {
        "twin_answer": into_twin[:, 0].argmax(-1),
        "gap": (_ahead(back, answers) - _ahead(into_twin, answers))[:, 0],
    }
    for direction, logits in ((INTO_TWIN, into_twin), (INTO_CLEAN, back)):
        yield _rows(logits, sets, answers, ends, direction).assign(attributed=np.nan)

    places = [(site, kind, layer) for site in sites for kind in kinds for layer in layers]
    single = torch.full((len(clean), 1 + len(places), into_twin.shape[2]), torch.nan)
    if exact:
        transplants = [nothing, *(Transplant(site, (layer,), kinds[kind]) for site, kind, layer in places)]
        base, source = ([prompts[i] for i in exact] for prompts in (twins, clean))
        single[list(exact)] = transplanted(net, base, source, transplants, batch_size=batch_size)
    first = torch.stack([
        attributed(net, twin, one, [*kinds.values()], sites=sites, objective=_LOSS).transpose(1, 2).flatten()
        for twin, one in zip(twins, clean, strict=True)
    ])  # fmt: skip
    yield _rows(single, places, answers, ends, INTO_TWIN).assign(attributed=-first.flatten().double().numpy())


def _ahead(logits: Tensor, answers: Tensor) -> Tensor:
    """Logit of the clean answer less the mean of the others: [prompt transplant]."""
    return -torch.stack([_LOSS(one, answers) for one in logits.unbind(1)], 1)


def _rows(
    logits: Tensor, places: Sequence[tuple[str, str, int]], answers: Tensor, facts: Mapping[str, Tensor], direction: str
) -> pd.DataFrame:
    """A row per prompt and place; the first transplant changes nothing."""
    ahead, n = _ahead(logits, answers).double(), len(places)
    towards = 1 if direction == INTO_TWIN else -1
    columns = {
        name: np.tile(values, len(logits))
        for name, values in zip(("site", "kind", "layer"), zip(*places, strict=True), strict=True)
    }
    columns |= {name: values.numpy().repeat(n) for name, values in facts.items()}
    changes = towards * (ahead[:, 1:] - ahead[:, :1]).flatten().numpy()
    answer = logits[:, 1:].argmax(-1).flatten().numpy().astype(float)
    answer[np.isnan(changes)] = np.nan  # prompts with only a first-order map
    prompt = np.arange(len(logits)).repeat(n)
    return pd.DataFrame({"prompt": prompt, "direction": direction, **columns, "change": changes, "answer": answer})


def _by_kind(rows: pd.DataFrame, direction: str) -> pd.DataFrame:
    """Whether each prompt gives the clean answer with a whole set transplanted; a column per kind."""
    whole = where(rows, direction=direction, layer=ALL_LAYERS)
    right = (whole["answer"] == whole["predicted"]).astype(float)
    table = whole.assign(seed=whole["seed"].map(str), right=right)
    return table.pivot(index=["seed", DEMONSTRATION_SET, "prompt"], columns="kind", values="right")


def _follows(rows: pd.DataFrame) -> pd.Series[float]:
    right = _by_kind(rows, INTO_TWIN)
    return right[LABELS] - right[RANDOM]


def _loses(rows: pd.DataFrame) -> pd.Series[float]:
    right = _by_kind(rows, INTO_CLEAN)
    return right[RANDOM] - right[LABELS]


def _deep(rows: pd.DataFrame) -> pd.Series[float]:
    """Relative to the mean size of the logit difference, so prompts that hardly differ from their twin count little."""
    single = where(rows, direction=INTO_TWIN, site="keys_values", kind=LABELS)
    single = single[(single["layer"] >= 0) & single["change"].notna()].assign(seed=single["seed"].map(str))
    side = np.sign(single["layer"] - single["layer"].max() / 2)  # an exact middle layer counts for neither half
    value = single["change"] * np.sign(single["gap"]) * side
    sums: pd.Series[float] = value.groupby([single[name] for name in ("seed", DEMONSTRATION_SET, "prompt")]).sum()
    return sums / max(float(single["gap"].abs().mean()), 1e-12)


def agreement(table: pd.DataFrame) -> pd.DataFrame:
    """Pearson's correlation of the first-order map with the exact one, over layers and kinds: a row per site.

    Both maps are means over the prompts that have an exact one.
    """
    rows = table[(table["layer"] >= 0) & table["change"].notna()]
    rows = rows.assign(**{name: rows[name] * np.sign(rows["gap"]) for name in ("change", "attributed")})
    index = ["model", "task", "shots", "site", "kind", "layer"]
    means = rows.groupby(index, sort=False)[["change", "attributed"]].mean()
    found = [
        {**dict(zip(index[:4], place, strict=True)), "correlation": one["change"].corr(one["attributed"])}
        for place, one in means.groupby(level=index[:4], sort=False)
    ]
    return pd.DataFrame(found, columns=[*index[:4], "correlation"])
