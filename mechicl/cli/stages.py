"""`mechicl run ...`: the experiments of *Stages of Inference*."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mechicl.cli.finish import page, show
from mechicl.cli.options import (
    Asked,
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
    names,
)

if TYPE_CHECKING:
    from mechicl.studies.study import Study

Text = Annotated[
    str, typer.Option(help="Text: a file or folder (txt, jsonl, csv, parquet), a hub data set, or tiny-icl.")
]
Tokens = Annotated[int, typer.Option(min=1, help="Tokens of text.")]
Length = Annotated[int, typer.Option(min=3, help="Positions of a sequence, BOS included.")]
Column = Annotated[str, typer.Option(help="Column of a table that holds the text.")]
Split = Annotated[str, typer.Option(help="Split of a hub data set.")]
Seed = Annotated[int, typer.Option(help="Order of the documents.")]
Packing = Annotated[str, typer.Option(help="packed: full sequences; documents: one sequence each, cut (the authors').")]
Processing = Annotated[str, typer.Option(help="none, or fold: norms folded and weights centred, as in the papers.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Sequences per pass.")]

DEFAULT_TEXT = "NeelNanda/pile-10k"


@dataclass(frozen=True)
class OnText:
    """What a command of the second paper runs on."""

    model: str
    text: str
    tokens: int
    length: int
    seed: int
    packing: str
    column: str
    split: str
    processing: str
    batch_size: int
    dtype: str
    device: str | None
    out: Path

    def load_model(self) -> Any:
        """The HookedTransformer asked for; "fold" folds value biases too, as the authors did."""
        from mechicl.models import load_model

        processing = choice("--processing", self.processing, "none", "fold")
        return load_model(
            self.model, processing=processing, fold_value_biases=processing == "fold", dtype=self.dtype,
            device=self.device,
        )  # fmt: skip

    def corpus(self, model: Any) -> Any:
        """The running text asked for, with a BOS in front of every sequence."""
        from mechicl.corpora import load_corpus

        return load_corpus(
            model.tokenizer, self.text, prepend_bos=True, n_ctx=min(self.length, model.cfg.n_ctx), tokens=self.tokens,
            packing=choice("--packing", self.packing, "packed", "documents"), seed=self.seed, column=self.column,
            split=self.split,
        )  # fmt: skip


def finish(study: Study, asked: OnText) -> None:
    """Run a study on what is asked, cell by cell, and end with the path of the page to open."""
    from mechicl.results import Cells

    cells = Cells(asked.out)
    model = asked.load_model()
    material = asked.corpus(model) if study.reads == "text" else None
    result = study.run(model, material, batch_size=asked.batch_size, cells=cells)
    show(result)
    result.save(asked.out)
    print(page(asked.out).resolve())


def layer_lesions(
    model: Model,
    out: Out,
    text: Text = DEFAULT_TEXT,
    tokens: Tokens = 20_000,
    length: Length = 256,
    seed: Seed = 0,
    packing: Packing = "packed",
    column: Column = "text",
    split: Split = "train",
    kinds: Annotated[
        str, typer.Option(help="Of drop, swap, attention, mlp, replace, repeat; with commas.")
    ] = "drop,swap",
    windows: Annotated[str, typer.Option(help="Lengths of repeated windows, with commas.")] = "3,5",
    protocol: ProtocolName = "corrected",
    processing: Processing = "none",
    batch_size: BatchSize = 4,
    dtype: Dtype = "float32",
    device: Device = None,
) -> None:
    """Predictions with each layer dropped, swapped with the next, or repeated (section 4.1)."""
    from mechicl.studies.stages import Lesions

    study = Lesions(
        choice("--protocol", protocol, "corrected", "paper"),
        kinds=tuple(names("--kinds", kinds)),
        windows=tuple(integers("--windows", windows)),
    )
    finish(
        study,
        OnText(model, text, tokens, length, seed, packing, column, split, processing, batch_size, dtype, device, out),
    )


def local_attention(
    model: Model,
    out: Out,
    text: Text = DEFAULT_TEXT,
    tokens: Tokens = 20_000,
    length: Length = 256,
    seed: Seed = 0,
    packing: Packing = "packed",
    column: Column = "text",
    split: Split = "train",
    windows: Annotated[str, typer.Option(help="Numbers of previous tokens, with commas.")] = "1,2,4,5,8,16",
    protocol: ProtocolName = "corrected",
    processing: Processing = "none",
    batch_size: BatchSize = 8,
    dtype: Dtype = "float32",
    device: Device = None,
) -> None:
    """Attention to the previous tokens, to position 0 and to itself, by layer and head (section 5.1)."""
    from mechicl.studies.stages import LocalAttentionStudy

    study = LocalAttentionStudy(
        choice("--protocol", protocol, "corrected", "paper"), windows=tuple(integers("--windows", windows))
    )
    finish(
        study,
        OnText(model, text, tokens, length, seed, packing, column, split, processing, batch_size, dtype, device, out),
    )


def logit_lens(
    model: Model,
    out: Out,
    text: Text = DEFAULT_TEXT,
    tokens: Tokens = 20_000,
    length: Length = 256,
    seed: Seed = 0,
    packing: Packing = "packed",
    column: Column = "text",
    split: Split = "train",
    top_k: Annotated[int, typer.Option(min=1, help="Size of the sets of most probable tokens.")] = 10,
    protocol: ProtocolName = "corrected",
    processing: Processing = "fold",
    batch_size: BatchSize = 8,
    dtype: Dtype = "float32",
    device: Device = None,
) -> None:
    """Every layer's residual read as a prediction; the corrected and the authors' lens (section 5.2)."""
    from mechicl.studies.stages import LensStudy

    study = LensStudy(choice("--protocol", protocol, "corrected", "paper"), top_k=top_k)
    finish(
        study,
        OnText(model, text, tokens, length, seed, packing, column, split, processing, batch_size, dtype, device, out),
    )


def word_merging(
    model: Model,
    out: Out,
    text: Text = DEFAULT_TEXT,
    tokens: Tokens = 20_000,
    length: Length = 256,
    seed: Seed = 0,
    packing: Packing = "packed",
    column: Column = "text",
    split: Split = "train",
    processing: Processing = "none",
    batch_size: BatchSize = 8,
    dtype: Dtype = "float32",
    device: Device = None,
) -> None:
    """Whether early layers put a word's tokens together: attention, sub-joiner heads, and cuts (section 5.1)."""
    from mechicl.studies.stages import WordMerging

    finish(
        WordMerging(),
        OnText(model, text, tokens, length, seed, packing, column, split, processing, batch_size, dtype, device, out),
    )


