"""Both papers whole on GPT-2-XL: an extrapolation from the measured parts, and nothing that was run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

PROMPTS = 5 * (3 * 1000 + 500)
"""Five seeds of 1,000 test prompts of SST-2, AG News and EmoC, and 500 of TREC."""
STEPS = 5 * 10 * 4 * (2 + 4 + 4 + 6)
"""Of re-weighting: five seeds, ten epochs, four prompts of each class of the four tasks."""
CONTEXTS = 24
"""Compressed contexts of each seed and task: the kept sets, and twenty random ones."""
TOKENS = 1_000_000
LAYERS = 48

WORK: dict[str, tuple[str, float]] = {
    "information flow, one and two shots": ("information flow, weights frozen", 3 * PROMPTS),
    "isolation": ("isolation, five conditions", PROMPTS),
    "deep layers": ("deep layers", PROMPTS),
    "re-weighting, steps": ("re-weighting, one step", STEPS),
    "re-weighting, answers with one and five shots": ("one prompt, forward", 6 * PROMPTS),
    "compression": ("context of label words", CONTEXTS * PROMPTS),
    "drops and swaps": ("ablations", TOKENS),
    "lens": ("lens", TOKENS),
    "neuron moments": ("neurons", LAYERS),
}
"""What the papers do: the measured part, and how many of its units. A prompt of two shots counts as two, one of five
shots as five. A compressed context, here read for 16 prompts, is read once for all of a seed: that is on the safe side.
"""


def rows(part: str, measured: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Minutes of each experiment, and of both papers, from the rows of one part ("xl" or "xl-bf16")."""
    seconds = {row["name"]: row["ours, s"] / row["n"] for row in measured if row.get("n") and "ours, s" in row}
    total, missing = 0.0, []
    for name, (measure, n) in WORK.items():
        if measure in seconds:
            minutes = seconds[measure] * n / 60
            total += minutes
            yield {"experiment": name, "from": part, "units": n, "minutes, extrapolated": minutes}
        else:
            missing.append(name)
    lacking = f", without {', '.join(missing)}" if missing else ""
    yield {"experiment": f"both papers{lacking}", "from": part, "minutes, extrapolated": total, "goal, minutes": 30}
