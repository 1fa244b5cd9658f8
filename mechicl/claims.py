"""A paper's claims as data, and the verdicts on them: supported, contradicted or undecided.

A claim names a quantity, its null, and the smallest difference that matters. The verdict follows only from the interval
of that difference; sentences, reports and `--json` are derived from verdicts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float, Shaped

from mechicl.display import card
from mechicl.metrics.resampling import SetInterval, mean_over_sets

Outcome = Literal["supported", "contradicted", "undecided"]
FEWEST = 5
"""Least number of prompts for a decision."""
_OF_SETS = ("demonstration set", "use more seeds (each draws different demonstrations)")
_MORE = {
    "prompts": _OF_SETS, "seeds": ("seed", _OF_SETS[1]),
    "documents": ("document", "use more text, or packing='documents'"),
    "words": ("word", "use more words"), "neurons": ("neuron", "use a larger model"),
    "questions": ("question", "use more documents (limit)"),
    "pairs": ("pair", "use more pairs"), "minibatches": ("minibatch", "use more text"),
    "models": ("model", "use more models"),
}  # fmt: skip
"""For each sampled unit: its singular, and how to get more."""
_ABOUT = ("study", "part", "model", "task", "shots")
"""Columns in which verdicts of one table may differ; a part is one of a reproduction."""


@dataclass(frozen=True)
class Claim:
    """A testable sentence of a paper.

    The effect is the quantity less its null. The claim is supported if the effect is at least `least` and its 95 %
    interval is above 0; contradicted if the interval is below `least`, which excludes an effect that matters (and,
    where the null is another model, if the quantity alone is as small). Otherwise it is undecided, and always if no
    null was measured.
    """

    id: str
    sentence: str
    source: str
    quantity: str
    unit: str
    null: str
    """What the quantity is compared with, in words."""
    least: float
    """The smallest effect that matters, in the unit; positive effects are in the claim's direction."""
    published: str = ""
    """The size that the paper reports, if any."""


@dataclass(frozen=True)
class Evidence:
    """Measurements for a claim: the quantity and its null for each prompt (or document)."""

    values: Float[np.ndarray, " row"]
    null: Float[np.ndarray, " row"] | float | None
    """The null on the same prompts, or a number; None if it was not measured."""
    sets: Shaped[np.ndarray, " row"]
    """The demonstration set, or document, of each row."""
    unit_sampled: Literal[
        "prompts", "documents", "seeds", "words", "neurons", "questions", "pairs", "minibatches", "models"
    ] = "prompts"
    """What a row is; "seeds" where a row is one of many sets of demonstrations of a seed, which share its queries."""
    interval: SetInterval | None = None
    """For an effect that is not a mean of differences (an AUROC, a correlation): the effect and its interval."""
    p: float | None = None
    """For a maximum over layers or heads its p, corrected for testing all of them; or that of a permutation test."""
    p_over: str = "after correction for all layers or heads tested"
    """What p is taken over."""
    p_needs: str = ""
    """What would make p smaller, if it is not more of the sampled unit."""
    alone: SetInterval | None = None
    """The quantity itself, without its null, where the null is another model: a claim is contradicted only if this is
    small, too.
    """
    undecided: str = ""
    """Why the claim cannot be decided, if so: a constant prediction, no errors."""
    note: str = ""
    """Further numbers, in a sentence or a few that name what they are of."""
    limits: Sequence[str] = ()
    """What qualifies the verdict, in sentences: classes that are left out, a single machine."""

    @classmethod
    def nothing(cls, why: str = "", note: str = "", limits: Sequence[str] = ()) -> Evidence:
        """Evidence that leaves a claim undecided, with the reason."""
        return cls(np.empty(0), None, np.empty(0), undecided=why, note=note, limits=limits)


