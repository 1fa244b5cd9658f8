"""The report, as a browser shows it: offline, without errors, and every text as text."""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from mechicl.errors import InputError
from mechicl.models import load_model
from mechicl.report import write_report
from mechicl.report.drawing_script import CARTESIAN_VERSION
from mechicl.report.tables import table_html
from mechicl.results import Result
from mechicl.studies import compare_models, load_result, saved_results
from mechicl.studies.label_words.information_flow import InformationFlow
from mechicl.studies.label_words.isolation import Isolation
from mechicl.studies.label_words.reweighting import Reweighting
from mechicl.tasks import load_task
from tests import claiming
from tests.browser import Browser

HOSTILE = [
    "<script>window.hurt = 1</script>",
    "</script><script>window.hurt = 1</script>",
    "<img src=x onerror='window.hurt = 1'>",
    """"double" and 'single' quotes & &lt;b&gt;""",
    "שלום \u202e עולם",
    "🙂👩🏽\u200d🔬🇩🇪",
    "long " * 2000,
    "l" * 10_000,
    "<b>x</b> [red]y[/red] $z$ a_b*c",
]


@pytest.fixture(scope="module")
def results() -> list[Result]:
    """Three studies of the shipped model."""
    model = load_model("tiny-icl")
    task = load_task("tiny-topics-2")
    asked = {"samples": 4, "seed": 1}
    studies = (InformationFlow(), Isolation(n_layers=(1, 2)), Reweighting("paper", epochs=1, per_class=1, more_shots=0))
    return [study.run(model, study.prompts(task, model.tokenizer, **asked)) for study in studies]


def renamed(result: Result, name: str) -> Result:
    """The same measurements of a model, task and class of another name."""
    table = result.table.assign(model=name, task=name)
    if "gold_name" in table:
        table["gold_name"] = name
    model = {**result.provenance["model"], "name": name, "source": name}
    prompts = [{**one, "task": name, "label_words": [name], "template": name} for one in result.provenance["prompts"]]
    known = {**result.provenance, "model": model, "prompts": prompts, "command": f"mechicl run --model {name!r}"}
    return replace(result, table=table, provenance=known)


@pytest.fixture(scope="module")
def page(results: list[Result], tmp_path_factory: pytest.TempPathFactory) -> Path:
    command = "mechicl run isolation --model tiny-icl"
    told = [replace(result, provenance={**result.provenance, "command": command}) for result in results]
    return write_report(told, tmp_path_factory.mktemp("report"))


