"""Run every study on the shipped model, and keep its figure and what it found for the documentation.

    python docs/examples.py [STUDY ...]        (make docs-figures)

The pages show these figures; the commands on them are the ones that were run here.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

_ICL = "--task tiny-topics-2,tiny-topics-4 --samples 64"
_FEW = "--task tiny-topics-2,tiny-topics-4 --samples 32"
_TEXT = "--text tiny-icl --tokens 20000"
EXAMPLES = {
    "information-flow": _ICL,
    "isolation": f"{_ICL} --n-layers 1,2,3",
    "deep-layers": _ICL,
    "one-prompt": "--task tiny-topics-4",
    "compression": _ICL,
    "compression-speed": "--task tiny-topics-4 --samples 64 --seeds 42,43,44,45",
    "reweighting": _ICL,
    "error-diagnosis": "--task tiny-topics-4 --samples 64 --shots 4 --mislabelled 3,3,0,0 --seeds 42,43,44,45",
    "anchor-sweep": f"{_ICL} --windows 1,2",
    "anchor-kinds": _ICL,
    "anchor-heads": f"{_FEW} --seeds 42,43,44,45",
    "anchor-patching": "--task tiny-topics-2,tiny-topics-4 --samples 8",
    "decision-layer": _ICL,
    "shot-sweep": f"{_FEW} --counts 0,1,2,4,8",
    "many-lesions": _TEXT,
    "token-lesions": _TEXT,
    "layer-lesions": f"{_TEXT} --kinds drop,swap,attention,mlp,repeat --windows 2,3",
    "local-attention": _TEXT,
    "word-merging": _TEXT,
    "word-identity": _TEXT,
    "logit-lens": _TEXT,
    "neurons": "",
    "entropy-neurons": _TEXT,
    "norms": _TEXT,
    "cka": _TEXT,
    "right-then-wrong": "--text tiny-icl --tokens 4000",
    "causal-stages": "--text tiny-icl --tokens 2000 --length 64",
    "stages-atlas": _TEXT,
    "lesioned-icl": _ICL,
}
"""What each study is given in addition to the shipped model."""
ELSEWHERE = {
    "class-logits": "--model gpt2-xl",
    "context-exchange": "--model smollm2-135m-q4 --text pydocs --tokens 8000 --length 128",
    "voting": "--model gpt2-xl --text NeelNanda/pile-10k --tokens 200000",
    "benchmarks": "--model gpt2-xl --tasks hellaswag,arc-easy,lambada",
    "wic": "--model gpt2-xl --data WiC",
    "joiner-ablation": "--model smollm2-135m-q4 --text pydocs --tokens 8000",
    "part-of-speech": "--model smollm2-135m-q4 --text pydocs --tokens 8000 --length 128",
    "inner-lexicon": "--model smollm2-135m-q4 --text pydocs --packing documents --tokens 60000",
}
"""Studies of what the shipped model does not speak: a command and no figure."""
_PAGES = Path(__file__).parent / "pages" / "studies"


def command(name: str) -> str:
    """The command of a study's example."""
    asked = ELSEWHERE.get(name) or f"--model tiny-icl {EXAMPLES[name]}"
    return " ".join(f"mechicl run {name} {asked} --out results".split())


def wrapped(line: str) -> str:
    """A long command on several lines, that a shell reads as one."""
    return line if len(line) <= 80 else line.replace(" --", " \\\n    --")


def make(name: str) -> None:
    """Run one example in a folder of its own; keep its figure, finding and details."""
    from pictures import light

    from mechicl.studies import load_result

    with tempfile.TemporaryDirectory() as folder:
        words = shlex.split(command(name))[1:-1]
        subprocess.run([sys.executable, "-c", "from mechicl.cli.app import main; main()", *words, folder], check=True)
        result = load_result(folder, name)
    _PAGES.mkdir(exist_ok=True)
    (_PAGES / f"{name}.png").write_bytes(light(result.figure().to_image("png", width=900, scale=1.5)))
    text = json.dumps({"finding": result.finding(), "details": result.details()}, indent=2, ensure_ascii=False)
    (_PAGES / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    for study in sys.argv[1:] or EXAMPLES:
        make(study)
