"""Kinds of tokens: they divide the template, and what is left out is all that is not kept."""

from __future__ import annotations

import pytest
import torch

from mechicl.engines.compression import keep, kept_positions
from mechicl.engines.context import read_context
from mechicl.engines.prefix import run_shared
from mechicl.errors import InputError
from mechicl.hooks import run
from mechicl.patches import IsolateLabels, IsolateTemplate
from mechicl.prompts import Prompt
from mechicl.studies import anchor_kinds
from mechicl.studies.label_words.anchor_kinds import RANDOM, AnchorKinds
from tests import tiny
from tests.engines.test_compression import films

STUDY = AnchorKinds()


@pytest.mark.parametrize("bos", [False, True])
def test_separators_and_words_make_the_template(bos: bool) -> None:
    prompt = films(prepend_bos=bos)[0]
    separators, words = STUDY.positions(prompt, "separators"), STUDY.positions(prompt, "template words")
    assert sorted((*separators, *words)) == sorted(prompt.template_positions)
    text = [prompt.string[slice(*prompt.offsets[p])] for p in separators]
    assert set("".join(text)) <= set(": \n")
    assert len(separators) >= 4 * 2  # two colons and two line breaks a demonstration
    assert "".join(prompt.string[slice(*prompt.offsets[p])] for p in words).split()[:2] != []
    assert len(STUDY.positions(prompt, RANDOM)) == len(prompt.anchors)
    assert set(STUDY.positions(prompt, RANDOM)) <= set(prompt.w)
    assert kept_positions(prompt, "label+separators") == tuple(
        sorted({*kept_positions(prompt, "label"), *kept_positions(prompt, "separators")})
    )


def test_each_change_is_what_it_says() -> None:
    model, prompts = tiny.model("gpt2"), films()
    table = anchor_kinds(model, prompts).table
    predicted = {place: rows["predicted"].tolist() for place, rows in table.groupby(["change", "kind"])}
    assert len(predicted) == len(STUDY.conditions(model)) == 22
    layers, first = range(model.cfg.n_layers), prompts[0]
    patches = [IsolateLabels(layers, span="label"), IsolateTemplate(layers, which="separators")]
    assert predicted["isolated", "label words, separators"] == run(model, prompts, patches=patches).predicted.tolist()
    rest = sorted({*range(first.query_start)} - {*first.separator_positions})
    left = keep(read_context(model, first), rest, "original").ask(model, prompts)
    assert predicted["left out", "separators"] == left.predicted.tolist()
    alone = keep(read_context(model, first), kept_positions(first, "label"), "original").ask(model, prompts)
    assert predicted["kept alone", "label words"] == alone.predicted.tolist()


def test_isolating_the_template_in_parts_is_isolating_it() -> None:
    model, prompts = tiny.model("llama"), films()
    parts = [IsolateTemplate([0, 1], which=which) for which in ("separators", "words")]
    both = run_shared(model, prompts, patches=parts).label_logits
    torch.testing.assert_close(both, run(model, prompts, patches=[IsolateTemplate([0, 1])]).label_logits)


def test_it_is_told_and_drawn() -> None:
    result = anchor_kinds(tiny.model("gpt2"), films())
    mean = result.summary().set_index(["metric", "change", "kind"])["mean"]
    assert mean["kind_tokens", "nothing", ""] == films()[0].query_start
    assert mean["kind_tokens", "isolated", RANDOM] == 2
    assert "the separators" in result.finding()
    assert result.figure().data


def test_a_stored_prompt_knows_no_kinds() -> None:
    stored = [Prompt.from_positions(range(9), [[2], [5]], [0, 1])] * 2
    with pytest.raises(InputError, match="build it from a task"):
        anchor_kinds(tiny.model("gpt2"), stored)
