"""`mechicl reproduce ...`: every experiment of a paper on one model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from mechicl.cli.command import asking
from mechicl.cli.finish import run
from mechicl.cli.jobs import Done, Job, print_line, print_summary, run_jobs, saved
from mechicl.cli.options import Asked, OnAllOfLabelWords, OnPrompts
from mechicl.cli.options_of_stages import OnAllOfStages
from mechicl.cli.sharing import helpers_of
from mechicl.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from mechicl.prompts import PromptSet
    from mechicl.results import Cells
    from mechicl.studies.study import Protocol, Study


A = TypeVar("A")
_UNRELATED, _TWO_SHOTS, _NORM, _BEYOND = "unrelated-labels", "two-per-class", "norm-weighted", "extensions"
_PARTS = ("corrected", "paper", _TWO_SHOTS, f"{_TWO_SHOTS}-paper", _NORM, _UNRELATED, _BEYOND)

papers = typer.Typer(help="Run every experiment of a paper on one model.", no_args_is_help=True)


@papers.command("label-words")
@asking(OnAllOfLabelWords, without=("demonstrations", "label_words", "mislabelled"), samples=1000)
def label_words(asked: OnAllOfLabelWords) -> None:
    """Run all of Label Words are Anchors, in both protocols: one page each in OUT/paper and OUT/corrected.

    Further pages use two demonstrations per class (OUT/two-per-class, OUT/two-per-class-paper), attention weighted by
    the norm of what it moves (OUT/norm-weighted), and, if sst2 is among the tasks, the unrelated labels A and B
    (OUT/unrelated-labels). With --extensions, there is also a page of the studies beyond both papers (OUT/extensions),
    on 32 prompts per seed.
    """
    from mechicl.progress import progress
    from mechicl.results import Cells
    from mechicl.studies.label_words.published import against_published

    cells = Cells(asked.out)
    model = asked.load_model()
    plan = [
        (part, study, own) for part in _PARTS for study, own in _label_word_studies(part, model.cfg.n_layers, asked)
    ]
    drawn: dict[OnPrompts, list[PromptSet]] = {}
    pages: dict[str, Path] = {}
    with progress("label-words", len(plan)) as advance, helpers_of(asked, model, cells) as helpers:
        jobs: list[Job] = [(part, study, _tried(_prompts, part, study, own, model, drawn)) for part, study, own in plan]
        wanted = [job for job in jobs if job[2] != []]  # no task suits the study
        refused = [given for *_, given in wanted if isinstance(given, InputError)]
        if len(refused) == len(wanted) and len(set(map(str, refused))) == 1:
            raise refused[0]  # such as an unknown task, said once instead of for each study
        advance(len(jobs) - len(wanted))
        done, failed = run_jobs(wanted, model, asked, cells, helpers, advance, pages)
    if failed and not done:
        raise failed[-1][-1]
    print_summary(against_published([result for _, result in done]), done, failed, asked, _PARTS, pages)


def _tried(make: Callable[..., A], *arguments: Any) -> A | InputError:
    """The inputs of all studies, made before any study begins; or why there is none."""
    try:
        return make(*arguments)
    except InputError as error:
        return error


def _prompts(
    part: str, study: Study, asked: OnPrompts, model: Any, drawn: dict[OnPrompts, list[PromptSet]]
) -> list[PromptSet]:
    """The input of a study of one part; `drawn` holds what several studies have in common."""
    if part == _UNRELATED:
        prompts = _unrelated(study, asked, model)
    elif study.shares_prompts:
        prompts = drawn[asked] = drawn.get(asked) or asked.material(study, model)
    else:
        prompts = asked.material(study, model)
    if study.name == "error-diagnosis":  # it ranks pairs of classes, and two classes have only one pair
        return [one for one in prompts if len(one.class_names) > 2]
    return prompts


def _label_word_studies(part: str, n_layers: int, asked: OnAllOfLabelWords) -> list[tuple[Study, OnPrompts]]:
    """The studies of one part, each with its input.

    A part is a protocol, two demonstrations per class (App. F.1), norm-weighted attention, or SST-2 with labels A and B
    (App. F.2). Studies beyond the paper have no counterpart in the authors' code.
    """
    from mechicl import studies as w

    layers = tuple(n for n in (1, 3, 5, 7) if n <= max(1, n_layers // 2))  # first and last layers do not overlap
    if part == _UNRELATED:
        own = replace(asked, task="sst2", label_words="negative= A,positive= B", shots="8")
        of_sst2 = "sst2" in asked.task.split(",")
        as_in_fig_12 = tuple(n for n in layers if n <= 5)[-1:]
        return [(w.Isolation(n_layers=as_in_fig_12), own), (w.DeepLayers(), own)] if of_sst2 else []
    if part == _BEYOND:
        return _beyond(asked) if asked.extensions else []
    if part == _NORM:
        return [(w.DeepLayers(weight="norm"), asked)]
    if part.startswith(_TWO_SHOTS):
        asked = replace(asked, shots="2")
    protocol: Protocol = "paper" if part.endswith("paper") else "corrected"
    studies: list[tuple[Study, OnPrompts]] = [
        (w.InformationFlow(protocol, by_head=True), replace(asked, demonstrations="per_prompt")),
        (w.Isolation(protocol, n_layers=layers), asked),
        (w.DeepLayers(protocol), asked),
    ]
    if part.startswith(_TWO_SHOTS):
        return studies
    studies += [
        (w.Compression(protocol), asked),
        (w.CompressionSpeed(protocol, repeats=1), asked),  # intervals are over prompts, each timed once
        (w.Reweighting(protocol), asked),
        (w.ErrorDiagnosis(protocol), replace(asked, shots="1", order="encounter")),
    ]
    if protocol == "paper":
        return studies
    one = replace(asked, seeds=asked.seeds.split(",")[0], samples=1)
    return [(w.OnePrompt(), one), *studies, (w.AnchorKinds(), asked)]


def _beyond(asked: OnPrompts) -> list[tuple[Study, OnPrompts]]:
    """The studies of `mechicl.studies.extensions`, on the prompts of their own commands."""
    from mechicl import studies as w

    few = replace(asked, samples=min(asked.samples, 32))
    fresh = replace(few, demonstrations="per_prompt")
    return [
        (w.AnchorSweep(), few), (w.DecisionLayer(), fresh), (w.AnchorPatching(), few), (w.AnchorHeads(), fresh),
        (w.ShotSweep(), few),
    ]  # fmt: skip


def _unrelated(study: Study, asked: OnPrompts, model: Any) -> list[PromptSet]:
    """Prompts with the paper's eight demonstrations, halved until they fit."""
    try:
        return asked.material(study, model)
    except InputError as error:
        fewer = replace(asked, shots=str(int(asked.shots) // 2))
        if fewer.shots == "0":
            raise
        print_line(f"{study.name} ({_UNRELATED}) is tried with {fewer.shots} demonstrations per class: {error}", asked)
        return _unrelated(study, fewer, model)


@papers.command("stages")
@asking(OnAllOfStages, batch_size=4, processing="fold")
def stages(asked: OnAllOfStages) -> None:
    """Run all of Stages of Inference, in both protocols: one page each in OUT/paper and OUT/corrected.

    With several texts, each has a folder of its name in OUT. Add Word-in-Context data (--word-pairs), benchmarks
    (--benchmarks, extra lm-eval) or tasks for in-context learning (--task) to measure these, too.
    """
    from mechicl.progress import progress
    from mechicl.results import Cells
    from mechicl.studies import LesionedBenchmarks, LesionedLearning, Wic

    cells = Cells(asked.out)
    texts = {Path(Path(one.text).name if several else ""): one for one, several in asked.of_each_text()}
    model = asked.load_model()
    if asked.task is not None:
        asked.prompts().material(LesionedLearning(), model)  # a wrong task is said before hours of work
    jobs: list[Job] = [  # also a text, before hours of work on another one
        (str(folder / protocol), study, one.material(study, model))
        for folder, one in texts.items()
        for protocol in _PROTOCOLS
        for study in _stages_studies(protocol, model.cfg.n_layers, asked)
        if study.reads == "text" or folder == next(iter(texts))  # what does not depend on the text is measured once
    ]
    with progress("stages", len(jobs)) as advance, helpers_of(asked, model, cells) as helpers:
        done, failed = run_jobs(jobs, model, asked, cells, helpers, advance)
        _join(done, asked)
    if failed and not done:
        raise failed[-1][-1]
    if asked.task is not None:  # these helpers hold the machine until they end; the second model needs others
        done += _where_the_papers_meet(done, asked, cells)
    for study, given, what in (
        (Wic(), asked.word_pairs, "word-pairs"),
        (LesionedBenchmarks(), asked.benchmarks, "benchmarks"),
    ):
        if given is None:
            failed.append((jobs[0][0], study, InputError(f"Its data were not given; add --{what}.")))
    print_summary(_published(done), done, failed, asked, list(dict.fromkeys(part for part, *_ in jobs)), {})


def _published(done: Done) -> pd.DataFrame:
    """Published and measured values, for each text."""
    import pandas as pd

    from mechicl.studies.stages.published import against_published

    folders = list(dict.fromkeys(Path(part).parent for part, _ in done))
    tables = {
        folder.name: against_published([result for part, result in done if Path(part).parent == folder])
        for folder in folders
    }
    if len(tables) == 1:
        return next(iter(tables.values()))
    return pd.concat([table.assign(text=name) for name, table in tables.items()], ignore_index=True)


_PROTOCOLS: tuple[Protocol, ...] = ("corrected", "paper")


def _stages_studies(protocol: Protocol, n_layers: int, asked: OnAllOfStages) -> list[Study]:
    """The studies of one protocol, in running order; the authors' protocol has only those that differ."""
    from mechicl import studies as s

    windows = tuple(length for length in (3, 5) if length <= n_layers)
    both: list[Study] = [
        s.LocalAttentionStudy(protocol, by_head=protocol == "corrected"),
        s.LensStudy(protocol),
        s.NormsStudy(protocol),
        s.Cka(protocol),
        s.Voting(protocol),
        s.ClassLogits(protocol),
    ]
    if protocol == "paper":
        return [s.Lesions(protocol), *both]
    kinds = ("drop", "swap", "attention", "mlp", "replace", *(("repeat",) if windows else ()))
    studies = [s.Atlas(), s.Lesions(kinds=kinds, windows=windows or (1,)), s.TokenLesions(), s.ManyLesions(), *both]
    studies += [s.NeuronsStudy(), s.EntropyNeurons(), s.ContextExchange(), s.WordMerging(), s.WordIdentity()]
    studies += [s.InnerLexicon(), s.JoinerAblation(), s.RightThenWrong(), s.CausalStages(), s.PartOfSpeech()]
    if asked.word_pairs is not None:
        studies.append(s.Wic())
    if asked.benchmarks is not None:
        studies.append(s.LesionedBenchmarks(windows=windows[-1:] or (1,)))
    return studies


def _join(done: Done, asked: Asked) -> None:
    """Add other studies' results about the stages to the atlas, so that its boundaries rest on them, too."""
    from mechicl.studies import STUDIES
    from mechicl.studies.stages.joined_atlas import JOINED, joined_atlas

    for place, (part, result) in enumerate(done):
        others = [  # word pairs and weights belong to all texts
            one for of_part, one in done
            if one.name in JOINED and (of_part == part or STUDIES[one.name].reads != "text")
        ]  # fmt: skip
        if result.name == "stages-atlas" and others:
            done[place] = (part, saved(joined_atlas(result, others), asked, part))


def _where_the_papers_meet(done: Done, asked: OnAllOfStages, cells: Cells) -> Done:
    """In-context learning under ablations, and the first paper's curves on the atlas, with unprocessed weights."""
    from mechicl.studies import DeepLayers, InformationFlow, LesionedLearning
    from mechicl.studies.stages.in_context_atlas import in_context_atlas

    prompts = asked.prompts()
    model = prompts.load_model()
    try:
        with helpers_of(prompts, model, cells) as helpers:
            flow, deep, lesioned = (
                run(study, model, prompts.material(study, model), prompts, cells, helpers)
                for study in (InformationFlow(untrained=0), DeepLayers(), LesionedLearning())
            )
    except InputError as error:  # the pages of the other studies are still made
        print_line(f"In-context learning under ablation has no result: {error}", asked)
        return []
    for place, (part, one) in enumerate(done):
        if one.name == "stages-atlas":
            done[place] = (part, saved(in_context_atlas(one, flow, deep), asked, part))
    return [(done[0][0], saved(lesioned, asked, done[0][0]))]
