"""A figure's file is as large as the figure was laid out, and its legend is on it."""

from __future__ import annotations

import pandas as pd
import pytest

from mechicl.errors import InputError
from mechicl.figures import BLUE, add_curve, panels, styled
from mechicl.figures.export import Width, images

NAMES = ["label words, first layers", "label words, last layers", "random tokens, first layers", "majority class"]


def figure():
    made = panels(["one", "two", "three"])
    rows = pd.DataFrame({"layer": [0, 1], "mean": [0.2, 0.4], "low": [0.1, 0.3], "high": [0.3, 0.5]})
    for column in (1, 2, 3):
        for name in NAMES:
            add_curve(made, rows, x="layer", name=name, colour=BLUE, column=column, legend=column == 1)
    return styled(made, title="title", subtitle="subtitle", x="layer", y="share")


@pytest.mark.parametrize("width", ["page", "single", "double"])
def test_a_file_is_as_high_as_its_figure(width: Width) -> None:
    pytest.importorskip("kaleido", reason="kaleido is not installed")
    try:
        picture, drawing = images([(figure(), "png", width), (figure(), "svg", width)])
    except InputError as error:
        pytest.skip(f"nothing to draw with: {error}")
    across, down = (int.from_bytes(picture[start : start + 4], "big") for start in (16, 20))
    head = drawing.decode()[:300]
    assert f'width="{across // 3}"' in head
    assert f'height="{down // 3}"' in head
    assert down > across if width == "single" else down < across, "three panels: one below the other, or in a row"
    for name in NAMES:
        assert name in drawing.decode()
