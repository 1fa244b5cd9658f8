"""What a browser draws of every study's figure, measured: nothing overlaps, nothing stands outside, at every width."""

from __future__ import annotations

import gzip
import json
from base64 import b64decode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest

from mechicl.figures import NARROW, WIDE, arrange
from mechicl.report.drawing_script import drawing_script
from tests.browser import chromium
from tests.figures import adversarial
from tests.figures.test_every_figure import DRAWN

WIDTHS = {"page": (WIDE, 13.0), "phone": (NARROW, 13.0), "double column": (662, 10.67), "column": (317, 10.0)}
MEASURE = (Path(__file__).parent / "measure.js").read_text()


@dataclass(frozen=True)
class Page:
    page: Any

    def faults(self, figure: go.Figure, width: float, size: float) -> list[str]:
        """What stands outside of a figure, and which of its texts overlap."""
        shown = arrange(go.Figure(figure), width=width, size=size)
        return self.measured(shown.update_layout(width=width))

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


@pytest.mark.parametrize("change", [adversarial.many_layers, adversarial.many_tasks], ids=["layers", "tasks"])
@pytest.mark.parametrize("name", DRAWN)
def test_nothing_overlaps_and_nothing_is_cut(page: Page, name: str, change: Callable[[Any], Any]) -> None:
    figure = change(adversarial.small(name)).figure()
    faults = {width: page.faults(figure, *sizes) for width, sizes in WIDTHS.items()}
    assert not {width: found for width, found in faults.items() if found}


@pytest.mark.parametrize("name", ["cka", "joiner-ablation"])
def test_heat_maps_of_several_models_keep_their_scales_apart(page: Page, name: str) -> None:
    figure = adversarial.many_models(adversarial.small(name)).figure()
    faults = {width: page.faults(figure, *sizes) for width, sizes in WIDTHS.items()}
    assert not {width: found for width, found in faults.items() if found}
