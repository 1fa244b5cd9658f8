"""The tokens of a context to keep: label words, template, random ones in their place (section 3.2).

Keeping a token means keeping its keys and values in every layer, computed with the whole context before it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, Literal, get_args

from mechicl.doors import door
from mechicl.engines.context import Context, read_context
from mechicl.engines.prefix import joined_runs, shared_demonstrations
from mechicl.errors import InputError
from mechicl.hooks import Patch, Probe, Run
from mechicl.prompts import Prompt, PromptSet, generator_of

Kept = Literal[
    "label", "template", "label+template", "separators", "template words", "label+separators", "label+template words"
]
KEPT: tuple[Kept, ...] = get_args(Kept)
PositionMode = Literal["original", "zero", "packed"]

AUTHORS_SEED = 42  # their Trainer resets the global seed to 42 whatever the experiment's seed


@door
def compress(
    model: Any, prompt: Prompt, *, kept: Kept = "label+template", positions: PositionMode = "original"
) -> Context:
    """Run a prompt's demonstrations and keep only the hidden states of anchors: a context to query and save.

    Args:
        model: a model that runs block by block: most HookedTransformers and Bridges.
        prompt: any prompt with these demonstrations.
        kept: label words (all their sub-tokens), the template's tokens, or both (the paper); also only the template's
            separators (":", line breaks) or only its words.
        positions: position of a query: after the full context as if nothing were missing ("original"), at 0 ("zero",
            the authors' compress.py for GPT-2), or directly after the number of kept tokens ("packed"). Kept keys are
            unchanged.

    Raises:
        InputError: there are no demonstrations, there is nothing to keep, or the architecture cannot run block by
            block.
    """
    return keep(read_context(model, prompt), kept_positions(prompt, kept), positions)


def keep(context: Context, kept: Sequence[int], positions: PositionMode) -> Context:
    """These tokens of a context, with the query placed as `positions` says."""
    starts = {"original": context.next_position, "zero": 0, "packed": len(kept)}
    if positions not in starts:
        raise InputError(f"positions is {positions!r}; it must be 'original', 'zero' or 'packed'.")
    return context.keep(kept, next_position=starts[positions])


def anchors_of(context: Context, prompt: Prompt) -> Context:
    """The paper's compressed context: label words and template, with queries at their original positions."""
    return keep(context, kept_positions(prompt), "original")


def on_kept(
    model: Any, prompts: PromptSet, kept_sets: Callable[[Prompt], Sequence[Sequence[int]]],
    probes: Sequence[Probe] = (), patches: Sequence[Patch] = (), *, positions: PositionMode = "original",
    reading: Sequence[Patch] = (), batch_size: int = 16,
) -> list[Run]:  # fmt: skip
    """Run prompts on parts of their demonstrations, once per kept set; patches and probes act at q.

    Patches in `reading` act inside the demonstrations while these are read.

    `kept_sets` maps the first of the prompts with the same demonstrations to their sets of positions.
    """
    groups, runs = shared_demonstrations(prompts), []
    for indices in groups:
        first, queries = prompts[indices[0]], prompts.select(indices)
        context = read_context(model, first, reading)
        runs.append([
            keep(context, kept, positions).ask(model, queries, probes, patches, batch_size=batch_size, progress=None)
            for kept in kept_sets(first)
        ])  # fmt: skip
    return [joined_runs(parts, groups, probes) for parts in zip(*runs, strict=False)]  # cut to the smallest group


def on_anchors(model: Any, prompts: PromptSet, patches: Sequence[Patch] = (), *, batch_size: int = 16) -> Run:
    """Run prompts on their compressed contexts; patches act at q."""
    return on_kept(model, prompts, lambda prompt: [kept_positions(prompt)], patches=patches, batch_size=batch_size)[0]


def kept_positions(prompt: Prompt, kept: Kept = "label+template") -> tuple[int, ...]:
    """Positions of a kept set, and of the BOS token if there is one.

    Raises:
        InputError: there is no such set, or the prompt's template is unknown.
    """
    if kept not in KEPT:
        raise InputError(f"kept is {kept!r}; it must be one of {', '.join(map(repr, KEPT))}.")
    separators = prompt.separator_positions
    parts = {
        "label": prompt.label_positions,
        "template": prompt.template_positions,
        "separators": separators,
        "template words": tuple(sorted(set(prompt.template_positions) - set(separators))) if separators else (),
    }
    chosen = [parts[name] for name in kept.split("+")]
    if not all(chosen):
        raise InputError(f"This prompt has no {kept} tokens in its demonstrations; build it from a task.")
    before = range(prompt.demonstrations[0].span[0])
    return tuple(sorted((*before, *chain.from_iterable(chosen))))


def without_the_rest(prompt: Prompt, kept: Kept = "label+template") -> Prompt:
    """Text_anchor: the prompt with only the kept tokens of its demonstrations, read as a text of its own."""
    kept_places = (*kept_positions(prompt, kept), *range(prompt.query_start, len(prompt)))
    new = {old: place for place, old in enumerate(kept_places)}

    def moved(positions: Iterable[int]) -> tuple[int, ...]:
        return tuple(new[position] for position in positions if position in new)

    demonstrations = []
    for old in prompt.demonstrations:
        inside = moved(range(*old.span))
        demonstrations.append(
            replace(
                old, span=(inside[0], inside[-1] + 1), text=(), label=moved(old.label), template=moved(old.template),
                anchor=new.get(old.anchor, inside[0]),
            )
        )  # fmt: skip
    return replace(
        prompt, tokens=tuple(prompt.tokens[place] for place in kept_places), string="", offsets=(),
        demonstrations=tuple(demonstrations), query_start=new[prompt.query_start],
        query_text=moved(prompt.query_text), target=new[prompt.target],
    )  # fmt: skip


def random_pools(prompt: Prompt) -> list[list[int]]:
    """For each label word, the tokens that may replace it: those of its demonstration before it that are not kept.

    Raises:
        InputError: a demonstration has no text.
    """
    kept = set(kept_positions(prompt))
    starts = (0, *(anchor + 1 for anchor in prompt.anchors))
    pools = [
        [position for position in range(start, anchor) if position not in kept]
        for start, anchor in zip(starts, prompt.anchors, strict=False)
    ]
    if not all(pools):
        raise InputError("A demonstration has no text, so no random token can replace its label word.")
    return pools


def random_sets(prompt: Prompt, n_sets: int, seed: int = 0) -> list[tuple[int, ...]]:
    """Hidden_random: independent kept sets, as large as "label+template", a random token for each label word.

    The draw depends only on the seed and the demonstrations.
    """
    generator = generator_of(prompt.tokens[: prompt.query_start], seed)
    pools = random_pools(prompt)
    return [_replaced(prompt, [int(generator.choice(pool)) for pool in pools]) for _ in range(n_sets)]


def authors_random_set(prompt: Prompt) -> tuple[int, ...]:
    """The kept set that the authors' compress.py draws, from Python's generator seeded with 42."""
    stream = random.Random(AUTHORS_SEED)
    return _replaced(prompt, [stream.sample(pool, 1)[0] for pool in random_pools(prompt)])


def authors_top_sets(prompt: Prompt, n_sets: int) -> list[tuple[int, ...]]:
    """The kept sets of the authors' compress_top.py: combinations, the first label word's token varying fastest.

    Its mask is never cleared, so every set contains the tokens of all sets before it.
    """
    pools = [list(set(pool)) for pool in random_pools(prompt)]  # in the order of CPython's sets, as in their code
    n_sets = min(n_sets, n_combinations := math.prod(map(len, pools)))
    so_far: set[int] = set()
    sets = []
    for code in random.Random(AUTHORS_SEED).sample(range(n_combinations), n_sets):
        for pool in pools:
            code, place = divmod(code, len(pool))
            so_far.add(pool[place])
        sets.append(_replaced(prompt, so_far))
    return sets


def _replaced(prompt: Prompt, drawn: Sequence[int] | set[int]) -> tuple[int, ...]:
    """The paper's kept set with the label words' anchors replaced by other tokens."""
    return tuple(sorted({*kept_positions(prompt), *drawn} - set(prompt.anchors)))
