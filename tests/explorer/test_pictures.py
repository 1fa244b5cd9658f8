"""The explorer in a real browser: as a page without a kernel, and as the widget with a kernel that answers."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import mechicl as mi
from mechicl.explorer import Explorer
from mechicl.explorer.kept import OFF
from mechicl.explorer.page import ASSETS, script
from mechicl.explorer.widget import ExplorerWidget, make_widget, reply
from mechicl.prompts import Prompt
from tests import tiny
from tests.browser import Browser, Tab

HOSTILE = [
    "<script>window.hacked=1</script>",
    "\"quotes\" 'n' &amp; </script>",
    "שלום \u202e עולם",
    "🙂👩‍🔬",
    "x" * 10_000,
]


@pytest.fixture(scope="session")
def saved(explorer: Explorer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return explorer.save_html(tmp_path_factory.mktemp("explorer") / "flow.html")


def slide(tab: Tab, layer: int) -> None:
    tab.page.get_by_role("slider", name="Layer").fill(str(layer))


def arcs(tab: Tab) -> dict[str, float]:
    """Edges drawn and their widths, without those that are fading away."""
    found = tab.page.evaluate(
        "[...document.querySelectorAll('.mx-arc')].filter(p => p.style.opacity > 0)"
        ".map(p => [p.edge.query + '-' + p.edge.key, parseFloat(p.style.strokeWidth)])"
    )
    return dict(found)


def visible(tab: Tab) -> list[str]:
    """Edges that stand out."""
    found = tab.page.evaluate(
        "[...document.querySelectorAll('.mx-arc')].filter(p => p.style.opacity > 0.05)"
        ".map(p => p.edge.query + '-' + p.edge.key)"
    )
    return list(found)


def clean(tab: Tab) -> None:
    assert tab.errors == []
    assert tab.requests == []
    assert tab.fits()
    assert tab.page.evaluate("window.hacked") is None


@pytest.mark.parametrize("window", [{"width": 1280}, {"width": 390, "scheme": "dark"}])
def test_the_page_opens_offline_and_the_slider_changes_the_picture(
    browser: Browser, saved: Path, explorer: Explorer, window: dict[str, Any]
) -> None:
    tab = browser.open(saved, **window)
    expected = [{f"{q}-{k}" for q, k, _ in layer} for layer in explorer.first_view["saliency"]["edges"]]
    assert set(arcs(tab)) == expected[0]
    slide(tab, 2)
    assert set(arcs(tab)) == expected[2]
    assert expected[2] != expected[0]
    clean(tab)


def test_a_followed_token_keeps_its_edges_and_shows_its_guesses(browser: Browser, saved: Path, prompt: Any) -> None:
    tab = browser.open(saved)
    anchor = prompt.anchors[0]
    tab.page.locator(f"[data-token='{anchor}']").click()
    followed = visible(tab)
    assert followed
    assert all(str(anchor) in edge.split("-") for edge in followed)
    assert f"(token {anchor})" in tab.page.locator(".mx-readout").inner_text()
    assert tab.page.locator(".mx-lens tr").count() == 7
    tab.page.keyboard.press("Escape")
    assert len(visible(tab)) > len(followed)
    clean(tab)


def test_the_keyboard_is_enough(browser: Browser, saved: Path) -> None:
    tab = browser.open(saved)
    tab.page.locator("[data-token='0']").focus()
    for _ in range(3):
        tab.page.keyboard.press("ArrowRight")
    tab.page.keyboard.press("Enter")
    assert tab.page.locator("[data-token='3']").get_attribute("aria-pressed") == "true"
    tab.page.get_by_role("slider", name="Layer").focus()
    tab.page.keyboard.press("ArrowRight")
    assert tab.page.locator(".mx-where").inner_text() == "layer 1"
    unnamed = tab.page.evaluate(
        "[...document.querySelectorAll('button, input, select')].filter(e => !(e.getAttribute('aria-label') || "
        "e.textContent.trim() || e.closest('label')?.textContent.trim())).length"
    )
    assert unnamed == 0


def test_play_goes_from_shallow_to_deep_and_stops(browser: Browser, saved: Path) -> None:
    tab = browser.open(saved, reduced_motion="reduce")
    tab.page.clock.install()
    tab.page.get_by_role("button", name="Play from shallow to deep layers").click()
    for layer in range(1, 6):
        tab.page.clock.run_for(1100)
        assert tab.page.locator(".mx-where").inner_text() == f"layer {layer}"
    assert tab.page.get_by_role("button", name="Play from shallow to deep layers").count() == 1
    durations = tab.page.evaluate("getComputedStyle(document.querySelector('.mx-arc')).transitionDuration")
    assert set(re.findall(r"[\d.]+", durations)) == {"0"}


def test_a_page_switches_patches_one_at_a_time(browser: Browser, saved: Path, explorer: Explorer) -> None:
    tab = browser.open(saved)
    isolate, fewer = (tab.page.get_by_role("switch", name=name) for name in ("Isolate label words", "fewer anchors"))
    before = arcs(tab)
    isolate.click()
    assert arcs(tab) != before
    isolated = explorer.answer({"ask": "view", "switches": OFF | {"isolate": [0, 1]}})
    assert bars(tab) == pytest.approx([100 * p for p in isolated["probs"]], rel=1e-3)
    fewer.click()
    assert fewer.is_checked()
    assert not isolate.is_checked()
    tab.page.get_by_label("layer to drop").select_option("3")
    slide(tab, 3)
    assert arcs(tab) == {}
    assert "keeps the answer under this change" in tab.page.locator(".mx-view").inner_text()
    dropped = explorer.answer({"ask": "view", "switches": OFF | {"drop": 3}})
    assert bars(tab) == pytest.approx([100 * p for p in dropped["probs"]], rel=1e-3, abs=0.01)
    tab.page.get_by_label("layer to drop").select_option("")
    slide(tab, 0)
    assert arcs(tab) == before
    clean(tab)


def bars(tab: Tab) -> list[float]:
    """The label words' probabilities as drawn, in percent of the meter."""
    found = tab.page.evaluate("[...document.querySelectorAll('.mx-after')].map(bar => parseFloat(bar.style.width))")
    return list(found)


