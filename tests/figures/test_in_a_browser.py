"""What a browser draws of every study's figure, measured: nothing overlaps, nothing stands outside, at every width."""

from __future__ import annotations

import gzip
import json
from base64 import b64decode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from mechicl.figures import BLUE, GREY, NARROW, NOTEBOOK, WIDE, arrange
from mechicl.report.drawing_script import drawing_script
from mechicl.studies.drawing import Curve, Drawing, Level, Panel, draw
from tests.browser import chromium
from tests.figures import adversarial
from tests.figures.test_every_figure import DRAWN, figure_of

WIDTHS = {
    "page": (WIDE, WIDE, 13.0), "window of 800": (NOTEBOOK, 760, 13.0), "phone": (NARROW, 350, 13.0),
    "double column": (662, 662, 10.67), "column": (317, 317, 10.0),
}  # fmt: skip
"""Of each place: the width of the layout, that of the plot, and the text size."""
MEASURE = (Path(__file__).parent / "measure.js").read_text()


@dataclass(frozen=True)
class Page:
    page: Any

    def faults(self, figure: go.Figure, width: float, shown: float, size: float) -> list[str]:
        """What stands outside of a figure laid out for a width, or in its panels, and which of its texts overlap."""
        made = arrange(go.Figure(figure), width=width, size=size)
        return self.measured(made.update_layout(width=shown))

    def measured(self, figure: go.Figure) -> list[str]:
        made = json.loads(figure.to_json())
        found: list[str] = self.page.evaluate(
            "([data, layout]) => measure(data, layout)", [made["data"], made["layout"]]
        )
        return found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    script = gzip.decompress(b64decode(drawing_script([]))).decode()
    path = tmp_path_factory.mktemp("figures") / "page.html"
    path.write_text(f"<!doctype html><meta charset=utf-8><body><script>{script}</script><script>{MEASURE}</script>")
    with chromium() as browser:
        tab = browser.new_page(viewport={"width": 1100, "height": 900})
        tab.goto(path.as_uri())
        yield Page(tab)


def test_overlaps_and_what_is_cut_would_be_seen(page: Page) -> None:
    """The control: an annotation beside the figure, and two at one place."""
    figure = go.Figure(go.Scatter(x=[0, 1], y=[0, 1]), {"height": 300, "meta": {"title": "x"}})
    for text, x in (("one", 0.2), ("two", 0.2), ("further out", 1.4)):
        figure.add_annotation(text=text, x=x, y=0.5, xref="paper", showarrow=False, xanchor="left")
    found = page.measured(figure.update_layout(width=400))
    assert any("one | two" in fault for fault in found)
    assert any(fault.startswith("outside: further out") for fault in found)


def test_a_figure_narrower_than_its_layout_would_be_seen(page: Page) -> None:
    """The control of the widths of pages: labels of one panel in the next."""
    figure = adversarial.small("reweighting").figure()
    assert any(fault.startswith("in a panel: ") for fault in page.faults(figure, WIDE, 760, 13.0))


SLOW = {("class-logits", "layers"), ("one-prompt", "tasks")}
CROWDED = [
    pytest.param(name, change, id=f"{name}-{kind}", marks=pytest.mark.thorough if (name, kind) in SLOW else [])
    for kind, change in (("layers", adversarial.many_layers), ("tasks", adversarial.many_tasks)) for name in DRAWN
]  # fmt: skip


@pytest.mark.parametrize(("name", "change"), CROWDED)
def test_nothing_overlaps_and_nothing_is_cut(page: Page, name: str, change: Callable[[Any], Any]) -> None:
    figure = change(adversarial.small(name)).figure()
    faults = {width: page.faults(figure, *sizes) for width, sizes in WIDTHS.items()}
    assert not {width: found for width, found in faults.items() if found}


@pytest.mark.parametrize("name", ["cka", "joiner-ablation"])
def test_heat_maps_of_several_models_keep_their_scales_apart(page: Page, name: str) -> None:
    figure = adversarial.many_models(adversarial.small(name)).figure()
    faults = {width: page.faults(figure, *sizes) for width, sizes in WIDTHS.items()}
    assert not {width: found for width, found in faults.items() if found}


@pytest.mark.parametrize(
    "change",
    [adversarial.one_outlier, adversarial.wide_intervals, adversarial.without_intervals, adversarial.one_row],
    ids=lambda change: change.__name__,
)
def test_nothing_overlaps_on_tables_that_figures_break_on(page: Page, change: Callable[[Any], Any]) -> None:
    """All figures at one width, that of a page between a desktop's and a phone's."""
    faults = {name: page.faults(figure_of(name, change), *WIDTHS["window of 800"]) for name in DRAWN}
    assert not {name: found for name, found in faults.items() if found}


def test_levels_of_about_the_same_height_have_their_names_apart(page: Page) -> None:
    for heights in ((0.5, 0.5), (0.5, 0.51), (0.1, 0.1)):
        levels = [Level(height, GREY, f"level {number}") for number, height in enumerate(heights)]
        rows = pd.DataFrame({"layer": [0, 1], "metric": "m", "mean": [0.2, 0.9], "low": np.nan, "high": np.nan})
        figure = draw(Drawing(rows, [Panel("one", [Curve("m", "m", BLUE), *levels])]), title="x", subtitle="")
        assert page.faults(figure, *WIDTHS["phone"]) == []
