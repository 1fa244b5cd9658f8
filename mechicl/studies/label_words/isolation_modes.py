"""Isolation in several modes: demonstrations to exchange with, and one verdict over all modes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from mechicl.claims import Verdict
from mechicl.engines.prefix import shared_demonstrations
from mechicl.hooks import Patch, run
from mechicl.probes import LabelNorms
from mechicl.prompts import Prompt, PromptSet
from mechicl.studies.parts import Part

_OTHERS = "other_demonstrations"
"""Name of a set's auxiliary prompt: one of the same task with other demonstrations."""
IN_WORDS = {
    "presoftmax": "cut before the softmax", "presoftmax_keep_0": "edge to position 0 kept",
    "postsoftmax_zero": "zeroed after the softmax", "postsoftmax_renorm": "renormalised after the softmax",
    "exchange": "exchanged with another set",
}  # fmt: skip
"""What each mode does, for legends."""
_EXCHANGE = "exchange"
_EXCHANGED = {
    "supported": "Exchanging label words with those of the same class in another set changes predictions more than the "
    "control does, so label words carry more than their class.",
    "contradicted": "Exchanging label words with those of the same class in another set changes predictions hardly "
    "more than the control does, so label words carry little beyond their class.",
}
"""What the verdict on exchanged label words says about them."""
_SETS_FOR_NORMS = 8
"""Number of demonstration sets over which norms are averaged."""


def with_other_sets(parts: Sequence[Part]) -> list[Part]:
    """Prompt sets, each with a prompt of the set before it (same task and shots); the first has one of the second."""
    tasks: dict[tuple[Any, ...], list[Part]] = {}
    for part in parts:
        tasks.setdefault((part.labels["task"], part.labels["shots"]), []).append(part)
    given = []
    for part in parts:
        same = tasks[part.labels["task"], part.labels["shots"]]
        number, own = next(i for i, one in enumerate(same) if one is part), part.material
        other = same[number - 1 if number else min(1, len(same) - 1)].material
        assert isinstance(own, PromptSet)
        assert isinstance(other, PromptSet)
        if other is not own:
            of_another = replace(other.select([0]), auxiliary={})
            own = replace(own, auxiliary={**own.auxiliary, _OTHERS: of_another})
        given.append(replace(part, material=own))
    return given


def donors(prompts: PromptSet) -> dict[Prompt, Prompt]:
    """For each prompt one with other demonstrations: from the set before among the prompts, or an auxiliary prompt.

    Empty if there is none, or if too few tokens are known to be text, because like is exchanged with like.
    """
    groups = shared_demonstrations(prompts)
    others = [prompts[group[0]] for group in groups]
    if len(groups) == 1:
        others = list(prompts.auxiliary.get(_OTHERS, ()))
    if not all(0 < len(prompt.anchors) <= len(prompt.w) for prompt in (*prompts, *others)):
        return {}
    return {prompts[i]: others[number - 1] for number, group in enumerate(groups) for i in group if others}


def norms_after(model: Any, prompts: PromptSet, patches: Sequence[Patch], n_layers: int) -> dict[str, float]:
    """Mean norms of resid_post after this many layers, at label words and at position 0; empty without label words.

    They depend only on the demonstrations, so one prompt per set is enough.
    """
    sets = [group[0] for group in shared_demonstrations(prompts) if prompts[group[0]].anchors][:_SETS_FOR_NORMS]
    if not sets:
        return {}
    probe = LabelNorms()
    reading = run(model, prompts.select(sets), [probe], patches, progress=None)[probe]
    return {name: float(values[:, n_layers - 1].mean()) for name, values in reading.quantities.items()}


def in_every(found: Mapping[str, Verdict], warning: str) -> Verdict:
    """The first verdict, if the others agree: a claim is supported only if its interval lies above 0 in all that cut.

    It is contradicted only if none of the others supports it. An exchange cuts nothing, so it is reported and does not
    decide: it shows whether label words carry more than their class.
    """
    (mode, verdict), *others = found.items()
    if not others or np.isnan(verdict.effect):
        return verdict
    sizes = "; ".join(f"{name} {one.size()}" for name, one in found.items())
    exchanged = _EXCHANGED.get(found[_EXCHANGE].outcome, "") if _EXCHANGE in dict(others) else ""
    quantity, unit = verdict.claim.quantity, verdict.claim.unit
    by_mode = f"{quantity[0].upper()}{quantity[1:]}, in shares {unit}, by mode: {sizes}."
    limits = (*verdict.limits, *filter(None, [exchanged, warning]))
    verdict = replace(verdict, note=" ".join(filter(None, [verdict.note, by_mode])), limits=limits)
    others = [(name, one) for name, one in others if name != _EXCHANGE]
    opposite = {"supported": "contradicted", "contradicted": "supported"}.get(verdict.outcome)
    contrary = [name for name, one in others if one.outcome == opposite]
    unsure = [name for name, one in others if not one.low > 0] if verdict.outcome == "supported" else []
    if contrary:
        why = f"Modes disagree: {verdict.outcome} in {mode}, {opposite} in {', '.join(contrary)}."
    elif unsure:
        named = " and ".join(filter(None, [", ".join(unsure[:-1]), unsure[-1]]))
        why = f"The interval includes 0 in {named}; use more seeds."
    return replace(verdict, outcome="undecided", reason=why) if contrary or unsure else verdict


def sinks(norms: pd.DataFrame, modes: Mapping[str, str], n_layers: int) -> str:
    """A warning if the cut brings the label words' norm nearer to that of position 0 than to their clean one.

    `norms` has label_norm and first_norm of each arm, including "nothing"; `modes` gives each arm's mode.
    """
    clean, first = norms.loc["nothing", ["label_norm", "first_norm"]].to_numpy(float)
    cut = {str(arm): float(norm) for arm, norm in norms["label_norm"].drop("nothing").items()}
    jumps = [f"{norm:.0f} ({modes[arm]})" for arm, norm in cut.items() if norm**2 > clean * first > 2 * clean**2]
    if not jumps:
        return ""
    return (
        f"After {n_layers} isolated layers the norm of label words is {', '.join(jumps)}, against {clean:.0f} in the "
        f"clean run and {first:.0f} at position 0. Such a cut makes label words attention sinks, which may cause part "
        "of the effect."
    )
