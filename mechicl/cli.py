"""The `mechicl` command. Heavy imports happen inside commands, so that `--help` is instant."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from mechicl.errors import InputError, NumericalError

if TYPE_CHECKING:
    from mechicl.studies.study import Study

app = typer.Typer(
    help="Look inside language models while they learn in context.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
studies = typer.Typer(help="Run one experiment on a model and a task.", no_args_is_help=True)
app.add_typer(studies, name="run")
console = Console()

Model = Annotated[str, typer.Option(help="Hub name, local Hugging Face folder, or tiny-icl.")]
TaskName = Annotated[str, typer.Option(help="Task, or several with commas: sst2, trec, agnews, emo.")]
Data = Annotated[Path | None, typer.Option(help="File or folder with the task's data (or a folder of such folders); default: the hub.")]  # fmt: skip
Samples = Annotated[int, typer.Option(min=1, help="Prompts per task and seed.")]
Seeds = Annotated[str, typer.Option(help="Seeds of the demonstrations, with commas.")]
Shots = Annotated[int, typer.Option(min=1, help="Demonstrations per class.")]
Demonstrations = Annotated[str, typer.Option(help="per_seed: the same for all prompts of a seed; per_prompt: fresh for each.")]  # fmt: skip
ProtocolName = Annotated[str, typer.Option("--protocol", help="corrected, or paper: what the authors' code did.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Prompts per pass; halved by itself when memory runs out.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; default: the best there is.")]
Out = Annotated[Path, typer.Option(help="Folder for the results; a broken run goes on from what is there.")]


@app.command("list")
def list_everything() -> None:
    """List the studies and the tasks."""
    from mechicl.studies import STUDIES
    from mechicl.tasks import built_in_tasks

    table = Table("study", "what it shows", "paper", title="mechicl run STUDY", title_justify="left")
    for name, study in STUDIES.items():
        table.add_row(name, study.title, study.source)
    console.print(table)
    console.print("Tasks: " + ", ".join(built_in_tasks()))


@studies.command("information-flow")
def run_information_flow(
    model: Model,
    task: TaskName,
    out: Out,
    data: Data = None,
    samples: Samples = 64,
    seeds: Seeds = "42,43,44,45,46",
    shots: Shots = 1,
    demonstrations: Demonstrations = "per_prompt",
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
        _choice("--protocol", protocol, "corrected", "paper"),
        head_reduce=_choice("--head-reduce", head_reduce, "abs_of_sum", "sum_of_abs"),
        loss=_choice("--loss", loss, "cross_entropy", "logit_difference"),
        target=_choice("--target", target, "gold", "predicted"),
    )
    _run(study, model, task, out, data, samples, seeds, shots, demonstrations, batch_size, dtype, device)


@studies.command("isolation")
def run_isolation(
    model: Model,
    task: TaskName,
    out: Out,
    data: Data = None,
    samples: Samples = 64,
    seeds: Seeds = "42,43,44,45,46",
    shots: Shots = 1,
    demonstrations: Demonstrations = "per_seed",
    layers: Annotated[str, typer.Option(help="Numbers of first and of last layers to isolate, with commas.")] = "1,3,5",
    mode: Annotated[str, typer.Option(help="presoftmax (the authors' code), postsoftmax_zero or postsoftmax_renorm.")] = "presoftmax",  # fmt: skip
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
        _choice("--protocol", protocol, "corrected", "paper"),
        n_layers=tuple(_integers("--layers", layers)),
        mode=_choice("--mode", mode, "presoftmax", "postsoftmax_zero", "postsoftmax_renorm"),
        pool=_choice("--pool", pool, "all", "demo_text", "demo_template"),
        random_seed=random_seed,
    )
    _run(study, model, task, out, data, samples, seeds, shots, demonstrations, batch_size, dtype, device)


def _run(
    study: Study, model_name: str, task: str, out: Path, data: Path | None, samples: int, seeds: str, shots: int,
    demonstrations: str, batch_size: int, dtype: str, device: str | None,
) -> None:  # fmt: skip
    """What every study's command does: load, build prompts, measure cell by cell, save, draw, say where."""
    from mechicl.models import load_model
    from mechicl.report import write_report
    from mechicl.results import Cells
    from mechicl.tasks import load_task

    policy = _choice("--demonstrations", demonstrations, "per_seed", "per_prompt")
    tasks = [load_task(name, data=_data_of(name, data)) for name in _names("--task", task)]
    numbers = _integers("--seeds", seeds)
    cells = Cells(out)
    model = load_model(model_name, dtype=dtype, device=device)
    prompts = [
        one.prompts(model.tokenizer, shots=shots, samples=samples, seed=seed, demonstrations=policy, n_ctx=model.cfg.n_ctx)
        for one in tasks
        for seed in numbers
    ]
    result = study.run(model, prompts, batch_size=batch_size, cells=cells)
    result.save(out)
    page = write_report([result], out, title=f"{study.title}: {model_name}", command=shlex.join(["mechicl", *sys.argv[1:]]))
    _print_summary(result)
    console.print(result.finding())
    print(page.resolve())


def _print_summary(result: Any, rows: int = 24) -> None:
    summary = result.summary().drop(columns="model")
    step = max(1, -(-len(summary) // rows))
    table = Table(*summary.columns, caption=f"every {step}th row of {len(summary)}; all in the report" if step > 1 else None)
    for row in summary.iloc[::step].itertuples(index=False):
        table.add_row(*[f"{value:.3f}" if isinstance(value, float) else str(value) for value in row])
    console.print(table)


def _data_of(task: str, data: Path | None) -> Path | None:
    """A folder may hold a folder per task."""
    return data / task if data is not None and (data / task).is_dir() else data


def _choice(option: str, value: str, *choices: str) -> Any:
    if value not in choices:
        raise InputError(f"{option} is {value!r}; choose {' or '.join(choices)}.")
    return value


def _integers(option: str, text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"{option} is {text!r}; give whole numbers with commas between them, as 42,43.") from None
    if len(set(numbers)) < len(numbers) or min(numbers) < 0:
        raise InputError(f"{option} is {text!r}; give each number once, and none below zero.")
    return numbers


def _names(option: str, text: str) -> list[str]:
    names = [part.strip() for part in text.split(",")]
    if not all(names) or len(set(names)) < len(names):
        raise InputError(f"{option} is {text!r}; give each name once, with commas between them.")
    return names


def main() -> None:
    """Run the command; what a user can put right ends in one sentence and exit code 2, an interruption in 130."""
    try:
        app()
    except (InputError, NumericalError) as error:
        print(f"mechicl: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nmechicl: interrupted; run the same command again to go on from here.", file=sys.stderr)
        sys.exit(130)
