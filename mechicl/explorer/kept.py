"""What a page holds, as it has no kernel to ask: little enough to compute in seconds and open at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mechicl.engines.alone import label_logits_alone
from mechicl.explorer.views import at_once, rounded
from mechicl.progress import progress
from mechicl.prompts import Prompt

if TYPE_CHECKING:
    from mechicl.explorer.explorer import Explorer

OFF: dict[str, Any] = {"isolate": None, "drop": None, "own": [], "heads": [], "exchange": None}
"""The switches of the clean model and the unchanged prompt."""
_LENSED = 64
"""Number of tokens at which the lens is kept."""


def kept(explorer: Explorer) -> tuple[dict[str, Any], dict[str, Any]]:
    """The clean view, and all other kept views.

    `views` by switches: some with all edges, and, where a backward pass for each would take minutes, some with only the
    answer (`probs`). `heads` by layer; `guesses` by position.
    """
    model, prompt, n_layers = explorer.model, explorer.prompt, explorer.sizes.n_layers
    whole = [OFF | one for one in _whole(explorer)]
    places = lensed(prompt)
    with progress("explorer", len(whole) + 2) as advance:
        clean, heads, guesses = at_once(model, prompt, [], range(n_layers), places)
        advance(1)
        views = []
        for switches in whole:
            views.append({"switches": switches, "view": explorer.answer({"ask": "view", "switches": switches})})
            advance(1)
        alone = [OFF | one for one in _alone(explorer, clean)]
        patches = [explorer.switched(switches)[0] for switches in alone]
        probs = rounded(label_logits_alone(model, prompt, patches).softmax(-1))
        views += [
            {"switches": switches, "view": {"probs": answer}} for switches, answer in zip(alone, probs, strict=True)
        ]
        advance(1)
    return clean, {"views": views, "heads": heads, "guesses": dict(zip(places, guesses, strict=True))}


def _whole(explorer: Explorer) -> list[dict[str, Any]]:
    """Switches whose view is kept with its edges."""
    start = explorer.outline
    isolate = [{"isolate": start["isolate"]}] if start["isolate"] else []
    exchange = [{"exchange": one["number"]} for one in start["exchanges"][-1:]]
    return [*isolate, *({"own": [name]} for name in explorer.patches), *exchange]


def _alone(explorer: Explorer, clean: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Switches for which only the answer is kept."""
    drops = ({"drop": layer} for layer in range(explorer.sizes.n_layers))
    return [*drops, *({"heads": [head]} for head in clean["most"])]


def lensed(prompt: Prompt) -> list[int]:
    """Positions at which a page keeps the lens: label words and the tokens before them, then the last tokens."""
    places = {*prompt.label_positions, *(place - 1 for place in prompt.label_positions if place)}
    last = [place for place in reversed(range(len(prompt))) if place not in places]
    return sorted([*places, *last[: max(1, _LENSED - len(places))]])
