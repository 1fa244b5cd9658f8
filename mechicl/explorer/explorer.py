"""The explorer: one prompt, one model, and patches to switch on; a notebook displays it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import mechicl.figures as figures
from mechicl.doors import door
from mechicl.errors import InputError
from mechicl.explorer.given import prompt_of
from mechicl.explorer.kept import kept
from mechicl.explorer.page import iframe, page
from mechicl.explorer.tokens import blocks, tokens
from mechicl.explorer.views import guesses, heads, objective, view
from mechicl.files.writing import make_folder, write_atomically
from mechicl.hooks import Patch
from mechicl.hooks.sequence import check_sequence
from mechicl.models import Model, check_same_tokenizer, hooked
from mechicl.patches import AblateHeads, Drop, IsolateLabels
from mechicl.prompts import Prompt, PromptSet
from mechicl.studies.extensions.exchanged_labels import with_exchanged_labels

_LONGEST, _MOST_EDGES = 2000, 30 * 2000**2
"""Longest prompt whose text fits on a page, and most edges, over all layers, that fit into memory."""


class Explorer:
    """One prompt in one model; see `explore`.

    A notebook displays the object: with the extra `notebook` as a widget that asks the running kernel, without it as a
    page with precomputed views. `save_html` writes that page.
    """

    def __init__(self, model: Any, prompt: Prompt, patches: Mapping[str, Patch]) -> None:
        self.model, self.prompt, self.patches = model, prompt, dict(patches)
        self.sizes = hooked(model).sizes
        _check(model, prompt, self.patches)
        check_same_tokenizer(hooked(model), PromptSet((prompt,)))

    def __repr__(self) -> str:
        return f"Explorer({hooked(self.model).name}, {self.prompt!r})"

    def _repr_mimebundle_(self, **options: Any) -> Any:
        widget = self.widget
        if widget is None:
            return {"text/plain": repr(self), "text/html": iframe(self.html())}
        shown, about = widget._repr_mimebundle_(**options)
        return {**shown, "text/plain": repr(self)}, about

    @cached_property
    def widget(self) -> Any:
        """The anywidget that asks this explorer, or None if anywidget is not installed."""
        try:
            from mechicl.explorer.widget import make_widget
        except ImportError:
            return None
        return make_widget(self)

    @cached_property
    def first_view(self) -> dict[str, Any]:
        """The view of the clean model."""
        return view(self.model, self.prompt, [])

    def switched(self, switches: Mapping[str, Any]) -> list[Patch]:
        """The patches that are on.

        Args:
            switches: `isolate`, the first and last layer in which label words are isolated, or None; `drop`, a layer or
                None; `own`, names of patches that were given to `explore`; `heads`, ablated pairs of layer and head.

        Raises:
            InputError: the model lacks a layer or head, or a patch was not given.
        """
        unknown = set(switches["own"]) - set(self.patches)
        if unknown:
            raise InputError(f"There is no patch {sorted(unknown)[0]!r} here; there are {list(self.patches)}.")
        isolate, drop, of_heads = switches["isolate"], switches["drop"], switches["heads"]
        if isolate is not None and not 0 <= isolate[0] <= isolate[1] < self.sizes.n_layers:
            raise InputError(
                f"Label words cannot be isolated in layers {isolate[0]} to {isolate[1]}; this model has layers "
                f"0-{self.sizes.n_layers - 1}, the first before the last."
            )
        return [
            *([] if isolate is None else [IsolateLabels(range(isolate[0], isolate[1] + 1))]),
            *(self.patches[name] for name in switches["own"]),
            *([] if drop is None else [Drop(int(drop))]),
            *([AblateHeads(tuple((layer, head) for layer, head in of_heads))] if of_heads else []),
        ]

    def exchanged(self, switches: Mapping[str, Any]) -> Prompt:
        """The prompt; if `exchange` is a number, that demonstration has the next class's label word.

        Raises:
            InputError: there is no such demonstration, or its label word cannot be exchanged.
        """
        number = switches["exchange"]
        if number is None:
            return self.prompt
        if not 0 <= number < len(self.prompt.demonstrations):
            raise InputError(f"This prompt has no demonstration {number}.")
        return with_exchanged_labels(self.prompt, number)

    def answer(self, request: Mapping[str, Any]) -> Any:
        """Answer the widget's request under `request["switches"]`: a "view", the "heads" of a layer, or "guesses".

        Raises:
            InputError: the request is none of these, or names a layer or token that does not exist.
        """
        switches, about = request["switches"], int(request.get("about", 0))
        patches, prompt = self.switched(switches), self.exchanged(switches)
        match request["ask"]:
            case "view":
                return view(self.model, prompt, patches)
            case "heads" if 0 <= about < self.sizes.n_layers:
                return heads(self.model, prompt, patches, [about])[0]
            case "guesses" if 0 <= about < len(prompt):
                return guesses(self.model, prompt, patches, [about])[0]
        raise InputError(f"The explorer was asked for {request['ask']!r} of {about}; this prompt and model have none.")

    @cached_property
    def outline(self) -> dict[str, Any]:
        """What the picture needs before any forward pass: texts, roles and names."""
        prompt, sizes = self.prompt, self.sizes
        shown = tokens(self.model, prompt)
        return {
            "model": hooked(self.model).name, "task": prompt.task, "tokens": shown, "blocks": blocks(prompt),
            "anchors": list(prompt.anchors), "target": prompt.target, "query": prompt.query_start,
            "classes": [
                {"word": word, "name": name} for word, name in zip(prompt.label_words, prompt.class_names, strict=True)
            ],
            "gold": prompt.gold, "loss": objective(prompt).target, "layers": sizes.n_layers, "heads": sizes.n_heads,
            "isolate": [0, usual_isolation(sizes.n_layers) - 1] if prompt.anchors else None, "own": list(self.patches),
            "exchanges": exchanges(self.model, prompt),
            "colours": {
                "w": figures.TEXT_COLOUR, "p": figures.LABEL_COLOUR, "q": figures.TARGET_COLOUR,
                **{kind.removeprefix("S_"): colour for kind, colour in figures.FLOW_COLOURS.items()},
            },
        }  # fmt: skip

    def start(self) -> dict[str, Any]:
        """What the picture needs before any request: the outline, and the view of the clean model."""
        return self.outline | {"view": self.first_view}

    def html(self) -> str:
        """The explorer as a page that needs neither kernel nor network; `kept` defines what it can show."""
        title = f"{hooked(self.model).name}: {self.prompt.task or 'prompt'}"
        self.first_view, answers = kept(self)
        return page(title, self.start() | {"kept": answers})

    def save_html(self, path: str | Path) -> Path:
        """Write the page to a file atomically, and return its path.

        It holds the edges of every layer and head, the lens's guesses at label words and at the last tokens, the prompt
        with the last demonstration's label word exchanged, and some patches, one at a time: complete views of isolation
        in the first layers and of `patches`; only the answer for dropped layers, and for ablation of the heads that
        read label words most. Everything else needs a kernel.
        """
        path = Path(path)
        make_folder(path.parent)
        write_atomically(path, self.html().encode())
        return path


@partial(door, kinds=False)
def explore(
    model: Model,
    prompt: Prompt | str | Sequence[Mapping[str, str]],
    *,
    answers: Sequence[str] | None = None,
    patches: Mapping[str, Patch] | None = None,
    prepend_bos: bool = False,
) -> Explorer:
    """Show one prompt interactively: its attention edges by layer and their effect, and what patches change.

    The picture shows the saliency of attention edges (Label Words, section 1, Fig. 1, and Eq. 1), attention itself, or
    enrichment: saliency relative to an average token. In it you can isolate label words, drop a layer, ablate heads and
    exchange a demonstration's label word; `patches` adds further switches by name.

        mi.explore(model, prompts[0], patches={"re-weight anchors": mi.engines.fit_reweighting(model, training).patch})
        mi.explore(model, "The capital of France is", answers=[" Paris", " Rome"])
        mi.explore(model, [{"role": "user", "content": "Name a colour."}])

    Args:
        model: a model from `load_model`, or a HookedTransformer, TransformerBridge or adapter of your own.
        prompt: one prompt of a task; a text; or a conversation, as messages with `role` and `content`.
        answers: possible continuations of a text or conversation, each scored by its first token; default: the model's
            five most probable tokens. The edges' saliency concerns the most probable answer.
        patches: further patches to switch on and off.
        prepend_bos: put the BOS token before a text or conversation.

    Raises:
        InputError: the prompt is too long to show or is of another tokenizer, or a patch is not one.
    """
    if not isinstance(patches, Mapping | None):
        raise InputError(f"patches is a {type(patches).__name__}; give each patch a name: patches={{'name': patch}}.")
    return Explorer(model, prompt_of(model, prompt, answers, prepend_bos, "explore"), patches or {})


def usual_isolation(n_layers: int) -> int:
    """Default number of neighbouring layers to isolate: the paper's 5, or a third of a small model."""
    return max(1, min(5, n_layers // 3))


def exchanges(model: Any, prompt: Prompt) -> list[dict[str, Any]]:
    """The label words that can be exchanged: the demonstration's number, its class, the next class, and new tokens.

    Empty if label words differ in their number of tokens, or a class has no demonstration.
    """
    try:
        twins = [with_exchanged_labels(prompt, number) for number in range(len(prompt.demonstrations))]
    except InputError:
        return []
    return [
        {
            "number": number, "from": prompt.demonstrations[number].label_class,
            "to": twin.demonstrations[number].label_class,
            "texts": {place: tokens(model, twin)[place]["text"] for place in twin.demonstrations[number].label},
        }
        for number, twin in enumerate(twins)
    ]  # fmt: skip


def check_length(model: Any, prompt: Prompt, where: str) -> None:
    """Reject a prompt whose edges, of every layer, would take gigabytes."""
    longest = min(_LONGEST, math.isqrt(_MOST_EDGES // hooked(model).sizes.n_layers))
    if len(prompt) > longest:
        raise InputError(
            f"This prompt has {len(prompt)} tokens, and {where} shows at most {longest}; use one with fewer shots or "
            "shorter texts."
        )


def _check(model: Any, prompt: Prompt, patches: Mapping[str, Patch]) -> None:
    check_sequence(prompt.label_tokens, "The explorer")
    check_length(model, prompt, "the explorer")
    for name, patch in patches.items():
        if not isinstance(patch, Patch):
            raise InputError(f"{name!r} is {type(patch).__name__}, not a patch; mechicl.patches lists them.")
