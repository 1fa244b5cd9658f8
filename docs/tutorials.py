"""The notebooks as pages of the site, and the explorer's page of one prompt; made when the site is built."""

from __future__ import annotations

import re
import tempfile
from base64 import b64decode
from html import escape
from pathlib import Path
from typing import Any

import nbformat

NOTEBOOKS = {
    "a_real_model_in_ten_minutes": "Both papers' main questions on one model, and a table of verdicts",
    "label_words_are_anchors": "The first paper, section by section",
    "stages_of_inference": "The second paper, stage by stage",
    "compose_probes_and_patches": "A probe and a patch of your own, composed with ours",
    "your_own_task_and_model": "Your template, label words, examples and model",
}
"""In reading order: what each shows."""
_FOLDER = Path(__file__).parents[1] / "notebooks"


def pages() -> dict[str, str | bytes]:
    """Every page and picture of the notebooks, by its place in the site."""
    made: dict[str, str | bytes] = {}
    for name in NOTEBOOKS:
        text, pictures = _page(name)
        made |= {f"notebooks/{name}.md": text, **pictures}
    return made


def cells() -> dict[str, Any]:
    """The cells of every notebook, the papers' own first."""
    return {name: _read(name).cells for name in sorted(NOTEBOOKS, key=lambda name: name.startswith("a_"))}


def table() -> str:
    """A row per notebook, with the model whose outputs it shows."""
    rows = []
    for name, shows in NOTEBOOKS.items():
        notebook = _read(name)
        title = notebook.cells[0].source.splitlines()[0].removeprefix("# ")
        choice = next(cell.source for cell in notebook.cells if cell.source.startswith("MODEL"))
        model = re.findall(r'"(.*?)"', choice)[0]
        rows.append(f"| [{title}](notebooks/{name}.md) | {shows} | `{model}` |")
    return "\n".join(rows)


def explorer() -> str:
    """The explorer's page of one prompt of the shipped model."""
    import mechicl as mi

    model = mi.load_model("tiny-icl")
    prompt = mi.load_task("tiny-topics-4").prompts(model.tokenizer, samples=1, seed=42)[0]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "explorer.html"
        mi.explore(model, prompt).save_html(place)
        return place.read_text(encoding="utf-8")


def _read(name: str) -> Any:
    return nbformat.read(_FOLDER / f"{name}.ipynb", as_version=4)


def _page(name: str) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and its pictures."""
    parts, pictures = [], dict[str, bytes]()
    for number, cell in enumerate(_read(name).cells):
        if cell.cell_type == "markdown":
            parts.append(cell.source.replace(".ipynb)", ".md)").replace("../docs/pages/", "../"))
            continue
        parts.append(f"```python\n{cell.source}\n```")
        for place, output in enumerate(cell.outputs):
            data = output.get("data", {"text/plain": output.get("text", "")})
            if "image/png" in data:
                picture = f"{name}-{number}-{place}.png"
                pictures[f"notebooks/{picture}"] = b64decode(data["image/png"])
                parts.append(f"![Output of the cell above]({picture})")
            elif "text/html" in data:
                parts.append(f'<div class="output">{" ".join(data["text/html"].split())}</div>')
            else:
                parts.append(f'<pre class="output">{escape(data["text/plain"])}</pre>')
    return "\n\n".join(parts), pictures
