"""`mechicl run ...`: the experiments of *Label Words are Anchors*."""

from __future__ import annotations

from typing import Annotated

import typer

from mechicl.cli.finish import finish
from mechicl.cli.options import (
    Asked,
    BatchSize,
    Data,
    Demonstrations,
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
    integers,
)


def information_flow(
    model: Model,
    task: TaskNames,
    out: Out,
    data: Data = None,
    samples: Samples = 64,
    seeds: Seeds = "42,43,44,45,46",
    shots: Shots = 1,
    demonstrations: Demonstrations = "per_prompt",
    too_long: TooLong = "refuse",
    label_words: LabelWords = None,
    head_reduce: Annotated[str, typer.Option(help="abs_of_sum (the authors' code) or sum_of_abs.")] = "abs_of_sum",
    loss: Annotated[str, typer.Option(help="cross_entropy or logit_difference.")] = "cross_entropy",
    target: Annotated[str, typer.Option(help="Class whose loss is taken: gold or predicted.")] = "gold",
    protocol: ProtocolName = "corrected",
    batch_size: BatchSize = 16,
    dtype: Dtype = "float32",
    device: Device = None,
) -> None:
    """Saliency flow into and out of label words, by layer (section 2.1)."""
    from mechicl.studies.label_words import InformationFlow

    study = InformationFlow(
        choice("--protocol", protocol, "corrected", "paper"),
        head_reduce=choice("--head-reduce", head_reduce, "abs_of_sum", "sum_of_abs"),
        loss=choice("--loss", loss, "cross_entropy", "logit_difference"),
        target=choice("--target", target, "gold", "predicted"),
    )
    finish(
        study,
        Asked(
            model, task, data, samples, seeds, shots, demonstrations, too_long, batch_size, dtype, device, out,
            label_words,
        ),
    )  # fmt: skip


def isolation(
    model: Model,
    task: TaskNames,
    out: Out,
    data: Data = None,
    samples: Samples = 64,
    seeds: Seeds = "42,43,44,45,46",
    shots: Shots = 1,
    demonstrations: Demonstrations = "per_seed",
    too_long: TooLong = "refuse",
    label_words: LabelWords = None,
    layers: Annotated[str, typer.Option(help="Numbers of first and of last layers to isolate, with commas.")] = "1,3,5",
    mode: Annotated[
        str, typer.Option(help="presoftmax (the authors' code), postsoftmax_zero or postsoftmax_renorm.")
    ] = "presoftmax",
    pool: Annotated[str, typer.Option(help="Where random tokens may lie: all, demo_text or demo_template.")] = "all",
    random_seed: Annotated[int, typer.Option(help="Seed of the random control.")] = 0,
    protocol: ProtocolName = "corrected",
    batch_size: BatchSize = 16,
    dtype: Dtype = "float32",
    device: Device = None,
) -> None:
    """Predictions with label words cut off from what precedes them (section 2.2)."""
    from mechicl.studies.label_words import Isolation

    study = Isolation(
        choice("--protocol", protocol, "corrected", "paper"),
        n_layers=tuple(integers("--layers", layers)),
        mode=choice("--mode", mode, "presoftmax", "postsoftmax_zero", "postsoftmax_renorm"),
        pool=choice("--pool", pool, "all", "demo_text", "demo_template"),
        random_seed=random_seed,
    )
    finish(
        study,
        Asked(
            model, task, data, samples, seeds, shots, demonstrations, too_long, batch_size, dtype, device, out,
            label_words,
        ),
    )  # fmt: skip


def deep_layers(
    model: Model,
    task: TaskNames,
    out: Out,
    data: Data = None,
    samples: Samples = 64,
    seeds: Seeds = "42,43,44,45,46",
    shots: Shots = 1,
    demonstrations: Demonstrations = "per_seed",
    too_long: TooLong = "refuse",
    label_words: LabelWords = None,
    weight: Annotated[
        str, typer.Option(help="attention (the paper), or norm: times the length of the value that is moved.")
    ] = "attention",
    protocol: ProtocolName = "corrected",
    batch_size: BatchSize = 16,
    dtype: Dtype = "float32",
    device: Device = None,
) -> None:
    """How well attention to the label words tells the prediction, by layer (section 2.3)."""
    from mechicl.studies.label_words import DeepLayers

    study = DeepLayers(
        choice("--protocol", protocol, "corrected", "paper"),
        weight=choice("--weight", weight, "attention", "norm"),
    )
    finish(
        study,
        Asked(
            model, task, data, samples, seeds, shots, demonstrations, too_long, batch_size, dtype, device, out,
            label_words,
        ),
    )  # fmt: skip
