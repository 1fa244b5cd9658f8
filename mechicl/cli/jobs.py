"""Many studies of a paper: run one after another, each saved as soon as it is ready, with a page for each part.

A part is a folder of `--out`: a protocol, two demonstrations per class, a text.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mechicl.cli.finish import as_json, compared, keep, run, say_left_out, terminal
from mechicl.cli.options import Asked
from mechicl.cli.sharing import announce, begin, end_unless_last
from mechicl.cli.verdicts import print_verdicts
from mechicl.errors import InputError, NumericalError
from mechicl.limits import duration

if TYPE_CHECKING:
    import pandas as pd

    from mechicl.results import Cells, Result
    from mechicl.studies.parts import Material
    from mechicl.studies.running import Helpers
    from mechicl.studies.study import Study


Job = tuple[str, "Study", "Material | InputError"]
"""A part, a study, and its input, or why there is none."""
Done = list[tuple[str, "Result"]]
"""The results, each with its part."""
Failure = tuple[str, "Study", Exception]
"""A part, a study, and why it has no result."""


def run_jobs(
    jobs: Sequence[Job],
    model: Any,
    asked: Asked,
    cells: Cells,
    helpers: Helpers | None,
    advance: Callable[[int], None],
    pages: dict[str, Path] | None = None,
) -> tuple[Done, list[Failure]]:  # fmt: skip
    """Results of all jobs, each saved as soon as it is ready, and the failures, of which the reasons are printed.

    A part's page is written into `pages`, if given, as soon as its studies are done, while workers measure the others.
    """
    from mechicl.report import write_report

    ready = [(study, given) for _, study, given in jobs if not isinstance(given, InputError)]
    # All before any begins, because what is timed would be slower while workers run.
    seconds = sum(announce(helpers, study, model, given, asked) for study, given in ready)
    if seconds:
        alone = " by one shard alone" if asked.shard else ""
        estimate = f"Estimated time of the whole{alone}: {duration(seconds)} (an order of magnitude)."
        print(f"mechicl: {estimate}", file=sys.stderr)
    for study, given in ready:
        begin(helpers, study, model, given, asked, cells)
    end_unless_last(helpers, asked)
    done: Done = []
    failed: list[Failure] = []
    left = Counter(part for part, _, _ in jobs)
    for part, study, material in sorted(jobs, key=lambda job: job[1].measures_time):  # they wait until all is idle
        try:
            if isinstance(material, InputError):
                raise material
            done.append((part, saved(run(study, model, material, asked, cells, helpers), asked, part)))
        except (InputError, NumericalError) as error:  # such as no errors to diagnose; the other studies still run
            print_line(f"{study.name} ({part}) has no result: {error}", asked)
            failed.append((part, study, error))
        left[part] -= 1
        if pages is not None and not left[part] and (results := _results_of(part, done, asked)):
            pages[part] = write_report(results, asked.out / part)
        advance(1)
    return done, failed


def print_line(text: str, asked: Asked) -> None:
    """Print on standard output, or on standard error if that is for JSON."""
    print(text, file=sys.stderr if asked.as_json else sys.stdout)


def saved(result: Result, asked: Asked, part: str) -> Result:
    """The result as saved in the part's folder; its finding is printed."""
    result = keep(result, asked.out / part)
    if not asked.as_json:
        terminal().print(f"{result.name} ({part}): {result.finding()}".removesuffix(": "))
    return result


def _results_of(part: str, done: Done, asked: Asked) -> list[Result]:
    """All results in a part's folder, those of this command from memory."""
    from mechicl.studies import saved_results

    known = {result.name: result for of_part, result in done if of_part == part}
    return saved_results(asked.out / part, known=known)


def print_summary(
    table: pd.DataFrame, done: Done, failed: Sequence[Failure], asked: Asked, parts: Sequence[str],
    written: Mapping[str, Path],
) -> None:  # fmt: skip
    """Print published and measured values, then every claim's verdict, and the pages' paths last."""
    from mechicl.claims import Evidence, Verdicts, decide
    from mechicl.report import write_report

    results_of = {part: of_part for part in parts if (of_part := _results_of(part, done, asked))}
    paths = [written.get(part) or write_report(of_part, asked.out / part) for part, of_part in results_of.items()]
    pages = [str(path.resolve()) for path in paths]
    results = [(part, result) for part, of_part in results_of.items() for result in of_part]
    verdicts = [replace(one, about={"part": part, **one.about}) for part, result in results for one in result.claims]
    names = [str(result.provenance["model"]["name"]) for _, result in results]
    for part, study, why in failed:
        about = {"part": part, "study": study.name, "protocol": study.protocol, "model": [*names, asked.model][0]}
        verdicts += [decide(claim, Evidence.nothing(str(why)), about) for claim in study.claims]
    if asked.as_json:
        answer = {
            "claims": [verdict.facts() for verdict in verdicts],
            "results": [as_json(result) | {"part": part} for part, result in results],
            "published": table.to_dict("records"),
            "pages": pages,
        }
        print(json.dumps(answer, default=str))
        return
    console = terminal()
    shown, left_out = compared(table, console)
    console.print(shown)
    say_left_out(left_out, console)
    print_verdicts(Verdicts(verdicts), console)
    print("\n".join(pages))