def test_heads_off_leave_the_sum_of_the_others(browser: Browser, saved: Path, explorer: Explorer) -> None:
    tab = browser.open(saved)
    tab.page.get_by_role("button", name="show head 2", exact=True).dblclick()
    alone = explorer.answer({"ask": "heads", "switches": OFF, "about": 0})
    largest = max(range(len(alone["edges"])), key=lambda i: abs(alone["values"][i][2]))
    drawn = arcs(tab)
    assert max(drawn, key=drawn.__getitem__) == "-".join(map(str, alone["edges"][largest]))
    tab.page.get_by_role("button", name="all", exact=True).click()
    assert set(arcs(tab)) == {f"{q}-{k}" for q, k, _ in explorer.first_view["saliency"]["edges"][0]}
    clean(tab)


def open_widget(browser: Browser, folder: Path, explorer: Explorer) -> Tab:
    """The widget's script with a model like anywidget's, whose messages this process answers as a kernel does.

    The page's policy is stricter than VS Code's for a notebook: nothing fetched, no eval, no handlers in attributes.
    """
    code = base64.b64encode(script().encode()).decode()
    start = json.dumps(explorer.start()).replace("<", "\\u003c")
    page = folder / "widget.html"
    page.write_text(
        f"<!doctype html><meta charset=utf-8><meta name=viewport content='width=device-width'><title>w</title>"
        "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'; "
        "script-src 'nonce-here' data:\">"
        f"<style>{(ASSETS / 'explorer.css').read_text()}</style><div id=cell></div>"
        f"<script type=application/json id=start>{start}</script>"
        "<script type=module nonce=here>let hear; const model = {get: () => JSON.parse(document.getElementById('start').textContent),"
        "on: (event, fn) => { hear = fn; }, off: () => { hear = null; },"
        "send: async (message) => { const answer = await window.kernel(message); hear?.(answer); }};"
        f"const widget = (await import('data:text/javascript;base64,{code}')).default;"
        "window.stopped = widget.render({model, el: document.getElementById('cell')});</script>",
        encoding="utf-8",
    )
    tab = browser.open(page)
    tab.page.expose_function("kernel", lambda message: reply(explorer, message))
    return tab


