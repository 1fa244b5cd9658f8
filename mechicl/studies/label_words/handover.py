"""Where gathering ends and reading begins: the layer from which reading dominates.

Both curves may be above an average token's in all layers, and on very different scales, so they need not cross. We take
the logarithm of reading over gathering, and find the split of the layers in two that explains most of its variance:
from that layer on, reading is high relative to gathering. Its interval comes from resampled demonstration sets.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

FEWEST_SETS = 6
"""With fewer sets, resampling says too little about where another set would split."""
_RESAMPLES, _LEAST = 1000, 0.01
"""Number of resamples; and a floor for enrichment, whose logarithm would otherwise dominate."""


class Handover(NamedTuple):
    """The first layer of reading, with its 95 % interval."""

    layer: int
    low: float
    high: float

    def __str__(self) -> str:
        return f"layer {self.layer} [{self.low:.0f}, {self.high:.0f}]"


def handover(gathering: Float[np.ndarray, "set layer"], reading: Float[np.ndarray, "set layer"]) -> Handover | None:
    """The layer from which on reading is high relative to gathering; None if undetermined.

    It is undetermined with fewer than six sets, if the interval covers more than a third of the layers, or if reading
    falls at the split in more than one of forty resamples. The caller leaves out layers in which nothing gathers (the
    last). What sets share, such as the architecture, is not resampled, so use this only if both claims are supported.
    """
    n_sets, n_layers = gathering.shape
    if n_sets < FEWEST_SETS or n_layers < 2:
        return None
    generator = np.random.default_rng(0)
    weights = generator.multinomial(n_sets, np.full(n_sets, 1 / n_sets), _RESAMPLES)
    weights = np.vstack([np.ones(n_sets), weights]) / n_sets
    ratio = np.log(np.maximum(weights @ reading, _LEAST)) - np.log(np.maximum(weights @ gathering, _LEAST))
    before = np.arange(1, n_layers)
    sums = ratio.cumsum(1)
    step = (sums[:, -1:] - sums[:, :-1]) / (n_layers - before) - sums[:, :-1] / before  # mean after, minus mean before
    split = (step**2 * before * (n_layers - before)).argmax(1)
    low, high = np.quantile(split[1:] + 1, [0.025, 0.975])
    rises = np.take_along_axis(step, split[:, None], 1)[:, 0] > 0
    if not rises[0] or rises[1:].mean() < 0.975 or high - low > n_layers / 3:
        return None
    return Handover(int(split[0]) + 1, float(low), float(high))
