"""The gallery: every figure that a study draws in a notebook that was executed on the real model."""

from __future__ import annotations

import re
from base64 import b64decode
from typing import Any

from examples import wrapped

from mechicl.declared import INPUTS

_MODEL = "smollm2-135m-q4"
_ON = {
    "prompts": "--task reviews --samples 16 --seeds 42,43,44,45",
    "text": "--text pydocs --packing documents --tokens 2000 --length 128",
}
"""What a command is given in addition to the model, by what its study reads."""
_HEAD = (
    "Figures of SmolLM2-135M (30 layers, `smollm2-135m-q4`), drawn in the [notebooks](tutorials.md) on texts that need "
    "no network. Samples are small, so each notebook takes minutes on two CPU cores; more seeds or more text leave "
    "fewer claims undecided. Each command runs the study with its defaults, writes its table and a report into "
    "`results`, and draws a figure that differs from the one here: the notebooks use fewer twins, fewer conditions "
    "and, for information flow, demonstrations that the prompts of a seed share."
)


def page(studies: dict[str, Any], notebooks: dict[str, Any]) -> tuple[str, dict[str, bytes]]:
    """The page as Markdown, and its pictures by their places in the site."""
    parts, pictures = ["# Gallery", _HEAD], dict[str, bytes]()
    for notebook, cells in notebooks.items():
        for cell in cells if any(_MODEL in cell.source for cell in cells if cell.source.startswith("MODEL")) else ():
            name = _study(cell)
            picture = f"gallery/{name}.png"
            if name is None or picture in pictures:
                continue
            pictures[picture] = next(
                b64decode(one.data["image/png"]) for one in cell.outputs if "image/png" in one.get("data", {})
            )
            parts += _section(studies[name], notebook, picture)
    return "\n\n".join(parts), pictures


def _study(cell: Any) -> str | None:
    """The study whose result a cell shows."""
    texts = [one.get("data", {}).get("text/plain", "") for one in cell.get("outputs", ())]
    named = [re.match(r"<Result ([\w-]+):", text) for text in texts]
    return next((one[1] for one in named if one), None)


def _section(study: Any, notebook: str, picture: str) -> list[str]:
    material = INPUTS[study.reads]
    given = " ".join(filter(None, [f"--model {_MODEL}", _ON.get(study.reads, "")]))
    return [
        f"## {study.title}",
        f"![{study.title}, SmolLM2-135M]({picture})",
        f"{study.shows} Runs on {material.words}: [the study](studies/{study.name}.md), "
        f"[its verdicts and table in the notebook](notebooks/{notebook}.md).",
        f"```sh\n{wrapped(f'mechicl run {study.name} {given} --out results')}\n```",
    ]
