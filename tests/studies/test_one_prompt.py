"""The picture of one prompt as a study: the edges are those of its saliency map."""

from __future__ import annotations

import numpy as np
import pytest

import mechicl as mi
from mechicl.studies import load_result


def test_the_drawn_edges_are_the_maps_and_outlive_saving(tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = mi.load_model("tiny-icl")
    prompts = mi.load_task("tiny-topics-4").prompts(model.tokenizer, samples=2)
    result = mi.studies.one_prompt(model, prompts, prompt=1, layers=(0, 4))
    maps = mi.studies.saliency_map(model, prompts[1], [0, 4]).tril(-1).numpy()
    result.save(tmp_path)
    for one in (result, load_result(tmp_path, "one-prompt")):
        figure = one.figure()
        for heat, edges in zip(figure.data, maps, strict=True):
            np.testing.assert_allclose(heat.customdata, edges, rtol=1e-5, atol=1e-9)
            assert np.argmax(heat.z) == np.argmax(edges)
        marked = [text for text in figure.layout.xaxis.ticktext if "D55E00" in text]
        assert len(marked) == len(prompts[1].label_positions)
        assert (one.summary().groupby("layer").size() == 10).all()
        assert "illustration" in one.finding()
        assert not one.claims
    with pytest.raises(mi.InputError, match="there are prompts 0 to 1"):
        mi.studies.one_prompt(model, prompts, prompt=2)
