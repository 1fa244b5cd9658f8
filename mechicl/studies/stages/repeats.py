"""Windows of layers that are run twice: do those in the latter half lower the entropy, as the paper says (5.4)?"""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd


class LateWindows(NamedTuple):
    """Repeated windows of one length that lie in the latter half of the layers."""

    kind: str
    n: int
    lower: int
    """How many of them lower the mean entropy."""
    layer: int
    """First layer of the one that lowers it most, or raises it least."""
    difference: float
    """Of its entropy from the intact model's, in bits."""


def late_windows(summary: pd.DataFrame) -> list[LateWindows]:
    """What repeating windows in the latter half does to entropy, for each length of window that has any there."""
    own = summary[(summary["metric"] == "entropy_difference") & summary["kind"].str.startswith("repeat")]
    found = []
    for kind, windows in own.groupby("kind", sort=False):
        n_layers = windows["layer"].max() + _length(str(kind))
        late = windows[windows["layer"] >= n_layers / 2].set_index("layer")["mean"]
        if len(late):
            best = int(late.idxmin())
            found.append(LateWindows(str(kind), len(late), int((late < 0).sum()), best, float(late[best])))
    return found


def told(windows: LateWindows) -> str:
    """In a sentence, with a space before it."""
    return (
        f" Of {windows.n} windows of {_length(windows.kind)} in the latter half, repeated, {windows.lower} lower the "
        f"entropy (that from layer {windows.layer}: {windows.difference:+.3f} bits)."
    )


def _length(kind: str) -> int:
    return int(kind.split()[1])
