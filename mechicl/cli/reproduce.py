"""`mechicl reproduce ...`: every experiment of a paper on one model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mechicl.cli.options import (
    Asked,
    Data,
    Device,
    Dtype,
    Model,
    Out,
    Samples,
    Seeds,
    Shots,
    TaskNames,
    TooLong,
)
from mechicl.cli.stages import DEFAULT_TEXT, BatchSize, Column, Length, OnText, Packing, Seed, Split, Text, Tokens
from mechicl.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from mechicl.results import Result
    from mechicl.studies.study import Protocol, Study


def label_words(
    model: Model,
    out: Out,
    task: TaskNames = "sst2,trec,agnews,emo",
    data: Data = None,
    samples: Samples = 1000,
    seeds: Seeds = "42,43,44,45,46",
    shots: Shots = 1,
    too_long: TooLong = "refuse",
    batch_size: BatchSize = 16,
    dtype: Dtype = "float32",
    device: Device = None,
) -> None:
    """All of Label Words are Anchors, in both protocols: a page each in OUT/paper and OUT/corrected."""
    from mechicl.results import Cells
    from mechicl.studies.label_words.published import against_published

    cells = Cells(out)
    asked = Asked(model, task, data, samples, seeds, shots, "per_seed", too_long, batch_size, dtype, device, out)
    loaded = asked.load_model()
    done = dict[str, "Result"]()
    for protocol in ("corrected", "paper"):
        for study, own in _label_word_studies(protocol, loaded.cfg.n_layers, asked):
            prompts = own.prompt_sets(loaded, getattr(study, "prompts", None))
            if study.name == "error-diagnosis":  # it ranks pairs of classes, of which two classes have one
                prompts = [one for one in prompts if len(one.class_names) > 2]
            if not prompts:
                continue
            try:
                done[study.name] = study.run(loaded, prompts, batch_size=batch_size, cells=cells)
                _keep(done[study.name], out / protocol, protocol)
            except InputError as error:  # such as no errors to diagnose: the other studies are still worth having
                print(f"{study.name} ({protocol}) has no result: {error}")
    _close(against_published(list(done.values())), out)


def _label_word_studies(protocol: Protocol, n_layers: int, asked: Asked) -> list[tuple[Study, Asked]]:
    """The studies of one protocol, each with what it is run on; the sweep has no counterpart in the authors' code."""
    from mechicl.studies import label_words as w

    layers = tuple(n for n in (1, 3, 5, 7) if n <= n_layers)
    fresh = replace(asked, demonstrations="per_prompt")
    studies: list[tuple[Study, Asked]] = [
        (w.InformationFlow(protocol), fresh),
        (w.Isolation(protocol, n_layers=layers), asked),
        (w.DeepLayers(protocol), asked),
        (w.Compression(protocol), asked),
        (w.Reweighting(protocol), asked),
        (w.ErrorDiagnosis(protocol), replace(asked, shots=1)),
    ]
    return studies if protocol == "paper" else [*studies, (w.AnchorSweep(), asked)]


def _keep(result: Result, folder: Path, protocol: str) -> None:
    from rich.console import Console

    finding = result.finding()  # first: a result that cannot be told must not be saved
    result.save(folder)
    Console().print(f"{result.name} ({protocol}): {finding}", highlight=False)


def _close(table: pd.DataFrame, out: Path) -> None:
    """Print published against measured values, and the pages' paths last."""
    from rich.console import Console
    from rich.table import Table

    from mechicl.cli.finish import page

    printed = Table(*table.columns, title="published and measured", title_justify="left")
    for row in table.itertuples(index=False):
        printed.add_row(*map(str, row))
    Console().print(printed)
    for protocol in ("corrected", "paper"):
        print(page(out / protocol).resolve())


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
    from mechicl.results import Cells
    from mechicl.studies.stages.published import against_published

    asked = OnText(
        model, text, tokens, length, seed, packing, column, split, processing, batch_size, dtype, device, out
    )
    cells = Cells(out)
    loaded = asked.load_model()
    corpus = asked.corpus(loaded)
    done = dict[str, "Result"]()
    for protocol in ("corrected", "paper"):
        for study in _studies(protocol, loaded.cfg.n_layers):
            material = corpus if study.reads == "text" else None
            result = study.run(loaded, material, batch_size=batch_size, cells=cells)
            done[study.name] = result
            _keep(result, out / protocol, protocol)
    _close(against_published(list(done.values())), out)


def _studies(protocol: Protocol, n_layers: int) -> list[Study]:
    """The studies of one protocol; in the authors' only those that differ."""
    from mechicl.studies import stages as s

    windows = tuple(length for length in (3, 5) if length <= n_layers)
    both: list[Study] = [s.LocalAttentionStudy(protocol), s.LensStudy(protocol), s.NormsStudy(protocol)]
    if protocol == "paper":
        return [s.Lesions(protocol), *both]
    kinds = ("drop", "swap", "attention", "mlp", "replace", *(("repeat",) if windows else ()))
    return [s.Atlas(), s.Lesions(kinds=kinds, windows=windows or (1,)), *both, s.NeuronsStudy(), s.WordMerging()]