def test_the_widget_combines_patches_through_the_kernel(browser: Browser, tmp_path: Path, explorer: Explorer) -> None:
    tab = open_widget(browser, tmp_path, explorer)
    tab.page.get_by_role("switch", name="Isolate label words").click()
    tab.page.get_by_label("last isolated layer").fill("3")
    tab.page.get_by_label("first isolated layer").fill("2")
    tab.page.get_by_label("first isolated layer").press("Enter")
    for head in ("layer 1, head 3", "layer 0, head 2"):
        tab.page.get_by_label("head to ablate").select_option(index=_place(tab, head))
    tab.page.get_by_role("switch", name="fewer anchors").click()
    tab.page.get_by_label("layer to drop").select_option("4")
    both = explorer.answer(
        {
            "ask": "view",
            "switches": OFF | {"isolate": [2, 3], "drop": 4, "own": ["fewer anchors"], "heads": [[0, 2], [1, 3]]},
        }
    )
    tab.page.locator(".mx[aria-busy='false']").wait_for()
    assert bars(tab) == pytest.approx([100 * p for p in both["probs"]], rel=1e-3)
    tab.page.locator("[data-token='5']").click()
    tab.page.get_by_role("button", name="show head 0", exact=True).click()
    tab.page.locator(".mx[aria-busy='false']").wait_for()
    assert tab.page.locator(".mx-lens tr").count() == 7
    assert tab.page.locator(".mx-error").is_hidden()
    tab.page.evaluate("window.stopped()")
    clean(tab)


def _place(tab: Tab, option: str) -> int:
    """Where an option that begins like this stands among those of its list."""
    texts = tab.page.get_by_label("head to ablate").locator("option").all_text_contents()
    return next(place for place, text in enumerate(texts) if text.startswith(option))


def test_an_ablated_head_is_named_and_comes_back(browser: Browser, tmp_path: Path, explorer: Explorer) -> None:
    tab = open_widget(browser, tmp_path, explorer)
    before = bars(tab)
    head = tab.page.get_by_label("head to ablate").locator("option").nth(_place(tab, "layer 2, head 0"))
    assert head.text_content().endswith(" times as much as an average token)")
    tab.page.get_by_label("head to ablate").select_option(index=_place(tab, "layer 2, head 0"))
    tab.page.locator(".mx[aria-busy='false']").wait_for()
    ablated = explorer.answer({"ask": "view", "switches": OFF | {"heads": [[2, 0]]}})
    assert bars(tab) == pytest.approx([100 * p for p in ablated["probs"]], rel=1e-3)
    assert tab.page.locator(".mx-subtitle").inner_text() == "Changed: head 0 of layer 2 ablated"
    assert tab.page.get_by_label("head to ablate").input_value() == str(_place(tab, "layer 2, head 0") - 1)
    tab.page.get_by_role("button", name="restore head 0 of layer 2").click()
    assert bars(tab) == before
    clean(tab)


@pytest.mark.parametrize("window", [{"width": 1400}, {"width": 800, "scheme": "dark"}, {"width": 390}])
def test_the_clean_and_the_changed_prompt_stand_side_by_side(
    browser: Browser, saved: Path, explorer: Explorer, window: dict[str, Any]
) -> None:
    tab = browser.open(saved, **window)
    slide(tab, 3)
    number = explorer.outline["exchanges"][-1]["number"]
    tab.page.get_by_label("label word to exchange").select_option(str(number))
    place = explorer.prompt.anchors[number]
    words = tab.page.locator(f"[data-token='{place}']").all_text_contents()
    exchanged = explorer.exchanged(OFF | {"exchange": number}).demonstrations[number].label_class
    kept = explorer.prompt.label_words[explorer.prompt.demonstrations[number].label_class]
    assert words == [word.replace(" ", "␣") for word in (kept, explorer.prompt.label_words[exchanged])]
    both = [explorer.first_view, explorer.answer({"ask": "view", "switches": OFF | {"exchange": number}})]
    for picture, view in zip(tab.page.locator(".mx-view").all(), both, strict=True):
        drawn = picture.evaluate(
            "node => [...node.querySelectorAll('.mx-arc')].filter(p => p.style.opacity > 0)"
            ".map(p => p.edge.query + '-' + p.edge.key)"
        )
        assert set(drawn) == {f"{q}-{k}" for q, k, _ in view["saliency"]["edges"][3]}
    tab.page.get_by_role("switch", name="Clean and changed side by side").click()
    assert tab.page.locator(".mx-view").count() == 1
    clean(tab)


