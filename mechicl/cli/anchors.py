"""`mechicl run ...`: what *Label Words are Anchors* makes of its anchors (section 3)."""

from __future__ import annotations

from typing import Annotated

import typer

from mechicl.cli.finish import finish
from mechicl.cli.options import (
    Asked,
    BatchSize,
    Data,
    Device,
    Dtype,
    LabelWords,
    Model,
    Out,
    ProtocolName,
    Samples,
    Seeds,
    Shots,
    TaskNames,
    TooLong,
    choice,
    choices,
    integers,
)


def compression(
    model: Model,
    task: TaskNames,
    out: Out,
    data: Data = None,
    samples: Samples = 64,
    seeds: Seeds = "42,43,44,45,46",
    shots: Shots = 1,
    too_long: TooLong = "refuse",
    label_words: LabelWords = None,
    kept: Annotated[str, typer.Option(help="Kept sets: label+template, label, template.")] = (
        "label+template,label,template"
    ),
    positions: Annotated[str, typer.Option(help="Where queries stand: original, zero, packed.")] = (
        "original,zero,packed"
    ),
    sets: Annotated[int, typer.Option(min=1, help="Number of random sets.")] = 20,
    random_seed: Annotated[int, typer.Option(help="Seed of the random sets.")] = 0,
    protocol: ProtocolName = "corrected",
    batch_size: BatchSize = 16,
    dtype: Dtype = "float32",
    device: Device = None,
) -> None:
    """Predictions from the label words and template of the context alone (section 3.2)."""
    from mechicl.studies.label_words import Compression

    study = Compression(
        choice("--protocol", protocol, "corrected", "paper"),
        kept=choices("--kept", kept, "label+template", "label", "template"),
        positions=choices("--positions", positions, "original", "zero", "packed"),
        n_sets=sets,
        random_seed=random_seed,
    )
    finish(
        study,
        Asked(
            model, task, data, samples, seeds, shots, "per_seed", too_long, batch_size, dtype, device, out, label_words
        ),
    )


def reweighting(
    model: Model,
    task: TaskNames,
    out: Out,
    data: Data = None,
    samples: Samples = 64,
    seeds: Seeds = "42,43,44,45,46",
    shots: Shots = 1,
    too_long: TooLong = "refuse",
    label_words: LabelWords = None,
    lr: Annotated[float, typer.Option(help="Learning rate of Adam.")] = 0.01,
    epochs: Annotated[int, typer.Option(min=1, help="Rounds through the training items.")] = 10,
    per_class: Annotated[int, typer.Option(min=1, help="Training items per class.")] = 4,
    more_shots: Annotated[
        int, typer.Option(min=0, help="Demonstrations per class of the other baseline, or as many as fit; 0: without.")
    ] = 5,
    random_seed: Annotated[int, typer.Option(help="Seed of the random positions.")] = 0,
    protocol: ProtocolName = "corrected",
    batch_size: BatchSize = 16,
    dtype: Dtype = "float32",
    device: Device = None,
) -> None:
    """Accuracy with learned attention to the label words, and controls (section 3.1)."""
    from mechicl.studies.label_words import Reweighting

    study = Reweighting(
        choice("--protocol", protocol, "corrected", "paper"),
        lr=lr,
        epochs=epochs,
        per_class=per_class,
        more_shots=more_shots,
        random_seed=random_seed,
    )
    asked = Asked(
        model, task, data, samples, seeds, shots, "per_seed", too_long, batch_size, dtype, device, out, label_words
    )
    finish(study, asked, make=study.prompts)


def error_diagnosis(
    model: Model,
    task: TaskNames,
    out: Out,
    data: Data = None,
    samples: Samples = 500,
    seeds: Seeds = "42",
    too_long: TooLong = "refuse",
    label_words: LabelWords = None,
    components: Annotated[
        str, typer.Option(help="Numbers of principal components, with commas.")
    ] = "5,10,20,50,100,200",
    layer: Annotated[int | None, typer.Option(min=0, help="Layer of the heat map; default: two thirds deep.")] = None,
    contexts: Annotated[int, typer.Option(min=1, help="Sets of demonstrations; halved until the data fill them.")] = 64,
    protocol: ProtocolName = "corrected",
    batch_size: BatchSize = 16,
    dtype: Dtype = "float32",
    device: Device = None,
) -> None:
    """Whether distances between anchors foretell which classes are confused (section 3.3)."""
    from mechicl.studies.label_words import ErrorDiagnosis

    study = ErrorDiagnosis(
        choice("--protocol", protocol, "corrected", "paper"),
        components=tuple(integers("--components", components)),
        layer=layer,
        contexts=contexts,
    )
    asked = Asked(
        model, task, data, samples, seeds, 1, "per_seed", too_long, batch_size, dtype, device, out, label_words
    )
    finish(study, asked, make=study.prompts)


def anchor_sweep(
    model: Model,
    task: TaskNames,
    out: Out,
    data: Data = None,
    samples: Samples = 64,
    seeds: Seeds = "42,43,44,45,46",
    shots: Shots = 1,
    too_long: TooLong = "refuse",
    label_words: LabelWords = None,
    windows: Annotated[str, typer.Option(help="Numbers of neighbouring layers isolated together, with commas.")] = "1",
    random_seed: Annotated[int, typer.Option(help="Seed of the random text tokens.")] = 0,
    batch_size: BatchSize = 16,
    dtype: Dtype = "float32",
    device: Device = None,
) -> None:
    """Isolation of label words and of other tokens, in every layer or window of layers."""
    from mechicl.studies.label_words import AnchorSweep

    study = AnchorSweep(windows=tuple(integers("--windows", windows)), random_seed=random_seed)
    asked = Asked(
        model, task, data, samples, seeds, shots, "per_seed", too_long, batch_size, dtype, device, out, label_words
    )
    finish(study, asked)
