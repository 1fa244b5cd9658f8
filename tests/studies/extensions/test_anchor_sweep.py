"""The sweep of isolation over layers and kinds of tokens."""

from __future__ import annotations

import numpy as np
import pytest

from mechicl import isolation
from mechicl.errors import InputError
from mechicl.patches import IsolateTemplate
from mechicl.studies import anchor_sweep
from mechicl.studies.extensions.anchor_sweep import AnchorSweep
from tests import tiny
from tests.engines.test_compression import films
from tests.random_prompts import random_prompts


def test_a_window_from_the_first_layer_is_the_papers_isolation() -> None:
    model, prompts = tiny.model("gpt2"), films()
    swept = anchor_sweep(model, prompts, windows=(1, 2))
    ours = swept.table.query("isolated == 'label words' and window == 2 and layer == 0")
    theirs = isolation(model, prompts, n_layers=(2,)).table.query("isolated == 'label words' and where == 'first'")
    np.testing.assert_allclose(np.stack(ours["label_probs"]), np.stack(theirs["label_probs"]), rtol=1e-5)
    summary = swept.summary()
    assert set(summary[summary["window"] == 2]["layer"]) == {0, 1}
    last = summary.query("window == 1 and layer == 2")["mean"]
    np.testing.assert_allclose(last, 1)  # nothing after the last layer reads what its rows have gathered
    assert "shallow layers" in swept.finding()
    assert swept.figure().data


def test_every_kind_isolates_one_token_a_demonstration() -> None:
    prompt = films(shots=2)[0]
    before, behind = (IsolateTemplate((0,), which=which).rows(prompt, 0) for which in ("before_label", "after_label"))
    assert [prompt.tokens[i] for i in before] == [prompt.tokens[prompt.target]] * 4
    assert len(behind) == 4
    assert set(IsolateTemplate((0,)).rows(prompt, 0)) == set(prompt.template_positions)


def test_refusals_say_what_to_do() -> None:
    with pytest.raises(InputError, match="3 layers, choose from 1 to 3"):
        anchor_sweep(tiny.model("gpt2"), films(), windows=(4,))
    wide = anchor_sweep(tiny.model("gpt2"), films(), windows=(2,))
    assert [verdict.reason for verdict in wide.claims] == [
        "Windows of 2 layers at either end overlap; use narrower ones (windows)."
    ]
    with pytest.raises(InputError, match="build it from a task"):
        IsolateTemplate((0,), which="before_label").rows(random_prompts(1)[0], 0)
    assert AnchorSweep().conditions(tiny.model("gpt2"))[0]["isolated"] == "nothing"
