"""What was asked, read off a result's provenance: a few facts with names, in the order in which one would tell them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mechicl.results import Result


def facts(result: Result) -> dict[str, str]:
    """Model, prompts or text, protocol and switches of a result."""
    known = result.provenance
    found = {"Model": _each(_model(model) for model in _listed(known.get("model")))}
    prompts = _listed(known.get("prompts"))
    if prompts:
        found |= _prompts(prompts)
    if known.get("text"):
        found["Text"] = _text(known["text"])
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
        "Prompts": f"{sum(int(one.get('prompts', 0)) for one in sets)} in {len(sets)} sets (task and seed)",
        "Demonstrations": _each(demonstrations, "; "),
    }


def _text(text: Mapping[str, Any]) -> str:
    return (
        f"{text.get('source')}: {text.get('tokens')} tokens in {text.get('sequences')} sequences of at most "
        f"{text.get('n_ctx')}, {text.get('packing')}, seed {text.get('seed')}"
    )


def _listed(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]


def _each(values: Iterable[str], between: str = ", ") -> str:
    return between.join(dict.fromkeys(values))


def _value(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