def norms(
    model: Model,
    out: Out,
    text: Text = DEFAULT_TEXT,
    tokens: Tokens = 20_000,
    length: Length = 256,
    seed: Seed = 0,
    packing: Packing = "packed",
    column: Column = "text",
    split: Split = "train",
    protocol: ProtocolName = "corrected",
    processing: Processing = "fold",
    batch_size: BatchSize = 8,
    dtype: Dtype = "float32",
    device: Device = None,
) -> None:
    """Norms of what attention and MLPs add, and how far each layer turns the residual (section 5.4)."""
    from mechicl.studies.stages import NormsStudy

    finish(
        NormsStudy(choice("--protocol", protocol, "corrected", "paper")),
        OnText(model, text, tokens, length, seed, packing, column, split, processing, batch_size, dtype, device, out),
    )


def neurons(
    model: Model,
    out: Out,
    kurtosis: Annotated[
        float, typer.Option(help="Above it a neuron promotes or suppresses (a Gaussian has 3).")
    ] = 10.0,
    variance: Annotated[float, typer.Option(help="Above it a neuron splits the vocabulary in two.")] = 0.005,
    processing: Processing = "fold",
    dtype: Dtype = "float32",
    device: Device = None,
) -> None:
    """Prediction, suppression and partition neurons by layer, from weights alone (section 5.3)."""
    from mechicl.studies.stages import NeuronsStudy

    finish(
        NeuronsStudy(kurtosis=kurtosis, variance=variance),
        OnText(model, "", 0, 0, 0, "packed", "text", "train", processing, 1, dtype, device, out),
    )


def stages_atlas(
    model: Annotated[str, typer.Option(help="A model as elsewhere, or several with commas: a panel each.")],
    out: Out,
    text: Text = DEFAULT_TEXT,
    tokens: Tokens = 20_000,
    length: Length = 256,
    seed: Seed = 0,
    packing: Packing = "packed",
    column: Column = "text",
    split: Split = "train",
    processing: Processing = "fold",
    batch_size: BatchSize = 4,
    dtype: Dtype = "float32",
    device: Device = None,
) -> None:
    """All signatures of the four stages on relative depth, with a proposal of their boundaries (Fig. 1)."""
    from mechicl.results import Cells
    from mechicl.studies.stages import Atlas, compare_atlases

    cells, results = Cells(out), []
    for name in names("--model", model):
        asked = OnText(name, text, tokens, length, seed, packing, column, split, processing, batch_size, dtype, device,
                       out)  # fmt: skip
        loaded = asked.load_model()
        results.append(Atlas().run(loaded, asked.corpus(loaded), batch_size=batch_size, cells=cells))
    result = compare_atlases(results)
    show(result)
    result.save(out)
    print(page(out).resolve())


def lesioned_icl(
    model: Model,
    task: TaskNames,
    out: Out,
    data: Data = None,
    samples: Samples = 32,
    seeds: Seeds = "42,43,44,45,46",
    shots: Shots = 1,
    demonstrations: Demonstrations = "per_prompt",
    too_long: TooLong = "refuse",
    label_words: LabelWords = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts per pass.")] = 16,
    dtype: Dtype = "float32",
    device: Device = None,
) -> None:
    """In-context accuracy and information flow with each layer left out: where the two papers meet."""
    from mechicl.cli.finish import finish as finish_on_prompts
    from mechicl.studies.stages import LesionedLearning

    asked = Asked(
        model, task, data, samples, seeds, shots, demonstrations, too_long, batch_size, dtype, device, out, label_words
    )
    finish_on_prompts(LesionedLearning(), asked)
