"""What the tests of the notebooks and the script that executes them agree on."""

from __future__ import annotations

import hashlib
from typing import Any

WIDGET = "application/vnd.jupyter.widget-view+json"
PLOTLY = "application/vnd.plotly.v1+json"
ON_TINY_ICL = {
    "a_real_model_in_ten_minutes": 'MODEL, TASK, TEXT, SAMPLES, N_LAYERS, TOKENS = "tiny-icl", "tiny-topics-4", "tiny-icl", 8, 2, 600',
    "compose_probes_and_patches": 'MODEL, TASK, SAMPLES, WINDOW = "tiny-icl", "tiny-topics-4", 16, 1',
    "label_words_are_anchors": 'MODEL, TASK, SAMPLES, N_LAYERS = "tiny-icl", "tiny-topics-4", 8, 2',
    "stages_of_inference": 'MODEL, TEXT, TOKENS = "tiny-icl", "tiny-icl", 2_000',
    "your_own_task_and_model": (
        'MODEL, TEXTS, SAMPLES = "tiny-icl", "tiny-topics-2", 8\n'
        'TEMPLATE, WORDS = "Question: {text}\\nAnswer:{label}", (" Tiger", " River")'
    ),
}
"""The cell that chooses model and data, as the tests run it, whatever outputs are stored of."""


def digest(notebook: Any) -> str:
    """SHA-256 of all cells' sources in order."""
    return hashlib.sha256(
        "\x00".join(f"{cell.cell_type}\x01{cell.source}" for cell in notebook.cells).encode()
    ).hexdigest()


def chooses(cell: Any) -> bool:
    """Whether this is the cell that chooses model and data."""
    return bool(cell.cell_type == "code" and cell.source.startswith("MODEL"))
