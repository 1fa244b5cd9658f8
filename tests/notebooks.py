"""What the tests of the notebooks and the script that executes them agree on."""

from __future__ import annotations

import hashlib
from typing import Any

WIDGET = "application/vnd.jupyter.widget-view+json"


def digest(notebook: Any) -> str:
    """SHA-256 of all cells' sources in order."""
    return hashlib.sha256(
        "\x00".join(f"{cell.cell_type}\x01{cell.source}" for cell in notebook.cells).encode()
    ).hexdigest()
