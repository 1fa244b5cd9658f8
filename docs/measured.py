"""`make declare`: write the pages whose numbers and tables were measured, from `docs/measured/*.md`.

Their templates name each number; the pages hold it, so they read the same on the site and in the repository.
"""

from __future__ import annotations

import json
from pathlib import Path

import backends
import drift
import models
import tutorials

HERE = Path(__file__).parent


def pages() -> dict[Path, str]:
    """The text of every such page."""
    values = {
        "defects": json.loads((HERE / "pages" / "defects.json").read_text()),
        "models": {"table": models.table(), "studies": backends.table()},
        "precision": {"table": drift.table(), "models": ", ".join(drift.measured()), "prompt": f"{1 / 32:.3f}"},
        "tutorials": {"rows": tutorials.table()},
    }
    return {
        HERE / "pages" / f"{name}.md": (HERE / "measured" / f"{name}.md").read_text(encoding="utf-8").format(**measured)
        for name, measured in values.items()
    }


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
