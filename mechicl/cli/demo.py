"""`mechicl demo`: the main results on the shipped model, in about a minute, without network or GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mechicl.cli.finish import keep, page

SEEDS, SAMPLES = (42, 43, 44), 32


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the results and the page.")] = Path("mechicl-demo"),
) -> None:
    """Watch information gather in label words: the shipped model, in about a minute, offline."""
    from rich.console import Console

    from mechicl.models import load_model
    from mechicl.progress import progress
    from mechicl.results import Cells
    from mechicl.studies.label_words import Compression, DeepLayers, InformationFlow, Isolation
    from mechicl.tasks import load_task

    cells = Cells(out)
    model = load_model("tiny-icl")
    prompts = [
        load_task(task).prompts(model.tokenizer, samples=SAMPLES, seed=seed)
        for task in ("tiny-topics-2", "tiny-topics-4")
        for seed in SEEDS
    ]
    studies = (InformationFlow(), Isolation(n_layers=(1, 2, 3)), DeepLayers(), Compression(positions=("original",)))
    with progress("demo", len(studies)) as advance:
        results = []
        for study in studies:
            results.append(study.run(model, prompts, cells=cells))
            keep(results[-1], out)
            advance(1)
    console = Console()
    for result in results:
        console.print(f"[bold]{result.study.title}.[/bold] {result.finding()}", highlight=False)
    print(page(out).resolve())