@dataclass(frozen=True)
class Verdict:
    """The verdict on a claim, for one model and task."""

    claim: Claim
    outcome: Outcome
    effect: float = np.nan
    low: float = np.nan
    high: float = np.nan
    n: Mapping[str, int] = field(default_factory=dict)
    """Numbers of demonstration sets and prompts, or documents."""
    null: float | None = None
    """The mean of the null."""
    reason: str = ""
    """For an undecided claim, what would decide it."""
    about: Mapping[str, str] = field(default_factory=dict)
    """Study, protocol, model, task and shots."""
    note: str = ""
    """Further numbers."""
    limits: Sequence[str] = ()
    """What qualifies it, in sentences: a small sample, a document that makes up the effect."""

    def __str__(self) -> str:
        where = f" on {self.about['task']}" if self.about.get("task") else ""
        return f"{self.outcome.capitalize()}{where}: {self.claim.sentence} {self.numbers()}"

    def numbers(self) -> str:
        """Effect, interval, null, and n, in one sentence."""
        if np.isnan(self.effect):
            return self.remarks()
        effect = f"Effect {self.size()} {self.claim.unit} against {self.claim.null}"
        return f"{effect}, n = {self.counts()}. {self.remarks()}".strip()

    def remarks(self) -> str:
        """Why it is undecided, what else qualifies it, and further numbers."""
        return " ".join(filter(None, (self.reason, *self.limits, self.note)))

    def size(self) -> str:
        """Effect and interval; a dash if nothing was measured."""
        if np.isnan(self.effect):
            return "–"
        interval = f"[{self.low:.3g}, {self.high:.3g}]" if np.isfinite(self.low) else "(no interval)"
        return f"{self.effect:+.3g} {interval}"

    def counts(self) -> str:
        """Sample sizes: "4 sets, 64 prompts"."""
        return ", ".join(f"{count} {_singular(name) if count == 1 else name}" for name, count in self.n.items())

    def short(self) -> str:
        """Effect and interval; empty if there is none, or the reason has an interval of its own."""
        return f"({self.size()} {self.claim.unit})" if np.isfinite(self.low) and "[" not in self.reason else ""

    def facts(self) -> dict[str, Any]:
        """Plain values for `--json`; missing numbers are None."""
        value = _plain(self.null)
        null = None if value is None else {"name": self.claim.null, "value": value}
        return {
            "id": self.claim.id, "claim": self.claim.sentence, "source": self.claim.source, **self.about,
            "verdict": self.outcome, "effect": _plain(self.effect), "low": _plain(self.low), "high": _plain(self.high),
            "unit": self.claim.unit, "n": dict(self.n), "null": null,
            "reason": self.reason, "limits": list(self.limits), "note": self.note, "published": self.claim.published,
        }  # fmt: skip

    def _repr_html_(self) -> str:
        rows = [("verdict", self.outcome), ("", self.numbers()), ("source", self.claim.source)]
        return card(self.claim.id, self.claim.sentence, rows)