def test_the_browser_writes_down_what_goes_wrong(browser: Browser, tmp_path: Path) -> None:
    """The control of every test below: errors and requests would be seen."""
    page = tmp_path / "page.html"
    page.write_text("<!doctype html><title>x</title><img src='http://example.org/a.png'><script>nothing()</script>")
    tab = browser.open(page)
    assert any("nothing" in error for error in tab.errors)
    assert tab.requests == ["http://example.org/a.png"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_opens_offline_and_fits(page: Path, browser: Browser, scheme: str, width: int) -> None:
    tab = browser.open(page, scheme=scheme, width=width)
    assert (tab.errors, tab.requests) == ([], [])
    assert tab.fits()
    drawn = tab.page.locator("figure .main-svg")
    assert drawn.count() >= 3
    colours = {
        tab.page.evaluate("getComputedStyle(document.body).backgroundColor"),
        tab.page.evaluate("getComputedStyle(document.querySelector('.xtick text')).fill"),
    }
    dark = {"rgb(22, 23, 26)", "rgb(232, 232, 234)"}
    assert (colours == dark) is (scheme == "dark"), "figures have the page's colours"


def test_panels_stand_below_one_another_where_the_page_is_narrow(page: Path, browser: Browser) -> None:
    heights = [
        browser.open(page, width=width).page.evaluate("document.querySelectorAll('figure .plot')[1].offsetHeight")
        for width in (1280, 360)
    ]
    assert heights[1] > 2 * heights[0]


@pytest.mark.parametrize(("width", "layout"), [(1280, 1040), (1079, 700), (800, 700), (739, 320), (390, 320)])
def test_no_figure_is_narrower_than_its_layout(page: Path, browser: Browser, width: int, layout: int) -> None:
    tab = browser.open(page, width=width)
    laid_out = "[...document.querySelectorAll('figure')].map((one) => [Number(one.dataset.width), one.querySelector('.plot').clientWidth])"
    for made_for, room in tab.page.evaluate(laid_out):
        assert made_for == layout <= room


def test_figures_follow_the_width_of_the_window(page: Path, browser: Browser) -> None:
    tab = browser.open(page)
    height = "document.querySelectorAll('figure .plot')[1].offsetHeight"
    wide = tab.page.evaluate(height)
    tab.page.set_viewport_size({"width": 390, "height": 900})
    tab.page.wait_for_selector("figure[data-width='320']")
    assert tab.page.evaluate(height) > 2 * wide
    tab.page.set_viewport_size({"width": 1280, "height": 900})
    tab.page.wait_for_selector("figure[data-width='1040']")
    assert tab.page.evaluate(height) == wide
    assert tab.errors == []


def test_figures_follow_a_change_of_colours(page: Path, browser: Browser) -> None:
    tab = browser.open(page)
    ink = "getComputedStyle(document.querySelector('.xtick text')).fill"
    before = tab.page.evaluate(ink)
    tab.page.emulate_media(color_scheme="dark")
    for _ in range(100):  # wait_for_function would evaluate text in the page, which its policy forbids
        if tab.page.evaluate(ink) != before:
            break
        tab.page.wait_for_timeout(50)
    assert tab.page.evaluate(ink) != before
    assert tab.errors == []


def test_every_text_is_shown_as_text(results: list[Result], browser: Browser, tmp_path: Path) -> None:
    page = write_report([renamed(results[i % 3], name) for i, name in enumerate(HOSTILE)], tmp_path)
    tab = browser.open(page)
    assert (tab.errors, tab.requests) == ([], [])
    assert tab.fits()
    assert tab.page.evaluate("window.hurt") is None
    assert tab.page.locator("img, main script:not([type='text/plain'])").count() == 0
    heading = tab.page.locator("h1").text_content()
    sections = tab.page.locator("section:has(figure)")
    for place, name in enumerate(HOSTILE):
        assert name in heading
        assert name in sections.nth(place).locator("dl").text_content()
        assert name in sections.nth(place).locator("table").last.text_content()
    for place in (0, 3, 8):  # figures that name the task; the names further on are too long or change direction
        drawn = "".join(sections.nth(place).locator("svg text").all_text_contents())
        assert HOSTILE[place].replace(" ", "") in drawn.replace(" ", ""), "in figures too, whose lines break at spaces"


def test_one_study_twice_says_in_what_it_differs(results: list[Result], tmp_path: Path, browser: Browser) -> None:
    isolated = results[1]
    page = write_report([isolated, renamed(isolated, "gpt2-xl"), isolated, results[0]], tmp_path)
    tab = browser.open(page)
    headings = tab.page.locator("section:has(figure) h2").all_text_contents()
    assert len(set(headings)) == 4
    assert "gpt2-xl" in headings[1]
    assert all("tiny-icl" in headings[place] for place in (0, 2))
    assert headings[3] == results[0].study.title
    assert tab.page.locator("nav a").all_text_contents() == headings


def test_where_nothing_hovers_no_buttons_lie_on_the_figure(page: Path, browser: Browser) -> None:
    touched = browser.open(page, width=390, has_touch=True, is_mobile=True)
    assert touched.page.locator(".plot svg").count() > 0
    assert touched.page.locator(".modebar-btn").count() == 0
    assert browser.open(page).page.locator(".modebar-btn").count() > 0, "the control"


def test_a_page_is_small(page: Path) -> None:
    """plotly.js alone is 4.8 MB."""
    assert page.stat().st_size < 1.5e6


def test_a_figure_of_another_kind_takes_all_of_plotly(results: list[Result], tmp_path: Path, browser: Browser) -> None:
    class Polar(InformationFlow):
        def figure(self, result: Result) -> go.Figure:
            return go.Figure(go.Scatterpolar(r=[1, 2], theta=[0, 90]), {"height": 400})

    page = write_report([replace(results[0], study=Polar())], tmp_path)
    tab = browser.open(page)
    assert tab.errors == []
    assert tab.page.locator(".plot .polar").count() > 0


def test_where_the_script_cannot_be_unpacked_the_page_says_so(page: Path, tmp_path: Path, browser: Browser) -> None:
    old = tmp_path / "old.html"
    old.write_text(page.read_text().replace("new DecompressionStream", "new NoSuchStream"))
    tab = browser.open(old)
    assert tab.errors == []
    assert "all numbers are in the tables" in tab.page.locator(".plot").first.text_content()


def test_the_shipped_part_of_plotly_is_of_the_version_that_it_says() -> None:
    script = gzip.decompress(files("mechicl.report").joinpath("plotly-cartesian.min.js.gz").read_bytes())
    assert f"plotly.js (cartesian - minified) v{CARTESIAN_VERSION}" in script[:200].decode()


def test_landmarks_headings_and_tables_are_named(page: Path, browser: Browser) -> None:
    tab = browser.open(page).page
    assert tab.locator("html").get_attribute("lang") == "en"
    for landmark in ("header", "nav[aria-label]", "main", "footer", "h1"):
        assert tab.locator(landmark).count() == 1, landmark
    assert tab.locator("section").count() == tab.locator("section[aria-labelledby] > h2[id]").count() == 4
    assert tab.locator("table").count() == tab.locator("table > caption").count() >= 3
    assert tab.locator("th:not([scope])").count() == 0
    assert tab.locator(".plot[role=group][aria-label]").count() == 3
    described = tab.evaluate(
        "[...document.querySelectorAll('[aria-describedby]')].map((e) => e.getAttribute('aria-describedby'))"
    )
    assert described
    assert all(tab.locator(f"#{name}").count() == 1 for name in described)
    identifiers = tab.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    named = [name for name in identifiers if not name.startswith(("clip", "g", "legend", "topdefs", "defs"))]
    assert len(named) == len(set(named))


def test_the_keyboard_reaches_everything(page: Path, browser: Browser) -> None:
    tab = browser.open(page).page
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "Skip to the results"
    assert tab.locator(".skip").bounding_box()["x"] >= 0, "seen when it has the focus"
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "results"
    before = tab.evaluate(
        "[...document.querySelectorAll('main a, main button, main summary')].findIndex(one => one.matches('summary'))"
    )
    reached = []
    for _ in range(20 + before):
        tab.keyboard.press("Tab")
        reached.append(tab.evaluate("document.activeElement.tagName"))
        assert tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    assert "SUMMARY" in reached


def test_a_table_is_copied_by_its_button(page: Path, browser: Browser, results: list[Result]) -> None:
    tab = browser.open(page).page
    tab.evaluate("addEventListener('copy', (e) => { window.copied = e.clipboardData.getData('text/plain'); })")
    tab.locator("details.numbers summary").first.click()
    tab.locator("details.numbers button.copy").first.click()
    copied: Any = tab.evaluate("window.copied")
    rows = [line.split("\t") for line in copied.splitlines()]
    summary = results[0].summary()
    assert sorted(rows[0]) == sorted(summary.columns), "also those that the caption has, the same in all rows"
    assert rows[1][rows[0].index("model")] == rows[-1][rows[0].index("model")] == "tiny-icl"
    assert len(rows) == len(summary) + 1
    assert float(rows[1][rows[0].index("mean")]) == pytest.approx(summary["mean"].iloc[0], abs=5e-5)
    assert tab.locator("#status").text_content() == "Copied."


def test_the_page_says_what_was_asked_and_how_to_make_it_again(page: Path, browser: Browser) -> None:
    tab = browser.open(page).page
    asked = tab.locator("header dl").text_content()
    for fact in ("tiny-icl", "tiny-topics-2", "Seeds"):
        assert fact in asked
    protocols = [own.text_content() for own in tab.locator("section dl").all()]
    assert ["Protocolcorrected" in own for own in protocols] == [True, True, False]
    commands = tab.locator("section:has(figure) pre.command")
    assert commands.all_text_contents() == ["mechicl run isolation --model tiny-icl"] * 3, "one in each section"
    origin = json.loads(tab.locator("pre.provenance").first.text_content())
    assert origin["model"]["weight_digest"]
    for folded in ("pre.command", "pre.provenance"):
        assert not tab.locator(folded).first.is_visible(), "folded away"


def test_published_values_stand_beside_measured_ones(results: list[Result], browser: Browser, tmp_path: Path) -> None:
    of_sst2 = replace(results[2], table=results[2].table.assign(task="sst2"))
    tab = browser.open(write_report([of_sst2], tmp_path)).page
    table = tab.locator("table", has=tab.locator("caption", has_text="Published against measured"))
    assert "GPT2-XL" in table.text_content()


def test_further_numbers_follow_the_figure_and_repeat_no_verdict(
    results: list[Result], browser: Browser, tmp_path: Path
) -> None:
    isolated = results[1]
    several = compare_models([isolated, renamed(isolated, "gpt2-xl")])
    tab = browser.open(write_report([isolated, several, results[0]], tmp_path)).page
    counts = tab.locator("section:has(figure) .said:has-text('Measured:')").text_content()
    further = tab.locator("section:has(figure) details:has(> summary:text-is('Further numbers'))")
    alone, of_models = (further.nth(place).text_content() for place in range(2))
    for verdict in isolated.claims:
        assert verdict.claim.sentence in isolated.finding(), "the control"
        assert counts.count(verdict.claim.sentence) == 1, "on how many models"
        for text in (alone, of_models):
            assert verdict.claim.sentence not in text
            assert not verdict.reason or verdict.reason not in text
    assert "Isolated layers: " in alone
    assert of_models.index("tiny-icl: Isolated layers: ") < of_models.index("gpt2-xl: Isolated layers: ")
    after = further.first.evaluate("(p) => document.querySelector('figure').compareDocumentPosition(p)")
    assert after & 4, "the figure comes first"


def test_a_table_of_another_version_is_told_and_left_out(results: list[Result], tmp_path: Path) -> None:
    results[0].save(tmp_path)
    old = results[1]
    replace(old, table=old.table.drop(columns="isolated")).save(tmp_path)
    with pytest.raises(InputError, match=r"Another version .* the table of isolation in .*; run the study again"):
        load_result(tmp_path, "isolation")
    with pytest.warns(UserWarning, match="Another version"):
        assert [result.name for result in saved_results(tmp_path)] == ["information-flow"]


def test_the_page_opens_with_all_verdicts_and_each_leads_to_its_study(
    results: list[Result], browser: Browser, tmp_path: Path
) -> None:
    claimed = [claiming.result_of(("sst2", "trec")), results[2], claiming.result_of(model="l" * 10_000)]
    for width in (1280, 390):
        tab = browser.open(write_report(claimed, tmp_path), width=width)
        assert (tab.errors, tab.requests, tab.fits()) == ([], [], True)
        first = tab.page.locator("section").first
        assert first.locator("h2").text_content() == "Claims"
        ours = first.locator("tbody tr", has=tab.page.locator("a", has_text="A study with claims"))
        outcomes = ["supported", "contradicted", "undecided"]
        assert ours.locator("td[data-name=verdict]").all_text_contents() == outcomes * 3
        target = ours.last.locator("a").get_attribute("href")
        section = tab.page.locator(f"section:has({target})")
        assert section.locator(".verdicts tbody tr").count() == 3, "of the last study"
        above = section.evaluate(
            "(s) => s.querySelector('.verdicts').compareDocumentPosition(s.querySelector('figure'))"
        )
        assert above & 4, "above the figure"
        assert tab.page.evaluate("window.hurt") is None
    single = browser.open(write_report(claimed[:1], tmp_path)).page
    assert single.locator("table.verdicts").count() == 1


def test_layers_are_whole_numbers_also_where_some_are_missing() -> None:
    table = pd.DataFrame({"layer": [1.0, 22.0, np.nan], "share": [1.0, 0.5, np.nan], "all": 1.0})
    shown = re.sub(r"<[^>]*>", " ", table_html(table, "Stages")).split()
    assert shown[-9:] == ["1", "1.0000", "1.0000", "22", "0.5000", "1.0000", "–", "–", "1.0000"]
