"""`mechicl scan`: a first look at one prompt, in seconds."""

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from mechicl.cli import completion
from mechicl.cli.finish import printed, terminal
from mechicl.cli.options import OnPrompts
from mechicl.errors import InputError

_PRINTED = ("layer", "reading", "gathering", "reads_most", "lens", "answer_prob", "isolated_prob")


def scan(
    context: typer.Context,
    model: Annotated[
        str, typer.Option(help="Any model, as in `mechicl run`.", autocompletion=completion.models)
    ] = "tiny-icl",
    task: Annotated[
        Optional[str],  # noqa: UP045  # typer reads it
        typer.Option(help="A task or task file; one of its prompts is shown.", autocompletion=completion.tasks),
    ] = None,
    text: Annotated[Optional[str], typer.Option(help="A text instead of a task's prompt.")] = None,  # noqa: UP045
    answers: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help='Possible next words of a text, such as " Paris, Rome"; default: the five most probable.'),
    ] = None,
    chat: Annotated[
        bool,
        typer.Option("--chat", help="Use the tokenizer's chat template: the text is a message, examples are turns."),
    ] = False,
    data: Annotated[
        Optional[Path], typer.Option(help="File or folder with the task's data; default: the task's own.")  # noqa: UP045
    ] = None,
    shots: Annotated[str, typer.Option(help="Demonstrations per class.")] = "1",
    seed: Annotated[int, typer.Option(help="Seed of the demonstrations and of the prompts.", min=0)] = 42,
    prompt: Annotated[int, typer.Option(help="Which of the seed's prompts, counted from 0.", min=0)] = 0,
    out: Annotated[Path, typer.Option(help="Folder for the page.")] = Path("mechicl-scan"),
) -> None:
    """Look at one prompt: its answer, enrichment, logit lens, reading heads and isolation, layer by layer.

    Example: mechicl scan --model smollm2-135m-q4 --task reviews
    """
    if (task is None) == (text is None):
        raise InputError("Give either --task or --text; scan reads a single prompt.")
    of_task = [name for name in ("data", "shots", "seed", "prompt") if _is_given(context, name)]
    if text is not None and of_task:
        raise InputError(f"--{of_task[0]} applies to --task; a text has no demonstrations of a task.")
    if answers is not None and text is None:
        raise InputError("--answers applies to --text; the answers of a task are its label words.")
    asked = OnPrompts(
        model=model, out=out, task=task or "", data=data, samples=prompt + 1, seeds=str(seed), shots=shots, chat=chat
    )
    loaded = asked.load_model()
    found = _scanned(loaded, asked, prompt, text, answers)
    console = terminal()
    console.print(printed("", _table(found), numbers=["reading", "gathering", "answer_prob", "isolated_prob"]))
    if "reading" in found.frame():
        console.print("Reading and gathering: saliency of label words, in times an average token's.", style="dim")
    console.print(found.finding())
    if len(found.heads):
        heads = ", ".join(f"L{one.layer}H{one.head}" for one in found.heads.itertuples(index=False))
        console.print(f"Heads with the largest saliency from label words to the target: {heads}.")
    print(found.save_html(out / "scan.html").resolve())


def _is_given(context: typer.Context, option: str) -> bool:
    source = context.get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"


def _scanned(model: Any, asked: OnPrompts, number: int, text: str | None, answers: str | None) -> Any:
    from mechicl.explorer import scan as look

    if text is not None:
        given = [{"role": "user", "content": text}] if asked.chat else text
        several = None if answers is None else answers.split(",")
        return look(model, given, answers=several)
    from mechicl.studies import OnePrompt

    prompts, *others = asked.material(OnePrompt(), model)
    if others:
        raise InputError(f"scan looks at one prompt, and --task names several tasks: {asked.task}; give one.")
    if number >= len(prompts):
        raise InputError(f"--prompt is {number}, and {asked.task} has {len(prompts)} prompts, counted from 0.")
    return look(model, prompts[number])


def _table(found: Any) -> Any:
    """The printed table by layer: factors with three digits, probabilities in percent."""
    from mechicl.models.tokenizers import visible

    table = found.frame()[[column for column in _PRINTED if column in found.frame()]]
    for column in table:
        if column in ("reading", "gathering"):
            table = table.assign(**{column: [f"{value:.3g}" for value in table[column]]})
        elif column in ("answer_prob", "isolated_prob"):
            table = table.assign(**{column: [f"{value:.0%}" for value in table[column]]})
        elif column != "layer":
            table = table.assign(**{column: [visible(text) for text in table[column]]})
    return table
