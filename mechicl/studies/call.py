"""Build the function through which users call a study, such as `mi.studies.wic(model, pairs, ...)`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import cache
from textwrap import dedent, fill
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from mechicl.declared import INPUTS, Declaration, claimant, declaration
from mechicl.doors import bound
from mechicl.results import Result
from mechicl.studies.study import Study


@cache
def call_of(study: type[Study]) -> Callable[..., Result]:
    """The study as a function: its arguments are a model and an input, its keywords the switches."""
    declared = declaration(study)

    def call(*arguments: Any, **values: Any) -> Result:
        given = bound(inspect.signature(call), call.__name__, arguments, values)
        settings = {switch.name: given[switch.name] for switch in declared.switches if switch.name in given}
        size = {"batch_size": given["batch_size"]} if "batch_size" in given else {}
        return study(**settings).run(given["model"], given.get(INPUTS[declared.reads].argument), **size)

    call.__name__ = call.__qualname__ = declared.name.replace("-", "_")
    call.__module__ = study.__module__
    call.__doc__ = docstring(study, declared)
    call.__signature__ = signature(study, declared)  # type: ignore[attr-defined]
    return call


def signature(study: type[Study], declared: Declaration) -> inspect.Signature:
    """Parameters: the model, the study's input, its switches, and the batch size."""
    hints = get_type_hints(study, include_extras=True)
    either, keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    material = INPUTS[declared.reads]
    parameters = [inspect.Parameter("model", either, annotation="Model")]
    if material.argument:
        parameters.append(inspect.Parameter(material.argument, either, annotation=material.type))
    for switch in declared.switches:
        hint = hints[switch.name]
        plain = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        several = next((one for one in (plain, *get_args(plain)) if get_origin(one) is tuple), None)
        inside: Any = plain
        if switch.several:
            inside = Sequence[get_args(several)[0]]  # type: ignore[misc]
            inside = inside | None if switch.optional else inside
        parameters.append(inspect.Parameter(switch.name, keyword, default=switch.default, annotation=inside))
    if declared.batch_size is not None:
        parameters.append(inspect.Parameter("batch_size", keyword, default=declared.batch_size, annotation=int))
    return inspect.Signature(parameters, return_annotation=Result)


def docstring(study: type[Study], declared: Declaration) -> str:
    """Title, source, claim, arguments and result, as a docstring."""
    material = INPUTS[declared.reads]
    arguments = {
        "model": "a HookedTransformer, a TransformerBridge, or an object that implements `mechicl.models.Adapter`."
    }
    if material.argument:
        arguments[material.argument] = f"{material.words}, from `{material.maker}`."
    arguments |= {switch.name: switch.help for switch in declared.switches}
    if declared.batch_size is not None:
        arguments["batch_size"] = "prompts or sequences per pass."
    listed = [_paragraph(f"{name}: {text}", "    ", "        ") for name, text in arguments.items()]
    rows = dedent(study.__doc__ or "").strip()
    return "\n\n".join(
        [
            declared.shows or declared.title,
            _paragraph(f"{declared.title} ({declared.source})."),
            _paragraph(f"{claimant(declared.source, declared.claim)}: {declared.claim}"),
            "\n".join(["Args:", *listed]),
            "\n".join(["Returns:", _paragraph(f"A result. {rows}", "    ", "    ")]),
        ]
    )


def _paragraph(text: str, first: str = "", then: str = "") -> str:
    return fill(" ".join(text.split()), 100, initial_indent=first, subsequent_indent=then, break_long_words=False)
