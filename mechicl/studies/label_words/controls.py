"""What re-weighted anchors must be compared with: more demonstrations, no anchors, no attention."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechicl.errors import DoesNotFit
from mechicl.prompts import Prompt, PromptSet
from mechicl.tasks import Counts, Task

MORE_SHOTS = "vanilla, more shots"


def fit_biases(logits: Float[Tensor, "prompt class"], gold: Int[Tensor, "prompt"]) -> Float[Tensor, "class"]:
    """Biases of the label logits that minimise cross-entropy; a little weight decay keeps them finite."""
    bias = torch.zeros(logits.shape[1], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = torch.nn.functional.cross_entropy(logits.double() + bias, gold) + 1e-3 * bias.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        optimiser.step(loss)  # type: ignore[no-untyped-call]
    return bias.detach().float()


def at_random_positions(prompts: PromptSet, seed: int) -> PromptSet:
    """The same prompts with a random text token of each demonstration in the place of its anchor.

    Drawn by the seed and the demonstrations alone.
    """

    def moved(prompt: Prompt) -> Prompt:
        shown = np.asarray(prompt.tokens[: prompt.query_start], dtype=np.int64).tobytes()
        generator = np.random.default_rng([seed, int.from_bytes(hashlib.sha256(shown).digest()[:8], "little")])
        demonstrations = [
            replace(one, anchor=int(generator.choice(one.text or one.template))) for one in prompt.demonstrations
        ]
        return replace(prompt, demonstrations=tuple(demonstrations))

    return replace(prompts, prompts=tuple(moved(prompt) for prompt in prompts))


def with_companions(
    task: Task, tokenizer: Any, per_class: int, more_shots: int, *, seed: int = 42, shots: Counts = 1, **options: Any
) -> PromptSet:
    """A task's prompts with `per_class` training prompts, and the same queries behind at most `more_shots` per class.

    More shots are as many as fit the context with every query and as the data have; as many of them are mislabelled. If
    they are fewer, a warning says why.
    """
    prompts = task.prompts(tokenizer, seed=seed, shots=shots, **options)
    shared = ("n_ctx", "too_long", "prepend_bos", "anchor", "mislabelled")
    common = {"seed": seed, **{name: options[name] for name in shared if name in options}}
    companions = {
        "training": task.auxiliary_prompts(tokenizer, shots=shots, per_class=per_class, **common),
        "content_free": task.content_free_prompts(tokenizer, shots=shots, **common),
    }
    rows = [prompt.ids.query for prompt in prompts if prompt.ids.query is not None]
    more, reason = _with_more_shots(task, tokenizer, shots, more_shots, common | {"rows": rows})
    if more is not None:
        companions["more_shots"] = more
    if reason:
        warnings.warn(f"{task.name}, seed {seed}: {reason}", stacklevel=3)
    origin = {**prompts.origin, **({"fewer_shots": reason} if reason else {})}
    return replace(prompts, companions=companions, origin=origin)


def more_shots_of(prompts: PromptSet) -> int:
    """Demonstrations per class of the companions with more shots, but for wrong labels; 0 where there are none."""
    more = prompts.companions.get("more_shots")
    return 0 if more is None else len(more[0].demonstrations) // len(more.label_ids)


def asking_the_same(prompts: PromptSet) -> PromptSet:
    """Of the prompts with more shots those that ask about the same rows; none where there are no others."""
    others = prompts.companions.get("more_shots", prompts[:0])
    rows = {prompt.ids.query for prompt in prompts}
    return others.select([i for i, prompt in enumerate(others) if prompt.ids.query in rows])


def _with_more_shots(
    task: Task, tokenizer: Any, shots: Counts, most: int, options: Mapping[str, Any]
) -> tuple[PromptSet | None, str]:
    """The same queries behind as many demonstrations as fit, if any do, and why they are no more."""
    if options.get("too_long") == "drop":  # the queries are those that were not dropped: none may go now
        options = {**options, "too_long": "refuse"}
    reason = ""
    for more in range(most, shots if isinstance(shots, int) else max(shots), -1):
        try:
            prompts = task.prompts(tokenizer, shots=more, room_for=shots, **options)
        except DoesNotFit as error:
            reason = reason or f"{MORE_SHOTS!r} cannot have {more} per class: {error.reason}."
            continue
        return prompts, reason and f"{reason} It has {more}."
    return None, reason and f"{reason} It is left out."


def without_beta(
    method: str, sets: Mapping[str, PromptSet], clean: Callable[[str], Tensor]
) -> Float[Tensor, "prompt class"]:
    """What a method answers that fits no beta: label logits, or scores in their place."""
    if method == "majority class":
        counts = torch.bincount(sets[""].gold, minlength=len(sets[""].label_ids)).float()
        return counts.expand(len(sets[""]), -1)
    if method == "label biases":
        return clean("") + fit_biases(clean("training"), sets["training"].gold)
    if method == "contextual calibration":
        return clean("").log_softmax(-1) - clean("content_free").softmax(-1).mean(0).log()
    return clean("more_shots" if method == MORE_SHOTS else "")
