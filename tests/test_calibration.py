"""Untrained models know nothing: whatever a study finds supported on them is a false alarm, and these must be rare."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from mechicl.claims import Verdict
from mechicl.corpora import TokenCorpus, load_corpus
from mechicl.studies import STUDIES, Study
from mechicl.tasks import Task
from tests import claiming, tiny
from tests.contract.catalogue import TASK, TEXTS

FAMILIES = ("gpt2", "neox", "llama", "qwen2", "opt")
MODEL_SEEDS = (0, 1, 2)
EVERYDAY = {"families": ("gpt2", "neox", "llama"), "seeds": (0, 1)}
SETS, PROMPTS = (42, 43, 44, 45), {"deep-layers": 16, "isolation": 4, "anchor-heads": 4}
"""Demonstration sets, and prompts of each: 2, but more where they cost little."""
SWITCHES: Mapping[str, Mapping[str, Any]] = {
    "isolation": {"n_layers": (1,)},
    "reweighting": {"epochs": 1, "per_class": 1, "more_shots": 0},
    "compression": {"positions": ("original",), "n_sets": 2},
    "anchor-sweep": {"windows": (1,)},
    "error-diagnosis": {"components": (1,), "contexts": 4},
    "layer-lesions": {"kinds": ("drop", "swap", "repeat"), "windows": (1,), "positions": ("all",)},
    "cka": {"minibatch": 8},
    "causal-stages": {"bands": 2, "draws": 2},
    "anchor-patching": {"sites": ("keys_values",), "exact": 2},
    "anchor-heads": {"k": 2, "draws": 2},
    "shot-sweep": {"counts": (1, 2)},
}
"""What makes a study small; a full grid has the defaults."""
FULL: Mapping[str, Mapping[str, Any]] = {"isolation": {"n_layers": (1,)}}
"""But for what a model of three layers cannot have."""
BEYOND = tuple(name for name, study in STUDIES.items() if study.__module__.startswith("mechicl.studies.extensions"))
"""What neither paper has: dear, and so everyday on fewer models."""
OF_TIME = ("compression-speed", "compression-speed-prefix")
"""Claims about time, which follows from sizes: untrained weights are as fast."""
pytestmark = pytest.mark.filterwarnings("ignore:The tokenizer spells")
Pair = tuple[str, str, int]
"""Claim, family and seed of the model."""


def studies(small: bool, reads: Sequence[str] = ("prompts",)) -> list[Study]:
    """Every study that answers claims on what it reads; small without the timing (re-weighting has its accuracies).

    Voting, word identity, parts of speech, sub-joiners and the inner lexicon need more words than tiny texts have.
    """
    left_out = (
        "voting",
        "inner-lexicon",
        "word-identity",
        "part-of-speech",
        "joiner-ablation",
        *(("compression-speed",) if small else ()),
    )
    answering = [one for one in STUDIES.values() if one.claims and one.reads in reads and one.name not in left_out]
    switches = SWITCHES if small else FULL
    return [study(**switches.get(study.name, {})) for study in answering]


@cache
def larger_task() -> Task:
    """Enough of each class for the defaults of every study."""
    classes = list(TASK.label_words)
    rows = [{"text": text + "!" * n, "label": classes[(i + n) % 4]} for i, text in enumerate(TEXTS) for n in range(8)]
    return replace(TASK, source={"train": rows, "test": [{**row, "text": f"so {row['text']}"} for row in rows]})


@cache
def text() -> TokenCorpus:
    """Words of one token and of several in random order; a document is a sequence."""
    draw = np.random.default_rng(0)
    words = ["good", "bad", "film", "World", "dull film", "ax", "bxy", "Sports", "fine"]
    documents = [" ".join(words[i] for i in draw.integers(0, len(words), 24)) for _ in range(8)]
    return load_corpus(tiny.tokenizer(), documents, prepend_bos=True, n_ctx=40, packing="documents")


@cache
def untrained(family: str, seed: int) -> Any:
    """A tiny model at its own initialisation."""
    from mechicl.models.convert import convert
    from mechicl.models.processing import Processing
    from mechicl.models.tokenizers import give_tokenizer

    model = convert(tiny.initialised(family, seed), Processing.named("none"), name=f"untrained-{family}-{seed}")
    give_tokenizer(model, tiny.tokenizer())
    return model


def verdicts_on_untrained(
    studies: Sequence[Study],
    prompts: Mapping[str, int],
    families: Sequence[str] = FAMILIES,
    seeds: Sequence[int] = MODEL_SEEDS,
    task: Task = TASK,
) -> dict[Pair, list[Verdict]]:
    """The verdicts of every claim on every untrained model; `prompts` are those of a set, by study."""
    found: dict[Pair, list[Verdict]] = {}
    for study in studies:
        material: Any = text() if study.reads == "text" else None
        if study.reads == "prompts":
            n = prompts.get(study.name, 2)
            material = study.prompt_sets(task, tiny.tokenizer(), seeds=SETS, samples=n, shots=1, n_ctx=512)
        for family in families:
            for seed in seeds:
                verdicts = study.run(untrained(family, seed), material).claims
                for verdict in (one for one in verdicts if one.claim.id not in OF_TIME):
                    found.setdefault((verdict.claim.id, family, seed), []).append(verdict)
    return found


def outcomes(found: Mapping[Pair, Sequence[Verdict]]) -> dict[Pair, list[str]]:
    return {pair: [verdict.outcome for verdict in verdicts] for pair, verdicts in found.items()}


def false_alarms(found: Mapping[Pair, Sequence[str]]) -> str:
    """Why verdicts on untrained models are too often "supported"; nothing where they are rare."""
    supported = [pair for pair, verdicts in found.items() if "supported" in verdicts]
    twice = [pair for pair, n in Counter((claim, family) for claim, family, _ in supported).items() if n > 1]
    if twice:
        return f"supported on two seeds of one architecture: {twice}"
    rare = len(supported) <= 0.05 * len(found)
    return "" if rare else f"{len(supported)} of {len(found)} pairs are supported: {supported}"


@pytest.mark.parametrize("grid", [EVERYDAY, pytest.param({}, marks=pytest.mark.thorough)], ids=["few", "all"])
def test_untrained_models_support_next_to_nothing(grid: Mapping[str, Any]) -> None:
    of_the_papers = [study for study in studies(small=True) if study.name not in BEYOND]
    assert false_alarms(outcomes(verdicts_on_untrained(of_the_papers, PROMPTS, **grid))) == ""


@pytest.mark.thorough
def test_untrained_models_support_nothing_beyond_the_papers() -> None:
    beyond = [study for study in studies(small=True) if study.name in BEYOND]
    assert len(beyond) == 5
    found = verdicts_on_untrained(beyond, PROMPTS, ("gpt2", "llama"), MODEL_SEEDS[:1])
    assert {claim for claim, *_ in found} == {claim.id for study in beyond for claim in study.claims}
    of_all = [verdict for verdicts in found.values() for verdict in verdicts]
    assert [str(one) for one in of_all if one.outcome == "supported"] == []
    too_small = ("This claim needs", "A verdict needs", "was not measured", "There is a single")
    assert [str(one) for one in of_all if any(why in one.reason for why in too_small)] == []


def test_untrained_models_have_no_stages() -> None:
    """On text and on weights; a tied unembedding (gpt2) and another (llama) begin with other predictions."""
    of_stages = studies(small=True, reads=("text", "weights"))
    found = verdicts_on_untrained(of_stages, {}, ("gpt2", "llama"), MODEL_SEEDS[:2])
    assert false_alarms(outcomes(found)) == ""


@pytest.mark.slow
def test_untrained_models_support_next_to_nothing_in_the_full_grid() -> None:
    everything = studies(small=False, reads=("prompts", "text", "weights"))
    assert (
        false_alarms(outcomes(verdicts_on_untrained(everything, dict.fromkeys(STUDIES, 16), task=larger_task()))) == ""
    )


def test_claims_that_are_always_supported_are_noticed() -> None:
    """The control: one claim of three rests on numbers that no model has any part in."""
    assert "two seeds of one architecture" in false_alarms(
        outcomes(verdicts_on_untrained([claiming.Claiming()], PROMPTS))
    )
    once = {("a", family, 0): ["supported"] for family in FAMILIES} | {
        ("b", "gpt2", n): ["undecided"] for n in range(9)
    }
    assert false_alarms(once).startswith("5 of 14 pairs")
