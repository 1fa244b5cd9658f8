"""Where reading takes over from gathering: found where it was planted, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest

from mechicl.studies.label_words.handover import FEWEST_SETS, handover


def curves(n_sets: int, split: int, n_layers: int = 24, rise: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """Enrichment of sets: gathering stays, reading rises by a factor of exp(rise) in the layer of the split."""
    noise = np.random.default_rng(0).normal(0, 0.5, (2, n_sets, n_layers))
    step = np.where(np.arange(n_layers) >= split, rise / 2, -rise / 2)
    return np.exp(noise[0] + 1), np.exp(noise[1] + step)


@pytest.mark.parametrize("split", [4, 12, 20])
def test_a_planted_handover_is_found(split: int) -> None:
    found = handover(*curves(16, split))
    assert found is not None
    assert found.low <= split <= found.high
    assert found.layer == split
    assert str(found).startswith(f"layer {split} [")


def test_scale_does_not_matter() -> None:
    """Gathering may stay the larger throughout: what counts is where their ratio changes."""
    gathering, reading = curves(16, 12)
    assert handover(100 * gathering, reading) == handover(gathering, reading)


def test_nothing_is_determined_without_a_rise_or_with_few_sets() -> None:
    assert handover(*curves(16, 12, rise=-3.0)) is None, "reading falls"
    assert handover(*curves(16, 12, rise=0.0)) is None, "no change at all"
    assert handover(*curves(FEWEST_SETS - 1, 12)) is None
    assert handover(*(curve[:, :1] for curve in curves(16, 0))) is None