class Verdicts(tuple[Verdict, ...]):
    """Verdicts of one or more results; a notebook displays them as a table."""

    def outcomes(self) -> str:
        """Counts by outcome: "2 supported, 1 undecided"; empty without a claim."""
        counts = Counter(one.outcome for one in self)
        return ", ".join(f"{counts[outcome]} {outcome}" for outcome in get_args(Outcome) if counts[outcome])

    def rows(self, *, notes: bool = True) -> list[dict[str, str]]:
        """A row of texts per verdict: study, model, task and the like (if they differ), claim, verdict, effect, n.

        The effect is next to the null's value; an undecided verdict says what would decide it. `notes=False` leaves out
        limits and notes.
        """
        differing = [name for name in _ABOUT if len({one.about[name] for one in self if name in one.about}) > 1]
        rows = []
        for one in self:
            about = {name: one.about.get(name, "") for name in differing}
            study = {"study": about.pop("study")} if "study" in about else {}
            about |= {"shots": f"{about['shots']} per class"} if about.get("shots") else {}
            on = ", ".join(filter(None, about.values()))
            null = "" if one.null is None else f" against {one.claim.null} ({one.null:.3g})."
            sentence = one.claim.sentence + (f" Published: {one.claim.published}." if one.claim.published else "")
            numbers = "" if np.isnan(one.effect) else f"{one.size()} {one.claim.unit}{null} "
            effect = (numbers + (one.remarks() if notes else one.reason)).strip()
            rows.append(
                {**study, **({"on": on} if about else {}), "claim": sentence}
                | {"verdict": one.outcome, "effect": effect, "n": one.counts()}
            )
        return rows

    def in_words(self) -> str:
        """Each claim with its outcome, on a single model and task effect and interval, and why it is undecided.

        A reason that was said of a claim on all its models and tasks is not repeated.
        """
        said = list[str]()
        for verdicts in self._of_claims():
            said += [self._in_words(verdicts), *Verdicts(verdicts)._reasons(said)]
        return " ".join(said)

    def _in_words(self, verdicts: Sequence[Verdict]) -> str:
        """One claim with its outcome."""
        varying = _varying(verdicts)
        places: dict[str, list[str]] = {}
        for one in verdicts:
            places.setdefault(one.outcome, []).append(" ".join(one.about[by] for by in varying))
        where = "; ".join(f"{outcome} on {', '.join(on)}" if varying else outcome for outcome, on in places.items())
        numbers = "" if varying else verdicts[0].short()
        return f"{where[0].upper()}{where[1:]}: {verdicts[0].claim.sentence} {numbers}".strip()

    def _reasons(self, said: Sequence[str]) -> list[str]:
        """Why verdicts are undecided, with the models and tasks it holds on if not on all, unless it was said."""
        reasons = self._each_once(lambda one: [one.reason] if one.reason not in said else [])
        return [reason for reason in reasons if reason not in said]

    def _of_claims(self) -> list[list[Verdict]]:
        return [[one for one in self if one.claim == claim] for claim in dict.fromkeys(one.claim for one in self)]

    def limits(self) -> list[str]:
        """What else qualifies verdicts: each text once, with the models and tasks it holds on if not on all."""
        return self._each_once(lambda one: one.limits)

    def notes(self) -> list[str]:
        """Further numbers, likewise."""
        return self._each_once(lambda one: (one.note,))

    def counted_in_words(self) -> str:
        """On how many models each claim is supported; empty for one model."""
        return ""

    def _each_once(self, texts: Callable[[Verdict], Sequence[str]]) -> list[str]:
        varying = _varying(self)

        def place(one: Verdict) -> str:
            return " ".join(one.about[by] for by in varying if by in one.about)

        places: dict[str, dict[str, None]] = {}
        for one in self:
            for text in filter(None, texts(one)):
                places.setdefault(text, {})[place(one)] = None
        everywhere = {place(one) for one in self} - {""}  # a verdict that compares models has none
        return [
            text if on.keys() >= everywhere or any(one in text for one in on) else f"On {', '.join(on)}: {text}"
            for text, on in places.items()
        ]

    def _repr_html_(self) -> str:
        rows = self.rows()
        return card("Claims", self.outcomes(), (list(row.values()) for row in rows), list(rows[0]) if rows else ())

    def __repr__(self) -> str:
        return "\n".join(map(str, self)) or "no claims"


def _varying(verdicts: Sequence[Verdict]) -> list[str]:
    """In which respects verdicts differ."""
    known = ("model", "task", "shots")
    return [by for by in known if len({one.about[by] for one in verdicts if by in one.about}) > 1]


