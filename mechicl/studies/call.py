"""The function that a study is to its users, `mi.information_flow(model, prompts, ...)`, made from its declaration."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from textwrap import dedent, fill
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from mechicl.corpora import TokenCorpus, WordPairs
from mechicl.declared import MATERIAL, Declaration, claimant, declaration
from mechicl.prompts import Prompt, PromptSet
from mechicl.results import Result
from mechicl.studies.study import Study
from mechicl.tasks.benchmarks import Benchmarks

_TYPES: dict[str, Any] = {
    "prompts": PromptSet | Sequence[PromptSet] | Sequence[Prompt],
    "text": TokenCorpus,
    "pairs": WordPairs,
    "benchmarks": Benchmarks,
}
_MATERIAL = {
    "prompts": "one prompt set, or several (tasks, seeds), which make one result.",
    "text": "running text, from `mi.load_corpus`.",
    "pairs": "pairs of sentences that share a word, from `mi.load_word_pairs`.",
    "benchmarks": "benchmarks, from `mi.load_benchmarks`.",
}


def call_of(study: type[Study]) -> Callable[..., Result]:
    """The study as a function of a model and what it is run on, its switches as keywords."""
    told = declaration(study)
    expected = signature(study, told)

    def call(model: Any, *material: Any, **values: Any) -> Result:
        try:
            given = expected.bind(model, *material, **values).arguments
        except TypeError as error:
            raise TypeError(
                f"{call.__name__}(): {error}; its arguments are {', '.join(expected.parameters)}."
            ) from None
        own = {one.name: given[one.name] for one in told.switches if one.name in given}
        size = {"batch_size": given["batch_size"]} if "batch_size" in given else {}
        return study(**own).run(model, given.get(MATERIAL.get(told.reads, "")), **size)

    call.__name__ = call.__qualname__ = told.name.replace("-", "_")
    call.__module__ = study.__module__
    call.__doc__ = docstring(study, told)
    call.__signature__ = expected  # type: ignore[attr-defined]
    return call


def signature(study: type[Study], told: Declaration) -> inspect.Signature:
    """Model, what it is run on, the switches, and the size of a batch."""
    hints = get_type_hints(study, include_extras=True)
    either, keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter("model", either, annotation=Any)]
    if told.reads in MATERIAL:
        parameters.append(inspect.Parameter(MATERIAL[told.reads], either, annotation=_TYPES[told.reads]))
    for one in told.switches:
        hint = hints[one.name]
        plain = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        inside = Sequence[get_args(plain)[0]] if one.several else plain  # type: ignore[misc]
        parameters.append(inspect.Parameter(one.name, keyword, default=one.default, annotation=inside))
    if told.batch_size is not None:
        parameters.append(inspect.Parameter("batch_size", keyword, default=told.batch_size, annotation=int))
    return inspect.Signature(parameters, return_annotation=Result)


def docstring(study: type[Study], told: Declaration) -> str:
    """Title, source, claim, arguments and result, as a docstring."""
    arguments = {"model": "a HookedTransformer, or a class of your own that answers `mechicl.models.Adapter`."}
    if told.reads in MATERIAL:
        arguments[MATERIAL[told.reads]] = _MATERIAL[told.reads]
    arguments |= {one.name: one.help for one in told.switches}
    if told.batch_size is not None:
        arguments["batch_size"] = "prompts or sequences per pass."
    listed = [_paragraph(f"{name}: {text}", "    ", "        ") for name, text in arguments.items()]
    rows = dedent(study.__doc__ or "").strip()
    return "\n\n".join(
        [
            told.shows or told.title,
            _paragraph(f"{told.title} ({told.source})."),
            _paragraph(f"{claimant(told.source)}: {told.claim}"),
            "\n".join(["Args:", *listed]),
            "\n".join(["Returns:", _paragraph(f"A result. {rows}", "    ", "    ")]),
        ]
    )


def _paragraph(text: str, first: str = "", then: str = "") -> str:
    return fill(" ".join(text.split()), 100, initial_indent=first, subsequent_indent=then, break_long_words=False)
