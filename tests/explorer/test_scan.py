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
    assert tab.page.locator("table").nth(0).locator("tbody tr").count() == 6
    assert tab.page.locator("table").nth(1).locator("tbody tr").count() == scanned.lens["position"].nunique()


def test_the_lens_of_a_scan_is_the_logit_lens_by_position(scanned: Scan, tiny_icl: Any, prompt: Any) -> None:
    with torch.no_grad():
        _, cache = tiny_icl.run_with_cache(torch.tensor([prompt.tokens]), prepend_bos=False)
    final = cache["blocks.5.hook_resid_post"]
    answers = tiny_icl.unembed(tiny_icl.ln_final(final))[0].argmax(-1)
    assert set(scanned.lens["layer"]) == set(range(6))
    assert {prompt.target, *prompt.label_positions} <= set(scanned.lens["position"])
    for cell in scanned.lens.sample(12, random_state=0).itertuples():
        resid = cache[f"blocks.{cell.layer}.hook_resid_post"]
        probs = tiny_icl.unembed(tiny_icl.ln_final(resid))[0, cell.position].detach().softmax(-1)
        assert cell.guess == tiny_icl.tokenizer.decode([int(probs.argmax())])
        assert cell.probability == pytest.approx(float(probs[answers[cell.position]]), rel=1e-3, abs=1e-6)


def test_the_heat_map_of_the_lens_has_a_cell_for_each_layer_and_token(scanned: Scan, prompt: Any) -> None:
    (heat,) = scanned.figure().data
    places = scanned.lens["position"].drop_duplicates().to_list()
    assert heat.z.shape == (len(places), 6)
    row = heat.z[places.index(prompt.target)]
    assert row == pytest.approx(scanned.lens[scanned.lens["position"] == prompt.target]["probability"].to_numpy())
    assert any("Topic" in name for name in scanned.figure().layout.yaxis.ticktext)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_stands_on_the_pages_own_background_in_light_and_in_dark(
    browser: Browser, scanned: Scan, tmp_path: Path, scheme: str
) -> None:
    tab = browser.open(scanned.save_html(tmp_path / "scan.html"), scheme=scheme)
    boxes = tab.page.evaluate(
        "[...document.querySelectorAll('div, pre')].map(o => getComputedStyle(o).backgroundColor)"
    )
    assert set(boxes) == {"rgba(0, 0, 0, 0)"}, "a box of one colour is a patch of light on a dark page"
    contrasts = tab.page.evaluate(_CONTRASTS)
    assert len(contrasts) > 300
    assert min(contrasts) >= 4.5, "the least contrast of normal text by WCAG 2.1"


_CONTRASTS = """() => {
  const parse = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const over = ([r, g, b, a = 1], below) => [r, g, b].map((v, i) => a * v + (1 - a) * below[i]);
  const behind = node => node ? over(parse(getComputedStyle(node).backgroundColor), behind(node.parentElement))
    : matchMedia("(prefers-color-scheme: dark)").matches ? [18, 18, 18] : [255, 255, 255];
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  return [...document.querySelectorAll("bdi, th, td")].filter(one => one.textContent.trim()).map(one => {
    const [a, b] = [light(parse(getComputedStyle(one).color)), light(behind(one))].sort((x, y) => y - x);
    return (a + .05) / (b + .05);
  });
}"""
"""Contrast of every text of a page with what lies behind it."""
