"""What a user named (task, class, model, column) is shown as it is: no markup of rich, HTML or TeX is read in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import pytest
from rich.console import Console

import mechicl as mi
from mechicl.cli.finish import show, terminal
from mechicl.results import Result
from mechicl.studies.label_words.error_diagnosis import ErrorDiagnosis
from mechicl.tasks import Task
from tests import tiny

NAMES = ["[red]x[/red]", "[/nothing]", ":fire:", "<b>x</b>", "<a href='y'>x</a>", "$x$", "a_b*c", "&lt;"]
WORDS = [" Positive", " Negative", " World"]


def drawn(figure: go.Figure) -> Iterator[str]:
    """Every string that plotly may draw."""

    def walk(value: Any) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            for key, inside in value.items():
                yield from walk(inside) if key not in ("meta", "template") else ()
        elif isinstance(value, (list, tuple)) or hasattr(value, "tolist"):
            for inside in value:
                yield from walk(inside)

    return walk(figure.to_dict())


def markup_in(figure: go.Figure) -> list[str]:
    """What plotly would read as HTML, beside the breaks and spans of our own, or as TeX."""
    return [text for text in drawn(figure) if re.search(r"<(?!br>|/?span|extra>|/extra>)|[$].*[$]", text)]


@pytest.fixture(scope="module")
def results() -> list[Result]:
    """Studies whose figures and summaries name the model, the task and the classes."""
    model = tiny.fresh("gpt2")
    model.cfg.model_name = " ".join(NAMES)
    told = []
    for names in (NAMES[:3], NAMES[3:6], NAMES[5:]):
        rows = [{"text": f"good film {i}", "label": name} for i in range(20) for name in names]
        task = Task(" ".join(names), "{text}\nA:{label}", dict(zip(names, WORDS, strict=True)), rows)
        study = ErrorDiagnosis(contexts=4, components=(1,))
        told.append(study.run(model, study.prompts(task, tiny.tokenizer(), samples=24)))
        told.append(mi.information_flow(model, task.prompts(tiny.tokenizer(), samples=3)))
    return told


def test_figures_show_names_as_they_are(results: list[Result]) -> None:
    shown = ""
    for result in results:
        figure = result.figure()
        assert markup_in(figure) == []
        shown += "".join(unescape(text.replace("<br>", " ")) for text in drawn(figure))
    for name in NAMES:
        assert name in shown
    control = go.Figure(go.Bar(x=[1], y=["<b>x</b>"], name="$x$"))
    assert markup_in(control) == ["$x$", "<b>x</b>"]


def test_the_terminal_shows_names_as_they_are(results: list[Result], capsys: pytest.CaptureFixture[str]) -> None:
    for name in NAMES:
        terminal().print(name)
        assert capsys.readouterr().out == f"{name}\n"
    Console().print(NAMES[0])
    assert capsys.readouterr().out == "x\n", "the control: rich reads markup where it is not told otherwise"
    table = pd.concat([results[1].table.assign(model=name) for name in NAMES])
    show(replace(results[1], table=table))
    shown = " ".join(capsys.readouterr().out.split())
    assert all(name in shown for name in NAMES if " " not in name), "names of one word stand in one line"
