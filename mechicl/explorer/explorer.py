"""The explorer: one prompt, one model, and the patches that can be switched on; it shows itself in a notebook."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import mechicl.figures as figures
from mechicl.doors import door
from mechicl.errors import InputError
from mechicl.explorer.page import iframe, page
from mechicl.explorer.tokens import tokens
from mechicl.explorer.views import guesses, heads, objective, view
from mechicl.files.writing import make_folder, write_atomically
from mechicl.hooks import Patch
from mechicl.models import Model, check_same_tokenizer, hooked
from mechicl.patches import Drop, IsolateLabels, first_layers
from mechicl.progress import progress
from mechicl.prompts import Prompt, PromptSet

LONGEST = 400
"""Tokens of a prompt that can still be read as a picture."""


class Explorer:
    """One prompt in one model, to be looked at: see `explore`.

    In a notebook the object shows itself: with the extra `notebook` as a widget that asks the running kernel, without
    it as a page that keeps what was computed. `save_html` writes that page.
    """

    def __init__(self, model: Any, prompt: Prompt, patches: Mapping[str, Patch]) -> None:
        self.model, self.prompt, self.patches = model, prompt, dict(patches)
        self._n_layers = hooked(model).sizes.n_layers
        _check(prompt, self.patches)
        check_same_tokenizer(hooked(model), PromptSet((prompt,)))
        self.first_view = view(model, prompt, [])

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
        """The anywidget that asks this explorer, or None where anywidget is not installed."""
        try:
            from mechicl.explorer.widget import make_widget
        except ImportError:
            return None
        return make_widget(self)

    def switched(self, switches: Mapping[str, Any]) -> list[Patch]:
        """The patches that are on.

        Args:
            switches: `isolate`, a number of first layers or None; `drop`, a layer or None; `own`, names of patches
                that were given to `explore`.

        Raises:
            InputError: a layer that the model does not have, or a patch that was not given.
        """
        unknown = set(switches["own"]) - set(self.patches)
        if unknown:
            raise InputError(f"There is no patch {sorted(unknown)[0]!r} here; there are {list(self.patches)}.")
        isolate, drop = switches["isolate"], switches["drop"]
        return [
            *([] if isolate is None else [IsolateLabels(first_layers(int(isolate), self._n_layers))]),
            *(self.patches[name] for name in switches["own"]),
            *([] if drop is None else [Drop(int(drop))]),
        ]

    def answer(self, request: Mapping[str, Any]) -> Any:
        """What the widget asks for under `request["switches"]`: a "view", the "heads" of a layer, or "guesses".

        Raises:
            InputError: the request is none of these, or about a layer or token that is not there.
        """
        patches, about = self.switched(request["switches"]), int(request.get("about", 0))
        match request["ask"]:
            case "view":
                return view(self.model, self.prompt, patches)
            case "heads" if 0 <= about < self._n_layers:
                return heads(self.model, self.prompt, patches, [about])[0]
            case "guesses" if 0 <= about < len(self.prompt):
                return guesses(self.model, self.prompt, patches, [about])[0]
        raise InputError(f"The explorer was asked for {request['ask']!r} of {about}; this prompt and model have none.")

    def start(self) -> dict[str, Any]:
        """What the picture needs before anything is asked: texts, roles, names, and the view without patches."""
        prompt, sizes = self.prompt, hooked(self.model).sizes
        return {
            "model": hooked(self.model).name, "task": prompt.task, "tokens": tokens(self.model, prompt),
            "anchors": list(prompt.anchors), "target": prompt.target,
            "classes": [
                {"word": word, "name": name} for word, name in zip(prompt.label_words, prompt.class_names, strict=True)
            ],
            "gold": prompt.gold, "loss": objective(prompt).target, "layers": sizes.n_layers, "heads": sizes.n_heads,
            "isolate": usual_isolation(sizes.n_layers), "own": list(self.patches),
            "colours": {
                "w": figures.TEXT_COLOUR, "p": figures.LABEL_COLOUR, "q": figures.TARGET_COLOUR,
                **{kind.removeprefix("S_"): colour for kind, colour in figures.FLOW_COLOURS.items()},
            },
            "view": self.first_view,
        }  # fmt: skip

    def html(self) -> str:
        """The explorer as a page that needs neither kernel nor network, with each patch computed on its own."""
        off: dict[str, Any] = {"isolate": None, "drop": None, "own": []}
        alone = [
            off | {"isolate": usual_isolation(self._n_layers)},
            *(off | {"own": [name]} for name in self.patches),
            *(off | {"drop": layer} for layer in range(self._n_layers)),
        ]
        kept: dict[str, Any] = {"views": []}
        with progress("explorer", len(alone) + 1) as advance:
            for switches in alone:
                shown = self.answer({"ask": "view", "switches": switches})
                kept["views"].append({"switches": switches, "view": shown})
                advance(1)
            kept["heads"] = heads(self.model, self.prompt, [], range(self._n_layers))
            advance(1)
        kept["guesses"] = guesses(self.model, self.prompt, [], list(range(len(self.prompt))))
        return page(f"{hooked(self.model).name}: {self.prompt.task or 'prompt'}", self.start() | {"kept": kept})

    def save_html(self, path: str | Path) -> Path:
        """Write the page to a file, whole or not at all; returns its path.

        It keeps the flow of every layer, each head on or off, the lens's guesses under every token, and every patch
        on its own. Combinations of patches need a kernel.
        """
        path = Path(path)
        make_folder(path.parent)
        write_atomically(path, self.html().encode())
        return path


@partial(door, kinds=False)
def explore(model: Model, prompt: Prompt, *, patches: Mapping[str, Patch] | None = None) -> Explorer:
    """Show one prompt interactively: the saliency of its attention edges by layer, and the effect of patches.

    Edges show saliency (Label Words, section 1, Fig. 1, and Eq. 1) rather than attention, because the attention sink at
    the first token would dominate. Switches isolate label words and drop a layer; `patches` adds switches by name.

        mi.explore(model, prompts[0], patches={"re-weight anchors": mi.engines.fit_reweighting(model, training).patch})

    Args:
        model: a HookedTransformer.
        prompt: one prompt of a task.
        patches: further patches to switch on and off.

    Raises:
        InputError: a prompt too long to be read as a picture or of another tokenizer, or something that is not a patch.
    """
    if not isinstance(patches, Mapping | None):
        raise InputError(f"patches is a {type(patches).__name__}; give each patch a name: patches={{'name': patch}}.")
    return Explorer(model, prompt, patches or {})


def usual_isolation(n_layers: int) -> int:
    """How many first layers are isolated unless asked otherwise: the paper's 5, in small models a third."""
    return max(1, min(5, n_layers // 3))


def _check(prompt: Prompt, patches: Mapping[str, Patch]) -> None:
    if not isinstance(prompt, Prompt):
        raise InputError(f"explore looks at one prompt, got {type(prompt).__name__}; give it prompts[0], for example.")
    if len(prompt) > LONGEST:
        raise InputError(
            f"This prompt has {len(prompt)} tokens, and a picture of more than {LONGEST} cannot be read; explore one "
            "with fewer shots or shorter texts, or draw a heat map with saliency_map and saliency_figure of mi.studies."
        )
    for name, patch in patches.items():
        if not isinstance(patch, Patch):
            raise InputError(f"{name!r} is {type(patch).__name__}, not a patch; mechicl.patches has those there are.")