def decide(claim: Claim, evidence: Evidence, about: Mapping[str, str] | None = None) -> Verdict:
    """The verdict that the evidence supports; `about` gives the model and task."""
    about = about or {}
    if not len(evidence.values) or (evidence.undecided and evidence.interval is None):
        why = evidence.undecided or f"The {claim.quantity} was not measured."
        return Verdict(claim, "undecided", reason=why, about=about, note=evidence.note, limits=evidence.limits)
    if evidence.null is None:
        mean = float(np.mean(evidence.values))
        why = f"The {claim.quantity} is {mean:.3g} {claim.unit}; its null, {claim.null}, was not measured."
        return Verdict(claim, "undecided", reason=why, about=about, note=evidence.note, limits=evidence.limits)
    null = np.broadcast_to(np.asarray(evidence.null, dtype=float), np.shape(evidence.values))
    effect = evidence.interval or _beyond(evidence)
    unit = evidence.unit_sampled
    n: dict[str, int] = {"sets": effect.sets, "prompts": effect.n} if unit == "prompts" else {unit: effect.sets}
    outcome, reason = _outcome(claim, effect, evidence)
    if evidence.undecided and not _excluded(claim, evidence):
        outcome, reason = "undecided", evidence.undecided
    if outcome == "contradicted" and evidence.alone is not None and evidence.alone.high >= claim.least:
        size = f"{evidence.alone.mean:.3g} [{evidence.alone.low:.3g}, {evidence.alone.high:.3g}]"
        relation = "lies below" if effect.high <= 0 else "hardly exceeds"
        outcome, reason = "undecided", f"It {relation} its null, {claim.null}, but alone it may matter ({size})."
    if unit == "prompts" and effect.n < FEWEST:
        outcome, reason = "undecided", f"A verdict needs at least {FEWEST} prompts; use more, and several seeds."
    mean, low, high, *_ = effect
    n = {name: int(count) for name, count in n.items()}
    limits = (*evidence.limits, *_dominated(claim, evidence))
    return Verdict(claim, outcome, mean, low, high, n, float(null.mean()), reason, about, evidence.note, limits)


def dominates(share: float, n: int) -> bool:
    """Whether one document, or sequence, of n has so large a share in a result that a reader should know."""
    return share > max(1 / 3, 3 / n)


def _dominated(claim: Claim, evidence: Evidence) -> list[str]:
    """What the effect would be without a document that makes up much of it; empty if there is none."""
    if evidence.unit_sampled != "documents" or evidence.null is None or not len(evidence.values):
        return []
    _, document, size = np.unique(evidence.sets, return_inverse=True, return_counts=True)
    null = np.asarray(evidence.null, dtype=float) if np.ndim(evidence.null) else 0.0
    means = np.bincount(document, weights=np.asarray(evidence.values, dtype=float) - null) / size
    n, largest = len(means), int(np.abs(means).argmax())
    if not dominates(abs(means[largest]) / max(np.abs(means).sum(), 1e-300), n):
        return []
    rest, unit = np.delete(means, largest).mean(), claim.unit
    return [f"Without one of {n} documents, {rest:.3g} instead of {means.mean():.3g} {unit} ({claim.quantity})."]


def _beyond(evidence: Evidence) -> SetInterval:
    """The mean of the values beyond their null.

    A null that is one number, and not measured, is subtracted from the bounds instead of the values, so that shares of
    0 or 1 keep their width.
    """
    null, generator = np.asarray(evidence.null, dtype=float), np.random.default_rng(0)
    if null.ndim:
        return mean_over_sets(evidence.values - null, evidence.sets, generator=generator)
    return mean_over_sets(evidence.values, evidence.sets, generator=generator).less(float(null))


def _excluded(claim: Claim, evidence: Evidence) -> bool:
    """Whether both the effect and the quantity alone are too small to matter, whatever else is unsure."""
    if evidence.alone is None or evidence.interval is None:
        return False
    return max(evidence.alone.high, evidence.interval.high) < claim.least


def _outcome(claim: Claim, effect: SetInterval, evidence: Evidence) -> tuple[Outcome, str]:
    """The outcome for an effect with its interval and p; if undecided, why, and what would decide it."""
    single, more = _MORE[evidence.unit_sampled]
    if np.isnan(effect.low):
        return "undecided", f"There is a single {single}; {more}."
    if effect.high < claim.least:
        return "contradicted", ""
    if effect.low <= 0:
        return "undecided", f"The interval includes 0; {more}."
    if evidence.p is not None and evidence.p > 0.05:
        return "undecided", f"{evidence.p_over.capitalize()}, p = {evidence.p:.2g}; {evidence.p_needs or more}."
    if effect.mean < claim.least:
        return "undecided", f"The effect may be smaller than {claim.least:g} {claim.unit}; {more}."
    return "supported", ""


def _plain(number: float | None) -> float | None:
    """A number for JSON: None if there is none."""
    return float(number) if number is not None and np.isfinite(number) else None


def _singular(name: str) -> str:
    return name.removesuffix("es" if name == "minibatches" else "s")
