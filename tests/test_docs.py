"""The documentation builds without a warning, names every study, and its Python runs as it stands."""

from __future__ import annotations

import html
import io
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mechicl.studies import STUDIES
from tests.browser import Browser

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "pages").glob("*.md"))]
CODE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_on_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = CODE.findall(page.read_text())
    if not blocks:
        pytest.skip("no Python on this page")
    monkeypatch.chdir(tmp_path)
    Path("jokes.csv").write_text("text,label\n" + "".join(f"line {i},{['no', 'yes'][i % 2]}\n" for i in range(8)))
    Path("page.py").write_text("\n".join(blocks))
    monkeypatch.setattr("mechicl.studies.study.STUDIES", dict(STUDIES))  # what the page defines is gone afterwards
    runpy.run_path("page.py", run_name="page")


def test_stored_pictures_keep_the_colours_of_thin_curves() -> None:
    """Shades of text are more frequent than any curve's colour."""
    image = pytest.importorskip("PIL.Image", reason="pillow is not installed")
    light = runpy.run_path(str(ROOT / "docs" / "pictures.py"))["light"]
    pixels = np.full((300, 700, 3), 255, np.uint8)
    pixels[200:] = np.linspace(30, 255, 700)[:, None].astype(np.uint8)
    curves = [(0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (213, 94, 0), (86, 180, 233)]
    for row, colour in enumerate(curves):
        pixels[20 * row + 20, 100:400] = colour
    held = io.BytesIO()
    image.fromarray(pixels).save(held, "PNG")
    stored = np.asarray(image.open(io.BytesIO(light(held.getvalue(), colours=32))).convert("RGB")).astype(int)
    for row, colour in enumerate(curves):
        assert np.abs(stored[20 * row + 20, 200] - colour).max() < 20


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("material", reason="mkdocs-material is not installed")
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-f", "docs/mkdocs.yml", "-d", str(folder)],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    return folder


def test_site_builds_without_a_warning(site: Path) -> None:
    for name, study in STUDIES.items():
        text = (site / "studies" / f"{name}.html").read_text()
        assert html.escape(study.claim[:40], quote=False) in text
        assert f"mechicl run {name}" in text
        assert all((site / "studies" / picture).is_file() for picture in re.findall(r'src="([\w-]+\.png)"', text))
    pages = "".join(path.read_text() for path in site.rglob("*.html"))
    assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="https?://', pages)  # opens offline


def test_notebooks_gallery_explorer_and_citation_are_pages_of_the_site(site: Path) -> None:
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        text = (site / "notebooks" / f"{path.stem}.html").read_text()
        pictures = re.findall(r'src="([\w-]+\.png)"', text)
        assert len(pictures) >= 3
        assert all((site / "notebooks" / picture).is_file() for picture in pictures)
    shown = re.findall(r'src="gallery/([\w-]+)\.png"', (site / "gallery.html").read_text())
    assert len(shown) >= 4
    assert set(shown) <= set(STUDIES)
    assert sum((site / "gallery" / f"{name}.png").stat().st_size for name in shown) < 1_500_000
    cited = (site / "cite.html").read_text()
    assert all(title in cited for title in ("Label Words are Anchors", "The Remarkable Robustness of LLMs"))


def test_an_explorer_of_the_site_opens(site: Path, browser: Browser) -> None:
    tab = browser.open(site / "explorer" / "tiny-icl.html")
    assert tab.page.get_by_role("slider", name="Layer").is_visible()


def test_search_works_from_disk(site: Path, browser: Browser) -> None:
    tab = browser.open(site / "index.html")
    tab.page.locator(".md-search__input").first.fill("deep layers")
    tab.page.wait_for_selector(".md-search-result__item")
    assert "deep" in tab.page.locator(".md-search-result__list").text_content().lower()


def test_every_room_stands_on_its_page_in_the_order_of_imports() -> None:
    page = (ROOT / "docs" / "pages" / "house.md").read_text()
    named = [name for row in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)]
    there = {
        path.stem for path in (ROOT / "mechicl").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert sorted(named) == sorted(there - {"__init__"})
