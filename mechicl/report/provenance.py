"""The inputs of a result, from its provenance: a few named facts, in reading order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mechicl.figures import shortened
from mechicl.results import Result


def facts(result: Result) -> dict[str, str]:
    """Model, prompts or text, protocol and switches of a result."""
    known = result.provenance
    found = {"Model": _each(_model(model) for model in _listed(known.get("model")))}
    prompts = _listed(known.get("prompts"))
    if prompts:
        found |= _prompts(prompts)
    texts = [one["text"] for one in known.get("each", ()) if one.get("text")] or _listed(known.get("text"))
    if texts:  # of every model, or every text
        found["Text"] = _each(map(_text, texts), "; ")
    switches = dict(known.get("settings", {}))
    found["Protocol"] = str(switches.pop("protocol", result.study.protocol))
    if switches:
        found["Switches"] = "; ".join(f"{name} = {_value(value)}" for name, value in switches.items())
    return found


def shared_facts(all_facts: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The facts that are the same for all results of a page."""
    first, *others = all_facts
    return {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}


def _model(model: Mapping[str, Any]) -> str:
    source = f" ({model['source']})" if model.get("source") not in (None, model.get("name")) else ""
    details = [model.get("dtype"), model.get("device"), f"processing {model.get('processing')}"]
    return f"{model.get('name')}{source}: " + ", ".join(str(one) for one in details if one)


def _prompts(sets: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    words = [f"{one.get('task')}: {', '.join(map(repr, one.get('label_words', ())))}" for one in sets]
    demonstrations = [f"{one.get('shots')} per class, {one.get('demonstrations', 'as given')}" for one in sets]
    return {
        "Tasks": _each(str(one.get("task")) for one in sets),
        "Label words": _each(words, "; "),
        "Seeds": _each(str(one.get("seed")) for one in sets),
        "Prompts": f"{sum(int(one.get('prompts', 0)) for one in sets)} in {_counted(len(sets), 'set')} (task and seed)",
        "Demonstrations": _each(demonstrations, "; "),
    }


def headings(results: Sequence[Result]) -> list[str]:
    """A heading per result; those of the same study and protocol name their differences."""
    plain = [_heading(result) for result in results]
    found = []
    for result, heading in zip(results, plain, strict=True):
        alike = [other for other, its in zip(results, plain, strict=True) if its == heading]
        differing = [what for what in _DIFFERENCES if len({what(other) for other in alike}) > 1]
        details = ", ".join(shortened(what(result), 60) for what in differing)
        found.append(f"{heading}{f': {details}' if details else ''}")
    return [
        heading if found.count(heading) == 1 else f"{heading} ({found[: place + 1].count(heading)})"
        for place, heading in enumerate(found)
    ]


def _heading(result: Result) -> str:
    paper = result.study.protocol == "paper"
    return result.study.title + (", as the authors' code did it" if paper else "")


def _models(result: Result) -> str:
    return _each(map(str, result.table["model"].unique()))


def _asked_about(result: Result) -> str:
    known = result.provenance
    return _each(str(one.get("task")) for one in _listed(known.get("prompts"))) or str(
        dict(known.get("text") or {}).get("source", "")
    )


def _seeds(result: Result) -> str:
    return "seeds " + _each(str(one.get("seed")) for one in _listed(result.provenance.get("prompts")))


def _shots(result: Result) -> str:
    return _each(str(one.get("shots")) for one in _listed(result.provenance.get("prompts"))) + " shots"


_DIFFERENCES = (_models, _asked_about, _seeds, _shots)
"""Facts to name if a study is on a page more than once."""


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _text(text: Mapping[str, Any]) -> str:
    how = (
        "one per document" if text.get("packing") == "documents" else f"{text.get('packing')}, seed {text.get('seed')}"
    )
    return (
        f"{text.get('source')}: {text.get('tokens')} tokens in {_counted(text.get('sequences', 0), 'sequence')} of "
        f"at most {text.get('n_ctx')}, {how}"
    )


def _listed(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]


def _each(values: Iterable[str], between: str = ", ") -> str:
    return between.join(dict.fromkeys(values))


def _value(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
