"""The picture of one prompt."""

from __future__ import annotations

import pytest

import mechicl as mi
from tests import tiny


def test_the_picture_shows_tokens_and_escapes_them() -> None:
    rows = [{"text": f"good <b>film & {i}", "label": ["no", "yes"][i % 2]} for i in range(8)]
    task = mi.Task("jokes", "Line: {text}\nFunny:{label}", {"no": " Negative", "yes": " Positive"}, rows)
    model = tiny.model("gpt2")
    prompt = task.prompts(tiny.tokenizer(), samples=1)[0]
    maps = mi.studies.saliency_map(model, prompt, [0, 2])
    figure = mi.studies.saliency_figure(prompt, maps, [0, 2])
    assert len(figure.data) == 2
    for heat in figure.data:
        assert max(max(row) for row in heat.z) == pytest.approx(1.0)
        assert all(row[i] == 0 for i, row in enumerate(heat.z))
    assert len(figure.layout.xaxis.ticktext) == 3, "of a long prompt the columns name label words and target alone"
    ticks = figure.layout.yaxis.ticktext
    assert len(ticks) == len(prompt)
    assert not any("<b>" in tick for tick in ticks)
    assert any("&amp;" in tick for tick in ticks)
    with pytest.raises(mi.InputError, match="layers 0-2"):
        mi.studies.saliency_map(model, prompt, [3])
    with pytest.raises(mi.InputError, match="give the map of this prompt"):
        mi.studies.saliency_figure(prompt, maps, [0])
