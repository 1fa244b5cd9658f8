"""Options that commands share, and how their texts are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from mechicl.errors import InputError

Model = Annotated[str, typer.Option(help="tiny-icl, a hub name, or a local Hugging Face folder.")]
TaskNames = Annotated[str, typer.Option("--task", help="Task, or several with commas; `mechicl list` names them.")]
Data = Annotated[
    Path | None,
    typer.Option(help="File or folder with the task's data, or a folder of such folders; default: the hub."),
]
Samples = Annotated[int, typer.Option(min=1, help="Prompts per task and seed.")]
Seeds = Annotated[str, typer.Option(help="Seeds of the demonstrations, with commas.")]
Shots = Annotated[int, typer.Option(min=1, help="Demonstrations per class.")]
Demonstrations = Annotated[
    str, typer.Option(help="per_seed: the same for all prompts of a seed; per_prompt: fresh for each.")
]
TooLong = Annotated[
    str,
    typer.Option(
        help="Prompts beyond the context: refuse; drop them; or shorter: draw only examples that surely fit. "
        "None is ever cut."
    ),
]
LabelWords = Annotated[
    str | None,
    typer.Option(help='Other label words, as "negative= A,positive= B"; the space before a word belongs to it.'),
]
ProtocolName = Annotated[str, typer.Option("--protocol", help="corrected, or paper: what the authors' code did.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Prompts per pass; halved by itself when memory runs out.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; default: the best there is.")]
Out = Annotated[Path, typer.Option(help="Folder for the results; a broken run goes on from what is there.")]


@dataclass(frozen=True)
class Asked:
    """What a command of the first paper runs on."""

    model: str
    tasks: str
    data: Path | None
    samples: int
    seeds: str
    shots: int
    demonstrations: str
    too_long: str
    batch_size: int
    dtype: str
    device: str | None
    out: Path
    label_words: str | None = None

    def load_model(self) -> Any:
        """The HookedTransformer asked for."""
        from mechicl.models import load_model

        return load_model(self.model, dtype=self.dtype, device=self.device)

    def prompt_sets(self, model: Any, make: Callable[..., Any] | None = None) -> list[Any]:
        """A prompt set for every task and seed: `task.prompts(...)`, or `make(task, ...)` of a study's own."""
        from mechicl.tasks import Task, load_task

        policy = choice("--demonstrations", self.demonstrations, "per_seed", "per_prompt")
        too_long = choice("--too-long", self.too_long, "refuse", "drop", "shorter")
        seeds = integers("--seeds", self.seeds)
        words = None if self.label_words is None else assignments("--label-words", self.label_words)
        return [
            (make or Task.prompts)(
                load_task(name, data=data_of(name, self.data), label_words=words),
                model.tokenizer, shots=self.shots, samples=self.samples, seed=seed, demonstrations=policy,
                n_ctx=model.cfg.n_ctx, too_long=too_long,
            )
            for name in names("--task", self.tasks)
            for seed in seeds
        ]  # fmt: skip


def data_of(task: str, data: Path | None) -> Path | None:
    """The task's data: a folder may hold a folder per task."""
    return data / task if data is not None and (data / task).is_dir() else data


def choice(option: str, value: str, *choices: str) -> Any:
    """The value, if it is one of the choices."""
    if value not in choices:
        raise InputError(f"{option} is {value!r}; choose {', '.join(choices[:-1])} or {choices[-1]}.")
    return value


def integers(option: str, text: str) -> list[int]:
    """Whole numbers from a text such as 42,43."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"{option} is {text!r}; give whole numbers with commas between them, as 42,43.") from None
    if len(set(numbers)) < len(numbers) or min(numbers) < 0:
        raise InputError(f"{option} is {text!r}; give each number once, and none below zero.")
    return numbers


def choices(option: str, text: str, *among: str) -> tuple[Any, ...]:
    """Several of the choices from a text such as label,template."""
    return tuple(choice(option, name, *among) for name in names(option, text))


def names(option: str, text: str) -> list[str]:
    """Names from a text such as sst2,trec."""
    found = [part.strip() for part in text.split(",")]
    if not all(found) or len(set(found)) < len(found):
        raise InputError(f"{option} is {text!r}; give each name once, with commas between them.")
    return found


def assignments(option: str, text: str) -> dict[str, str]:
    """Words by name from a text such as "negative= A,positive= B"; spaces of the words are kept."""
    pairs = [part.split("=") for part in text.split(",")]
    if any(len(pair) != 2 for pair in pairs) or len({pair[0].strip() for pair in pairs}) < len(pairs):
        raise InputError(f'{option} is {text!r}; give each class a word, as "negative= A,positive= B".')
    return {name.strip(): word for name, word in pairs}