def test_attention_and_enrichment_are_further_sights(browser: Browser, saved: Path, explorer: Explorer) -> None:
    tab, view = browser.open(saved), explorer.first_view
    slide(tab, 2)
    tab.page.get_by_role("button", name="Attention").click()
    assert set(arcs(tab)) == {f"{q}-{k}" for q, k, _ in view["attention"]["edges"][2]}
    assert not any(edge.endswith("-0") for edge in arcs(tab))
    assert "Position 0 takes" in tab.page.locator(".mx-readout").inner_text()
    tab.page.get_by_role("button", name="Enrichment").click()
    target = explorer.prompt.target
    above = {f"{target}-{key}" for key, times in enumerate(view["reading"][2]) if key != target and times >= 1}
    assert set(arcs(tab)) == above
    assert "random text" in tab.page.locator(".mx-readout").inner_text()
    assert tab.page.locator(".mx-heads").is_hidden()
    clean(tab)


def test_the_lens_follows_the_slider(browser: Browser, saved: Path) -> None:
    tab = browser.open(saved)
    tab.page.locator(".mx-scroll").evaluate("node => { node.style.maxHeight = '60px'; }")
    for layer in (5, 0, 3):
        slide(tab, layer)
        row = tab.page.locator(".mx-lens tr.mx-now")
        assert row.locator("th").inner_text() == f"after {layer}"
        inside = row.evaluate(
            "row => { const box = row.closest('.mx-scroll').getBoundingClientRect(), at = row.getBoundingClientRect();"
            "return at.top >= box.top - 1 && at.bottom <= box.bottom + 1; }"
        )
        assert inside


@pytest.fixture(scope="module")
def long(tiny_icl: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Explorer]:
    prompts = mi.load_task("tiny-topics-4").prompts(tiny_icl.tokenizer, shots=4, samples=1, seed=42)
    explorer = mi.explore(tiny_icl, prompts[0])
    return explorer.save_html(tmp_path_factory.mktemp("long") / "long.html"), explorer


@pytest.mark.parametrize("window", [{"width": 1400}, {"width": 390, "scheme": "dark"}])
def test_demonstrations_of_a_long_prompt_fold(
    browser: Browser, long: tuple[Path, Explorer], window: dict[str, Any]
) -> None:
    path, explorer = long
    prompt = explorer.prompt
    assert len(prompt) > 200
    tab = browser.open(path, **window)
    text, anchor = prompt.demonstrations[0].text[0], prompt.anchors[0]
    assert tab.page.locator(f"[data-token='{text}']").is_hidden()
    assert tab.page.locator(f"[data-token='{anchor}']").is_visible()
    folded = {edge for edge in arcs(tab) if "d0" in edge.split("-")}
    assert folded  # edges of folded tokens lead to the demonstration
    tab.page.get_by_role("button", name="Demonstration 1,").focus()
    tab.page.keyboard.press("Enter")
    assert tab.page.locator(f"[data-token='{text}']").is_visible()
    assert not any("d0" in edge.split("-") for edge in arcs(tab))
    fold = tab.page.locator("[data-fold='0']")
    assert (fold.inner_text().strip(), fold.get_attribute("aria-expanded")) == ("▾ 1", "true")
    tab.page.get_by_role("button", name="Unfold all").click()
    assert set(arcs(tab)) == {f"{q}-{k}" for q, k, _ in explorer.first_view["saliency"]["edges"][0]}
    tab.page.get_by_role("button", name="Fold all").click()
    assert tab.page.locator(f"[data-token='{text}']").is_hidden()
    clean(tab)


def test_plain_keys_are_the_widgets_and_those_with_control_the_notebooks(
    browser: Browser, tmp_path: Path, explorer: Explorer
) -> None:
    """JupyterLab listens on the document: an arrow would select another cell, and b would add one."""
    tab = open_widget(browser, tmp_path, explorer)
    tab.page.evaluate(
        "window.heard = []; document.addEventListener('keydown', e => { heard.push(e.key); if (!e.ctrlKey) e.preventDefault(); })"
    )
    tab.page.get_by_role("slider", name="Layer").focus()
    for key in ("ArrowRight", "ArrowDown", "ArrowUp", "b", "Enter"):
        tab.page.keyboard.press(key)
    assert tab.page.locator(".mx-where").inner_text() == "layer 1"
    tab.page.locator("[data-token='0']").focus()
    for key in ("ArrowRight", "Enter", "Escape", "Enter", "d"):
        tab.page.keyboard.press(key)
    assert tab.page.locator("[data-token='1']").get_attribute("aria-pressed") == "true"
    tab.page.keyboard.press("Control+s")
    assert set(tab.page.evaluate("heard")) == {"Control", "s"}


