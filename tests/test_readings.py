"""What a probe read: quantities by name, over named axes, with units, counts and a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mechicl.corpora import TokenCorpus
from mechicl.errors import InputError, NumericalError
from mechicl.hooks import Probe, Watch, run
from mechicl.probes import LabelAttention, LastResidual, LocalAttention, SaliencyFlow
from mechicl.readings import Reading, without_padding
from tests import tiny
from tests.contract import catalogue
from tests.random_prompts import random_prompts

TERMS = {(0, 0): [1.0, 2.0, 6.0], (0, 1): [4.0], (1, 0): [], (1, 1): [5.0, 5.0], (2, 0): [], (2, 1): []}
"""Numbers by sequence and layer, from which means are taken."""


def of_terms() -> Reading:
    """Means of `TERMS` for two heads, of which the second has every number ten times as large."""
    n = torch.tensor([[len(TERMS[row, layer]) for layer in range(2)] for row in range(3)])
    means = torch.tensor([[np.mean(TERMS[row, layer] or np.nan) for layer in range(2)] for row in range(3)])
    values = torch.stack([means, 10 * means], -1)
    axes, counts = ("sequence", "layer", "head"), {"terms": n[:, :, None]}
    largest = torch.arange(12).view(3, 2, 2)
    return Reading(
        axes, {"mass": values, "largest": largest}, {"mass": "share", "largest": "id"}, {"mass": "terms"}, counts,
        {"layer": (4, 7)},
    )  # fmt: skip


def test_a_frame_has_a_row_per_entry() -> None:
    reading = of_terms()
    table = reading.frame()
    assert list(table) == ["sequence", "layer", "head", "mass", "largest", "terms"]
    assert len(table) == 12
    assert table.attrs["units"] == {"mass": "share", "largest": "id"}
    for row in table.itertuples():
        place = row.sequence, (4, 7).index(row.layer), row.head
        np.testing.assert_equal(row.mass, float(reading["mass"][place]))
        assert (row.largest, row.terms) == (reading["largest"][place], len(TERMS[place[:2]]))
    assert table["mass"].dtype == np.float64
    assert table["largest"].dtype == np.int64


def test_padding_is_left_out_of_whole_numbers_too() -> None:
    whole = torch.arange(6).view(2, 3)
    reading = without_padding(Reading(("prompt", "position"), {"rank": whole}, {"rank": "1"}), torch.tensor([3, 2]))
    assert len(reading.frame()) == 5
    assert reading.mean("position")["rank"].tolist() == [1.0, 3.5]


def test_a_mean_counts_every_term_once() -> None:
    reading = of_terms()
    for axes, pooled in (
        (("sequence",), {layer: [(row, layer) for row in range(3)] for layer in range(2)}),
        (("layer",), {row: [(row, layer) for layer in range(2)] for row in range(3)}),
        (("sequence", "layer"), {...: list(TERMS)}),
    ):
        mean = reading.mean(*axes)
        assert mean.axes == tuple(axis for axis in reading.axes if axis not in axes)
        for place, cells in pooled.items():
            terms = [term for cell in cells for term in TERMS[cell]]
            expected = torch.tensor(np.mean(terms or np.nan)) * torch.tensor([1.0, 10.0])
            torch.testing.assert_close(mean["mass"][place], expected.double(), equal_nan=True)
            assert int(mean.counts["terms"].expand(mean.shape)[place].flatten()[0]) == len(terms)
    plain = reading.mean("layer")["largest"]
    assert torch.equal(plain, reading["largest"].double().mean(1)), "what is no mean of terms has equal weights"


def test_a_mean_over_heads_leaves_the_counts_and_the_other_coordinates() -> None:
    mean = of_terms().mean("head")
    assert torch.equal(mean.counts["terms"], of_terms().counts["terms"][..., 0])
    torch.testing.assert_close(mean["mass"], of_terms()["mass"].mean(-1).double(), equal_nan=True)
    assert mean.along("layer") == (4, 7)
    torch.testing.assert_close(mean.mean("sequence")["mass"], of_terms().mean("sequence", "head")["mass"])


def test_coordinates_say_what_stands_along_an_axis() -> None:
    model, prompts = tiny.model("gpt2"), random_prompts(3)
    reading = run(model, prompts, [probe := LastResidual((0, 3))])[probe]
    assert list(reading.along("point")) == [0, 3]
    assert sorted(reading.frame()["point"].unique()) == [0, 3]
    assert list(reading.along("prompt")) == [0, 1, 2]


def test_a_sequence_too_short_for_a_window_has_no_mean_and_is_no_error() -> None:
    text = catalogue.text()
    window = int(text.lengths.min()) - 1
    table = run(tiny.model("gpt2"), text, [LocalAttention((1, window))]).frame()
    assert table[f"mass_{window}"].isna().equals(table[f"queries_{window}"] == 0)
    assert table[f"mass_{window}"].isna().any()
    assert table["mass_1"].notna().all()


@dataclass(frozen=True)
class Mine(Probe):
    """A user's probe, which returns what it is given."""

    result: Any
    axes = ("prompt", "layer")
    units = {"mean": "nats"}
    terms = {"mean": "terms"}

    def watch(self, model: Any, batch: Any) -> Watch:
        return Watch([], lambda: self.result)

    __hash__ = object.__hash__


def read(result: Any, kind: type[Mine] = Mine) -> Reading:
    return run(tiny.model("gpt2"), random_prompts(2), [probe := kind(result)], progress=None)[probe]


