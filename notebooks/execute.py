"""Execute the notebooks from a clean kernel and store them with outputs that GitHub can show: `make notebooks`.

GitHub runs no scripts, so every interactive output gets a still: plotly draws its own (kaleido), and a headless
Chromium takes one of the page that an explorer saves. Most of a notebook is stills and numbers of figures, so stills
are stored with a small palette and numbers in single precision. The digest of the executed cells is stored, too: tests
compare it, and so notice a notebook that was edited and not executed again.
"""

from __future__ import annotations

import base64
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
from nbclient import NotebookClient
from playwright.sync_api import sync_playwright

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "docs")]

from pictures import light  # noqa: E402

from mechicl.figures import NOTEBOOK  # noqa: E402
from tests.notebooks import PLOTLY, WIDGET, digest  # noqa: E402


def execute(path: Path, chromium: Any) -> None:
    """Run all cells in order; the notebook is written only when none of them failed."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=3600, record_timing=False, resources={"metadata": {"path": str(HERE)}})
    with tempfile.TemporaryDirectory() as folder, client.setup_kernel():
        aside(client, f"import plotly.io; plotly.io.renderers['png'].width = {NOTEBOOK}")
        for index, cell in enumerate(notebook.cells):
            if cell.cell_type != "code":
                continue
            client.execute_cell(cell, index)
            cell.outputs = [output for output in cell.outputs if lasts(output)]
            for output in cell.outputs:
                if WIDGET in output.get("data", {}):
                    saved = Path(folder) / "explorer.html"
                    aside(client, f"explorer.save_html({str(saved)!r})")
                    output.data = {"text/plain": output.data["text/plain"], "image/png": still(saved, chromium)}
                lighten(output)
    notebook.metadata.pop("widgets", None)
    notebook.metadata["mechicl"] = {"executed": digest(notebook)}
    for number, cell in enumerate((cell for cell in notebook.cells if cell.cell_type == "code"), start=1):
        assert cell.execution_count == number, f"{path.name}: cells ran out of order"
    nbformat.write(notebook, path)
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


def lighten(output: Any) -> None:
    """Store an output's still with a palette, and the numbers of its figure in single precision."""
    data = output.get("data", {})
    if "image/png" in data:
        data["image/png"] = base64.b64encode(light(base64.b64decode(data["image/png"]), colours=32)).decode()
    if PLOTLY in data:
        data[PLOTLY] = shortened(data[PLOTLY])


def shortened(value: Any) -> Any:
    """A figure's JSON with numbers in single precision: arrays as plotly encodes them, others with six digits."""
    if isinstance(value, dict):
        if value.get("dtype") == "f8":
            numbers = np.frombuffer(base64.b64decode(value["bdata"]), "<f8").astype("<f4")
            return value | {"dtype": "f4", "bdata": base64.b64encode(numbers).decode()}
        return {name: shortened(one) for name, one in value.items()}
    if isinstance(value, list):
        return [shortened(one) for one in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def aside(client: NotebookClient, code: str) -> None:
    """Run code in the notebook's kernel that is no part of the notebook."""
    first = client.nb.cells[0]
    client.execute_cell(nbformat.v4.new_code_cell(code), 0, store_history=False)
    client.nb.cells[0] = first  # the client puts in its place what it runs


def lasts(output: Any) -> bool:
    """Whether an output is worth storing: not a warning of a library, nor the place where a progress bar was."""
    if output.output_type == "stream":
        return bool(output.name == "stdout")
    return output.output_type != "display_data" or not (WIDGET in output.data or output.data.get("text/plain") == "")


def still(page: Path, chromium: Any) -> str:
    """A picture of an explorer's page, at the layer with the strongest edge of all."""
    tab = chromium.new_page(viewport={"width": 1180, "height": 600})
    tab.goto(page.as_uri())
    first = tab.evaluate("JSON.parse(document.getElementById('start').textContent).view.saliency")
    strength = [edges[0][2] if edges else 0 for edges in first["edges"]]
    slider = tab.get_by_role("slider", name="Layer")
    slider.fill(str(strength.index(max(strength))))
    slider.blur()
    tab.wait_for_timeout(1000)  # transitions end
    picture = tab.locator(".mx").screenshot()
    tab.close()
    return base64.b64encode(picture).decode()


def main() -> None:
    os.environ["PLOTLY_RENDERER"] = "plotly_mimetype+png"
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
    chromium = os.environ.get("MECHICL_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for path in [Path(name) for name in sys.argv[1:]] or sorted(HERE.glob("*.ipynb")):
            execute(path, browser)
        browser.close()


if __name__ == "__main__":
    main()
