"""Run studies on the real model, and keep figure, figure data and verdicts for the gallery.

    python docs/gallery.py [STUDY ...]

The page shows these figures; the commands on it are the ones that were run here.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_ICL = "--task reviews --samples 16 --seeds 42,43,44,45"
_TEXT = "--text pydocs --tokens 2000 --length 128 --packing documents"
GALLERY = {
    "information-flow": _ICL,
    "isolation": f"{_ICL} --n-layers 1,3,5,10",
    "deep-layers": _ICL,
    "compression": _ICL,
    "layer-lesions": _TEXT,
    "local-attention": _TEXT,
    "logit-lens": _TEXT,
    "norms": _TEXT,
    "neurons": "",
    "cka": _TEXT,
}
"""What each study is given beside the model."""
_KEPT = Path(__file__).parent / "pages" / "gallery"


def command(name: str) -> str:
    """The command of a figure."""
    return " ".join(f"mechicl run {name} --model smollm2-135m-q4 {GALLERY[name]} --out results".split())


def make(name: str) -> None:
    """Run one study in a folder of its own; keep its figure with a palette, its figure data and its verdicts."""
    from pictures import light

    from mechicl.studies import load_result

    with tempfile.TemporaryDirectory() as folder:
        words = shlex.split(command(name))[1:-1]
        subprocess.run([sys.executable, "-c", "from mechicl.cli.app import main; main()", *words, folder], check=True)
        result = load_result(folder, name)
    _KEPT.mkdir(exist_ok=True)
    (_KEPT / f"{name}.png").write_bytes(light(result.figure().to_image("png", width=900, scale=1.25)))
    result.summary().to_csv(_KEPT / f"{name}.csv", index=False, float_format="%.5g")
    text = json.dumps({"claims": result.claims.rows(notes=False)}, indent=1, ensure_ascii=False)
    (_KEPT / f"{name}.json").write_text(text + "\n")


def page(studies: dict[str, Any]) -> str:
    """A section per study: its figure, verdicts, command and figure data."""
    parts = [_section(studies[name]) for name in GALLERY]
    return "\n\n".join(["# Gallery", _HEAD, *parts])


_HEAD = (
    "Studies of SmolLM2-135M (30 layers; `smollm2-135m-q4`), on texts that need no network. Each section gives the "
    "verdicts, the command that draws the figure, and the figure data. Samples are small, so that each command takes "
    "minutes on two CPU cores; more seeds or text leave fewer claims undecided."
)


def _section(study: Any) -> str:
    name = study.name
    rows = json.loads((_KEPT / f"{name}.json").read_text())["claims"]
    verdicts = [f"| {row['claim']} | {row['verdict']} | {row['effect']} | {row['n']} |" for row in rows]
    return "\n\n".join(
        [
            f"## {study.title}",
            f"![{study.title}, SmolLM2-135M](gallery/{name}.png)",
            "\n".join(["| claim | verdict | effect | n |", "|---|---|---|---|", *verdicts]),
            f"```sh\n{command(name)}\n```",
            f"[The study](studies/{name}.md) · [figure data (CSV)](gallery/{name}.csv)",
        ]
    )


if __name__ == "__main__":
    for study in sys.argv[1:] or GALLERY:
        make(study)