@pytest.mark.parametrize("width", [1280, 390])
def test_the_text_stays_where_it_is_when_a_token_is_followed(browser: Browser, saved: Path, width: int) -> None:
    tab = browser.open(saved, width=width)
    places = []
    for chosen in (None, "5", "0"):
        if chosen:
            tab.page.locator(f"[data-token='{chosen}']").click()
        places.append(tab.page.locator("[data-token='0']").bounding_box()["y"] + tab.page.evaluate("scrollY"))
    assert len(set(places)) == 1


def test_what_fails_in_the_kernel_is_said_in_the_widget(
    browser: Browser, tmp_path: Path, explorer: Explorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(request: Any) -> Any:
        raise RuntimeError("CUDA error: <b>unspecified</b> launch failure\nmore")

    tab = open_widget(browser, tmp_path, explorer)
    monkeypatch.setattr(explorer, "answer", fail)
    tab.page.get_by_role("switch", name="Isolate label words").click()
    said = tab.page.locator(".mx-error")
    said.wait_for(state="visible")
    assert said.inner_text() == "The model raised RuntimeError: CUDA error: <b>unspecified</b> launch failure"
    clean(tab)


def test_hostile_texts_stay_text(browser: Browser, tmp_path: Path) -> None:
    model = tiny.fresh("gpt2")
    model.cfg.model_name = HOSTILE[0] + HOSTILE[4]
    texts = [*HOSTILE, "\n", ""]
    string = "".join(texts)
    ends = [len("".join(texts[: i + 1])) for i in range(len(texts))]
    prompt = replace(
        Prompt.from_positions(
            [5, 6, 7, 8, 9, 10, 11], [[0], [1], [4]], [1, 2, 3], 0,
            string=string, label_words=HOSTILE[:2] + HOSTILE[4:], class_names=HOSTILE[2:], task=HOSTILE[1],
        ),
        offsets=tuple(zip([0, *ends], ends, strict=False)),
    )  # fmt: skip
    explorer = mi.explore(model, prompt, patches={HOSTILE[0]: mi.patches.Drop(0), HOSTILE[4]: mi.patches.Drop(1)})
    for window in ({"width": 1280}, {"width": 390}):
        tab = browser.open(explorer.save_html(tmp_path / "hostile.html"), **window)
        for token, text in enumerate(HOSTILE):
            assert tab.page.locator(f"[data-token='{token}']").text_content() == text.strip()
            tab.page.locator(f"[data-token='{token}']").click()
        for place, text in ((".mx-title b", model.cfg.model_name), (".mx-title span >> nth=0", HOSTILE[1])):
            assert tab.page.locator(place).text_content() == text
        assert [w.split(" true")[0] for w in tab.page.locator(".mx-word").all_text_contents()] == list(
            prompt.label_words
        )
        tab.page.get_by_role("switch", name=HOSTILE[0]).click()
        clean(tab)
    tab = open_widget(browser, tmp_path, explorer)
    tab.page.locator("[data-token='0']").click()
    clean(tab)


def test_without_anywidget_the_notebook_shows_the_page(explorer: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    widget = explorer.widget
    assert isinstance(widget, ExplorerWidget)
    assert "application/vnd.jupyter.widget-view+json" in explorer._repr_mimebundle_()[0]
    monkeypatch.setattr(explorer, "widget", None)
    shown = explorer._repr_mimebundle_()["text/html"]
    assert shown.startswith("<iframe")
    assert shown.count("<") == 2


def test_the_widget_answers_what_its_browser_asks(explorer: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    widget, sent = make_widget(explorer), []
    monkeypatch.setattr(ExplorerWidget, "send", lambda self, content, buffers=None: sent.append(content))
    ask = {"id": 3, "ask": "view", "switches": OFF}
    widget._handle_custom_msg(ask, [])
    assert sent == [{"id": 3, "answer": explorer.first_view}]
