"""Controls for re-weighted anchors: more demonstrations, random tokens, and methods without attention."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechicl.errors import DoesNotFit
from mechicl.prompts import Prompt, PromptSet, generator_of
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
    """The same prompts with a random text token of each demonstration in place of its anchor.

    The draw depends only on the seed and the demonstrations.
    """

    def moved(prompt: Prompt) -> Prompt:
        generator = generator_of(prompt.tokens[: prompt.query_start], seed)
        demonstrations = [
            replace(one, anchor=int(generator.choice(one.text or one.template))) for one in prompt.demonstrations
        ]
        return replace(prompt, demonstrations=tuple(demonstrations))

    return replace(prompts, prompts=tuple(moved(prompt) for prompt in prompts))


def with_auxiliary_prompts(
    task: Task, tokenizer: Any, per_class: int, more_shots: int, *, seed: int = 42, shots: Counts = 1, **options: Any
) -> PromptSet:
    """A task's prompts with `per_class` training prompts, and the same queries after at most `more_shots` per class.

    The number of shots is limited by the context, with every query, and by the data; the same number is mislabelled. If
    there are fewer than asked for, a warning says why.
    """
    prompts = task.prompts(tokenizer, seed=seed, shots=shots, **options)
    shared = ("n_ctx", "too_long", "prepend_bos", "anchor", "mislabelled", "order")
    common = {"seed": seed, **{name: options[name] for name in shared if name in options}}
    auxiliary = {
        "training": task.auxiliary_prompts(tokenizer, shots=shots, per_class=per_class, **common),
        "content_free": task.content_free_prompts(tokenizer, shots=shots, **common),
    }
    rows = [prompt.ids.query for prompt in prompts if prompt.ids.query is not None]
    if not isinstance(common.get("order", ""), str):  # a permutation is one of so many demonstrations
        del common["order"]
    more, reason = _with_more_shots(task, tokenizer, shots, more_shots, common | {"rows": rows})
    if more is not None:
        auxiliary["more_shots"] = more
    if reason:
        warnings.warn(f"{task.name}, seed {seed}: {reason}", stacklevel=3)
    origin = {**prompts.origin, **({"fewer_shots": reason} if reason else {})}
    return replace(prompts, auxiliary=auxiliary, origin=origin)


def more_shots_of(prompts: PromptSet) -> int:
    """Demonstrations per class, without wrong labels, of the auxiliary prompts with more shots; 0 if there are none."""
    more = prompts.auxiliary.get("more_shots")
    return 0 if more is None else len(more[0].demonstrations) // len(more.label_ids)


def asking_the_same(prompts: PromptSet) -> PromptSet:
    """The prompts with more shots that ask about the same rows; empty if there are none."""
    others = prompts.auxiliary.get("more_shots", prompts[:0])
    rows = {prompt.ids.query for prompt in prompts}
    return others.select([i for i, prompt in enumerate(others) if prompt.ids.query in rows])


def _with_more_shots(
    task: Task, tokenizer: Any, shots: Counts, most: int, options: Mapping[str, Any]
) -> tuple[PromptSet | None, str]:
    """The same queries after as many demonstrations as fit, if any do, and why there are not more."""
    if options.get("too_long") == "drop":  # these queries were not dropped before, so none may be dropped now
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
    """The answers of a method without a beta: label logits, or scores in their place."""
    if method == "majority class":
        counts = torch.bincount(sets[""].gold, minlength=len(sets[""].label_ids)).float()
        return counts.expand(len(sets[""]), -1)
    if method == "label biases":
        return clean("") + fit_biases(clean("training"), sets["training"].gold)
    if method == "contextual calibration":
        return clean("").log_softmax(-1) - clean("content_free").softmax(-1).mean(0).log()
    return clean("more_shots" if method == MORE_SHOTS else "")