def with_counts(mean: Tensor, *terms: int) -> Mapping[str, Tensor]:
    return {"mean": mean, "terms": torch.tensor(terms)}


def test_a_value_that_is_not_finite_is_an_error_where_there_are_terms() -> None:
    mean = torch.tensor([[0.0, 0.0, 1.0], [2.0, torch.nan, 3.0]])
    assert read(with_counts(mean, 1, 0))["mean"].isnan().any()
    with pytest.raises(NumericalError, match=r"The mean of Mine is nan at layer 1"):
        read(with_counts(mean, 1, 1))


@pytest.mark.parametrize(
    ("result", "sentence"),
    [
        ({"mean": torch.zeros(2, 3)}, r"Mine declares the quantities mean, terms, and its result is \['mean'\]"),
        (torch.zeros(2, 3), "Mine declares the quantities mean, terms, and its result is a Tensor"),
        (with_counts(torch.zeros(2), 1, 1), r"Mine declares the axes prompt, layer .* its mean is shape \[2\]"),
        (with_counts(torch.zeros(3, 3), 1, 1), r"Mine .* read 2 prompts, but its mean is shape \[3, 3\]"),
        ({"mean": [1.0, 2.0], "terms": torch.ones(2)}, "Mine .* its mean is a list"),
        ({"mean": torch.zeros(2, 3), "terms": 2}, "Mine .* its terms is a int"),
        (with_counts(torch.zeros(2, 3), 1, 1, 1), r"Mine .* its terms is shape \[3\]"),
        ({"mean": torch.zeros(2, 3), "terms": torch.ones(2, 4)}, r"Mine .* its terms is shape \[2, 4\]"),
    ],
)
def test_a_wrong_result_is_refused_in_a_sentence(result: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as refused:
        read(result)
    assert str(refused.value).count("\n") == 0


class Two(Mine):
    units = {"mean": "nats", "most": "nats"}


def test_quantities_and_coordinates_have_the_sizes_of_the_axes() -> None:
    both = {**with_counts(torch.zeros(2, 3), 1, 1), "most": torch.zeros(2, 4)}
    with pytest.raises(InputError, match=r"Two .* its most is shape \[2, 4\]"):
        read(both, Two)

    class Named(Mine):
        def watch(self, model: Any, batch: Any) -> Watch:
            return Watch([], lambda: self.result, coordinates={"layer": (0, 1)})

    with pytest.raises(InputError, match="Named has 2 coordinates along layer, but its axes are prompt 2, layer 3"):
        read(with_counts(torch.zeros(2, 3), 1, 1), Named)


def test_a_reading_is_looked_up_by_quantity() -> None:
    reading = of_terms()
    for wrong, sentence in ((0, "by quantity"), (slice(1), "by quantity"), ("kl", "no quantity 'kl'; it has mass")):
        with pytest.raises(InputError, match=sentence):
            reading[wrong]  # type: ignore[index]
    with pytest.raises(InputError, match="several quantities"):
        _ = reading.values
    for axes, sentence in ((("class",), "no axis 'class'"), ((), "Name the axes"), (reading.axes, "Name the axes")):
        with pytest.raises(InputError, match=sentence):
            reading.mean(*axes)
    assert repr(reading) == "Reading(mass (share), largest (id); sequence 3, layer 2, head 2)"


def test_a_run_has_one_table_or_says_which() -> None:
    model, prompts = tiny.model("gpt2"), random_prompts(3)
    label_attention, flow = LabelAttention(), SaliencyFlow()
    none, one, two = (run(model, prompts, probes) for probes in ([], [flow], [flow, label_attention]))
    table = none.frame()
    assert list(table) == ["prompt", "class", "label_logit", "label_prob"]
    np.testing.assert_allclose(table["label_logit"], none.label_logits.flatten())
    np.testing.assert_allclose(table.groupby("prompt")["label_prob"].sum(), 1, rtol=1e-6)
    assert one.frame().equals(one[flow].frame())
    with pytest.raises(InputError, match=r"several probes.*run\[probe\].frame"):
        two.frame()
    with pytest.raises(InputError, match=r"no reading of LabelAttention.*SaliencyFlow"):
        one[label_attention]


@pytest.mark.parametrize("probe", catalogue.probes(), ids=lambda probe: type(probe).__name__)
def test_every_shipped_probe_reads_what_it_declares(probe: Probe) -> None:
    material = catalogue.material(probe)
    reading = run(tiny.model("gpt2"), material, [probe], batch_size=2)[probe]
    assert list(reading.quantities) == list(probe.units)
    assert all(unit.strip() for unit in reading.units.values())
    assert set(reading.counts) == set(probe.terms.values())
    assert set(probe.terms) <= set(probe.units)
    rows = "sequence" if isinstance(material, TokenCorpus) else "prompt"
    assert reading.axes == (rows, *probe.axes[1:])
    assert reading.shape[0] == len(material)
    table = reading.frame()
    assert list(table) == [*reading.axes, *probe.units, *reading.counts]
    padding = (
        max(int(reading[name].isnan().sum()) for name in probe.units if name not in probe.terms)
        if (set(probe.units) - set(probe.terms))
        else 0
    )
    assert len(table) == prod(reading.shape) - padding
    for name in probe.units:
        counted = table[probe.terms[name]] > 0 if name in probe.terms else True
        assert (table[name].notna() == counted).all()
