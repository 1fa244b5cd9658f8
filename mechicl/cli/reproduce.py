"""`mechicl reproduce ...`: every experiment of a paper on one model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mechicl.cli.options import Device, Dtype, Model, Out
from mechicl.cli.stages import DEFAULT_TEXT, BatchSize, Column, Length, OnText, Packing, Seed, Split, Text, Tokens

if TYPE_CHECKING:
    from mechicl.results import Result
    from mechicl.studies.study import Protocol, Study


def stages(
    model: Model,
    out: Out,
    text: Text = DEFAULT_TEXT,
    tokens: Tokens = 20_000,
    length: Length = 256,
    seed: Seed = 0,
    packing: Packing = "packed",
    column: Column = "text",
    split: Split = "train",
    processing: Annotated[str, typer.Option(help="fold, as in the paper, or none.")] = "fold",
    batch_size: BatchSize = 4,
    dtype: Dtype = "float32",
    device: Device = None,
) -> None:
    """All of Stages of Inference, in both protocols: a page each in OUT/paper and OUT/corrected."""
    from rich.console import Console
    from rich.table import Table

    from mechicl.cli.finish import page
    from mechicl.results import Cells
    from mechicl.studies.stages.published import against_published

    asked = OnText(
        model, text, tokens, length, seed, packing, column, split, processing, batch_size, dtype, device, out
    )
    cells = Cells(out)
    loaded = asked.load_model()
    corpus = asked.corpus(loaded)
    console, done, pages = Console(), dict[str, "Result"](), []
    for protocol in ("corrected", "paper"):
        for study in _studies(protocol, loaded.cfg.n_layers):
            material = corpus if study.reads == "text" else None
            result = study.run(loaded, material, batch_size=batch_size, cells=cells)
            result.save(out / protocol)
            done[study.name] = result
            console.print(f"{study.name} ({protocol}): {result.finding()}", highlight=False)
        pages.append(page(out / protocol).resolve())
    table = against_published(list(done.values()))
    printed = Table(*table.columns, title="published and measured", title_justify="left")
    for row in table.itertuples(index=False):
        printed.add_row(*map(str, row))
    console.print(printed)
    for path in pages:
        print(path)


def _studies(protocol: Protocol, n_layers: int) -> list[Study]:
    """The studies of one protocol; in the authors' only those that differ."""
    from mechicl.studies import stages as s

    windows = tuple(length for length in (3, 5) if length <= n_layers)
    both: list[Study] = [s.LocalAttentionStudy(protocol), s.LensStudy(protocol), s.NormsStudy(protocol)]
    if protocol == "paper":
        return [s.Lesions(protocol), *both]
    kinds = ("drop", "swap", "attention", "mlp", "replace", *(("repeat",) if windows else ()))
    return [s.Atlas(), s.Lesions(kinds=kinds, windows=windows or (1,)), *both, s.NeuronsStudy(), s.WordMerging()]
