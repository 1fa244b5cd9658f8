"""A first look says what plain passes and the studies' probes say, of prompts, texts and conversations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import mechicl as mi
from mechicl.explorer import Scan
from tests.browser import Browser


@pytest.fixture(scope="module")
def scanned(tiny_icl: Any, prompt: Any) -> Scan:
    return mi.scan(tiny_icl, prompt)


def test_a_scan_holds_the_numbers_of_plain_runs(scanned: Scan, tiny_icl: Any, prompt: Any) -> None:
    enrichment, lens = mi.probes.Enrichment(), mi.probes.LabelLens()
    out = mi.run(tiny_icl, prompt, [enrichment, lens], progress=None)
    table, best = scanned.frame(), int(out.predicted[0])
    assert scanned.probs == pytest.approx(out.label_probs[0].tolist(), rel=1e-4)
    for column, quantity, of_set in (("reading", "reading", 0), ("gathering_random", "gathering", 1)):
        assert table[column].to_numpy() == pytest.approx(out[enrichment][quantity][0, :, of_set].numpy(), rel=1e-4)
    by_lens = out[lens].values[0, 1:].softmax(-1)[:, best]
    assert table["answer_prob"].to_numpy() == pytest.approx(by_lens.numpy(), rel=1e-4)
    assert table["answer_prob"].iloc[-1] == pytest.approx(scanned.probs[best], rel=1e-4)
    for window, value in set(zip(table["window"], table["isolated_prob"], strict=True)):
        first, last = map(int, window.split("-"))
        patch = mi.patches.IsolateLabels(range(first, last + 1))
        plain = mi.run(tiny_icl, prompt, patches=[patch], progress=None).label_probs[0, best]
        assert value == pytest.approx(float(plain), rel=1e-4)


def test_heads_are_ranked_by_what_they_read_and_matter(scanned: Scan, tiny_icl: Any, prompt: Any) -> None:
    probe = mi.probes.HeadEnrichment(absolute=True)
    saliency = mi.run(tiny_icl, prompt, [probe], progress=None)[probe]["reading"][0]
    best = saliency.flatten().argsort(descending=True)[:8]
    assert list(zip(scanned.heads["layer"], scanned.heads["head"], strict=True)) == [divmod(int(i), 4) for i in best]


def test_a_text_has_no_label_words_and_the_models_own_answers(tiny_icl: Any) -> None:
    found = mi.scan(tiny_icl, "Text: the ta ni")
    assert not {"reading", "isolated_prob"} & set(found.frame())
    assert len(found.heads) == 0
    said = tiny_icl(torch.tensor([found.prompt.tokens]), prepend_bos=False)[0, -1].argmax()
    assert found.answer == tiny_icl.tokenizer.decode([int(said)]) == found.frame()["lens"].iloc[-1]
    assert "label words" not in found.finding()


def test_a_finding_quotes_no_best_layer_and_says_that_it_is_one_prompt(scanned: Scan) -> None:
    table = scanned.frame()
    assert f"in {(table['reading'] >= 2).sum()} of 6 layers (random text: {(table['reading_random'] >= 2).sum()})" in (
        scanned.finding()
    )
    assert scanned.finding().endswith("This is one prompt, an illustration.")


@pytest.mark.parametrize("window", [{"width": 1400}, {"width": 390, "scheme": "dark"}])
def test_the_page_needs_nothing_and_fits(
    browser: Browser, scanned: Scan, tmp_path: Path, window: dict[str, Any]
) -> None:
    tab = browser.open(scanned.save_html(tmp_path / "scan.html"), **window)
    assert (tab.errors, tab.requests) == ([], [])
    assert tab.fits()
    assert tab.page.locator("tbody tr").count() == 6
