"""The `mechicl` command. Heavy imports happen inside commands, so that `--help` is instant."""

from __future__ import annotations

import sys

import typer

from mechicl.cli import anchors, label_words, reproduce, stages
from mechicl.cli.demo import demo
from mechicl.errors import InputError, NumericalError

app = typer.Typer(
    help="Look inside language models while they learn in context.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
studies = typer.Typer(help="Run one experiment on a model and a task.", no_args_is_help=True)
app.add_typer(studies, name="run")
studies.command("information-flow")(label_words.information_flow)
studies.command("isolation")(label_words.isolation)
studies.command("deep-layers")(label_words.deep_layers)
studies.command("compression")(anchors.compression)
studies.command("reweighting")(anchors.reweighting)
studies.command("error-diagnosis")(anchors.error_diagnosis)
studies.command("anchor-sweep")(anchors.anchor_sweep)
studies.command("stages-atlas")(stages.stages_atlas)
studies.command("layer-lesions")(stages.layer_lesions)
studies.command("local-attention")(stages.local_attention)
studies.command("word-merging")(stages.word_merging)
studies.command("logit-lens")(stages.logit_lens)
studies.command("neurons")(stages.neurons)
studies.command("norms")(stages.norms)
studies.command("lesioned-icl")(stages.lesioned_icl)

papers = typer.Typer(help="Run every experiment of a paper on one model.", no_args_is_help=True)
app.add_typer(papers, name="reproduce")
papers.command("label-words")(reproduce.label_words)
papers.command("stages")(reproduce.stages)

app.command("demo")(demo)


@app.command("list")
def list_everything() -> None:
    """List the studies and the tasks."""
    from rich.console import Console
    from rich.table import Table

    from mechicl.studies import STUDIES
    from mechicl.tasks import built_in_tasks

    table = Table("study", "what it shows", "paper", title="mechicl run STUDY", title_justify="left")
    for name, study in STUDIES.items():
        table.add_row(name, study.title, study.source)
    console = Console()
    console.print(table)
    console.print("Tasks: " + ", ".join(built_in_tasks()))


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
