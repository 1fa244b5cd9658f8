"""What decides claims on text: planted contrasts are supported, and those that random weights share are not."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from mechicl.claims import Evidence, decide
from mechicl.metrics.resampling import SetInterval, plateau
from mechicl.results import Cells
from mechicl.studies import neurons
from mechicl.studies.stages.atlas import DENSER, Atlas
from mechicl.studies.stages.atlas_claims import DEEPER, deeper
from mechicl.studies.stages.atlas_figure import sink_in_words
from mechicl.studies.stages.lens import LATE, LensStudy
from mechicl.studies.stages.lesion_claims import REPEATS, ROBUST, SWAP
from mechicl.studies.stages.lesions import Lesions
from mechicl.studies.stages.local_attention import LocalAttentionStudy
from mechicl.studies.stages.norms import NormsStudy, sink_maker
from mechicl.studies.summary import extreme_in_words
from mechicl.studies.twins import against_twins, beyond, by_layer, of_documents
from tests import tiny
from tests.contract.catalogue import more_text

N_LAYERS, N_SEQUENCES = 8, 12


def lesions(middle, twins, documents=N_SEQUENCES):
    """Drops and swaps of a model, and of four twins, that keep so many predictions in the middle, and .2 at the ends."""
    draw, tables = np.random.default_rng(0), []
    for weights in ("as given", *(f"untrained {seed}" for seed in range(4))):
        agreement = np.full(N_LAYERS, 0.2)
        agreement[1:-1] = middle if weights == "as given" else twins
        for kind, kept in (("drop", agreement), ("swap", agreement[:-1] + 0.05)):
            place = pd.MultiIndex.from_product([range(len(kept)), range(N_SEQUENCES)], names=["layer", "sequence"])
            rows = place.to_frame(index=False).assign(model="m", weights=weights, kind=kind)
            rows["agreement"] = kept[rows["layer"]] + draw.normal(0, 0.02, len(rows))
            tables.append(rows.assign(kl=1 - rows["agreement"], entropy=1.0, base_entropy=1.0, loss=1.0, base_loss=1.0))
    return pd.concat(tables, ignore_index=True).assign(document=lambda rows: rows["sequence"] % documents)


def verdict(claim, table, study=Lesions()):  # noqa: B008  # frozen
    return decide(claim, study.evidence(claim, table))


def test_what_random_weights_show_as_well_is_no_finding():
    assert verdict(ROBUST, lesions(0.8, 0.2)).outcome == "supported"
    assert verdict(ROBUST, lesions(0.2, 0.2)).outcome == "contradicted"
    alike = verdict(ROBUST, lesions(0.8, 0.8))
    assert alike.outcome == "undecided"
    assert "Untrained models may show the same" in alike.reason
    assert verdict(SWAP, lesions(0.8, 0.2)).outcome == "undecided"  # twins are swapped as cheaply


def test_twins_that_differ_among_themselves_are_too_few_not_alike():
    raw = SetInterval(0.7, 0.69, 0.71, 8, 8)
    assert "Too few untrained twins" in beyond(raw, [0.1, 0.3, 0.4, 0.66])["undecided"]
    assert "Untrained models may show the same" in beyond(raw, [0.1, 0.3, 0.4, 0.7])["undecided"]


@pytest.mark.parametrize("n_layers", [3, 4, 6, 7, 30])
def test_a_prediction_that_forms_evenly_does_not_form_late(n_layers: int):
    rows = pd.MultiIndex.from_product([range(8), range(n_layers + 1)], names=["sequence", "point"]).to_frame(
        index=False
    )
    rows = rows.assign(lens="corrected", document=rows["sequence"], model="m", kl=(n_layers - rows["point"]) / n_layers)
    tables = [rows.assign(weights="as given")]
    tables += [rows.assign(weights=f"untrained {seed}", kl=1.0) for seed in range(4)]
    noise = np.random.default_rng(0).normal(0, 1e-3, len(tables) * len(rows))
    table = pd.concat(tables, ignore_index=True).assign(kl=lambda all: all["kl"] + noise)
    assert verdict(LATE, table, LensStudy()).effect == pytest.approx(0, abs=0.01)


def test_a_layer_that_makes_a_sink_does_not_decide_what_swaps_cost():
    """Layer 3 dropped costs 5 nats, swapped nothing; the other middle layers cost as much either way."""
    table = lesions(0.8, 0.2)
    table["kl"] = np.where(
        (table["kind"] == "drop") & (table["layer"] == 3) & (table["weights"] == "as given"), 5.0, 0.1
    )
    table["kl"] += np.random.default_rng(0).normal(0, 0.002, len(table))
    found = verdict(SWAP, table)
    assert found.effect == pytest.approx(0, abs=0.005)
    assert found.outcome == "contradicted"
    assert "most in layer 3 (4.9), least in layers 2, 4-5" in found.note
    table.loc[table["kind"] == "drop", "kl"] += np.where(table["weights"] == "as given", 0.3, 0.0)[
        table["kind"] == "drop"
    ]
    assert verdict(SWAP, table).outcome == "supported"


def test_five_models_decide_only_if_nearly_all_orders_are_worse():
    """Fisher's interval excludes 0 at a rank correlation of .9 over five models; one order in 24 reaches it."""

    def models(costs):
        rows = [
            {"model": f"m{n}", "signature": "drop KL", "layer": layer, "value": cost, "weight": 1.0, "sequence": 0}
            for n, cost in zip((4, 8, 12, 16, 24), costs, strict=True)
            for layer in range(n)
        ]
        return decide(DEEPER, deeper(pd.DataFrame(rows)))

    nearly = models((0.5, 0.4, 0.2, 0.3, 0.1))
    assert nearly.effect == pytest.approx(0.9)
    assert nearly.low > 0
    assert nearly.outcome == "undecided"
    assert models((0.5, 0.4, 0.3, 0.2, 0.1)).outcome == "supported"


def test_more_twins_leave_the_cells_of_the_others(tmp_path):
    """Each reads the same of the text however many there are, and nothing is measured twice."""
    model, corpus, cells = tiny.model("gpt2"), more_text(), Cells(tmp_path)
    few, more = (LensStudy(untrained=n).run(model, corpus, cells=cells) for n in (2, 3))
    assert len(list((tmp_path / "cells").iterdir())) == 4, "the model and three twins"
    kept = more.table[more.table["weights"] != "untrained 2"].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, few.table.reset_index(drop=True))


def test_a_contrast_below_that_of_twins_contradicts_only_if_it_is_small_itself():
    """Between "random weights may show the same" and "contradicted" nothing jumps."""
    claim = replace(ROBUST, least=0.1)
    wide = np.array([-0.9, 0.8, -0.7, 1.1, 0.2, 0.9, -0.5, 0.9])  # of either sign, and large
    outcomes = {}
    for name, values in (("wide", wide), ("small", wide / 100)):
        rows = pd.concat([
            pd.DataFrame({"weights": weights, "sequence": range(8), "document": range(8), "value": of})
            for weights, of in (("as given", values), ("untrained 0", 3.0), ("untrained 1", 3.1))
        ])  # fmt: skip
        evidence = against_twins(lambda one: one.set_index(["document", "sequence"])["value"], rows)
        outcomes[name] = decide(claim, evidence)
    assert outcomes["small"].outcome == "contradicted"
    assert outcomes["wide"].outcome == "undecided"
    assert "but alone it may matter" in outcomes["wide"].reason


def test_one_more_model_with_random_weights_is_seldom_supported():
    """Twins of the opposite sign are no reason to think that twins are alike."""
    generator, supported = np.random.default_rng(0), 0
    for model, *twins in generator.normal(0, 0.2, size=(400, 5)):
        found = beyond(SetInterval(model, model - 0.02, model + 0.02, 8, 8), twins)
        evidence = Evidence(np.full(8, model), sets=np.arange(8), unit_sampled="documents", **found)
        supported += decide(ROBUST, evidence).outcome == "supported"
        assert found["interval"].high <= model + 0.02, "no null is below 0"
    assert supported < 0.03 * 400


def test_twins_in_which_nothing_is_defined_do_not_count():
    rows = pd.concat([
        pd.DataFrame({"weights": weights, "sequence": range(8), "document": range(8), "value": of})
        for weights, of in (("as given", np.linspace(0.8, 1.2, 8)), ("untrained 0", 0.9), ("untrained 1", np.nan))
    ])  # fmt: skip
    evidence = against_twins(lambda one: one.set_index(["document", "sequence"])["value"].dropna(), rows)
    assert decide(ROBUST, evidence).outcome == "undecided", "a single twin is left"


def test_documents_are_what_is_sampled():
    table = lesions(0.8, 0.2, documents=4)
    found = verdict(ROBUST, table)
    assert found.n == {"documents": 4}
    assert verdict(ROBUST, table.assign(document=0)).outcome == "undecided"
    assert verdict(ROBUST, table.drop(columns="document")).n == {"documents": N_SEQUENCES}  # of an earlier version


def test_without_twins_or_the_right_ablations_nothing_is_decided():
    table = lesions(0.8, 0.2)
    assert "was not measured" in verdict(ROBUST, table[table["weights"] == "as given"]).reason
    assert "this claim needs swap" in verdict(SWAP, table[table["kind"] == "drop"]).reason


def test_one_layer_neither_falls_nor_grows():
    rows = [{"layer": 0, "sequence": i, "document": i, "model": "m", "mass_5": 0.3, "free_5": 0.3, "sink": 0.1,
             "mlp_median": 0.1} for i in range(12)]  # fmt: skip
    table = pd.DataFrame(rows)
    for study in (LocalAttentionStudy(), NormsStudy()):
        assert {study.evidence(claim, table).undecided for claim in study.claims} == {
            "This claim needs a model of two layers or more."
        }


def test_ablations_away_from_position_0_alone_are_not_those_everywhere():
    table = lesions(0.8, 0.2)
    apart = table.assign(kind=table["kind"].where(table["weights"] != "as given", table["kind"] + ", rest"))
    assert "this claim needs drop" in verdict(ROBUST, apart).reason


def test_no_late_window_is_said():
    table = lesions(0.8, 0.2)
    early = table[table["layer"] < 2].assign(kind="repeat 3", entropy_difference=-1.0)
    assert "latter half" in verdict(REPEATS, pd.concat([table.assign(entropy_difference=0.0), early])).reason


def test_the_worst_middle_layer_and_the_last_are_told():
    table = lesions(0.8, 0.2)
    assert "lowest: in layer 2 (80%; no layer stands out)" in verdict(ROBUST, table).note
    table.loc[(table["kind"] == "drop") & (table["layer"] == 4), "agreement"] = 0.4
    assert "lowest: in layer 4 (40%)" in verdict(ROBUST, table).note
    assert "80% (layer 6) and 21% (layer 7)" in verdict(ROBUST, table).note


def atlas(density):
    """Lens KL that falls in the second half, and a density of neurons."""
    n_layers = len(density)
    kl = np.concatenate([np.full(n_layers // 2, 10.0), np.linspace(9, 0, n_layers // 2 + 1)])
    draw = np.random.default_rng(1)
    lens = [
        (point, sequence, kl[point] + draw.normal(0, 0.3)) for point in range(n_layers + 1) for sequence in range(6)
    ]
    rows = pd.DataFrame(lens, columns=["layer", "sequence", "value"]).assign(signature="lens KL", weight=10.0)
    of_weights = pd.DataFrame({"layer": range(n_layers), "sequence": -1, "value": density, "weight": 1000.0})
    both = pd.concat([rows, of_weights.assign(signature="prediction neurons")], ignore_index=True)
    return both.assign(model="m", document=both["sequence"])


def test_density_that_rises_as_the_lens_falls_is_noticed_and_any_other_is_not():
    rising = np.concatenate([np.linspace(0, 0.001, 12), np.linspace(0.01, 0.1, 12)])
    assert verdict(DENSER, atlas(rising), Atlas()).outcome == "supported"
    assert verdict(DENSER, atlas(rising[::-1]), Atlas()).outcome == "contradicted"
    assert verdict(DENSER, atlas(np.tile([0.01, 0.1], 12)), Atlas()).outcome != "supported"
    assert "too few layers" in verdict(DENSER, atlas(rising[12:]), Atlas()).reason
    assert "fewer than" in verdict(DENSER, atlas(np.zeros(24)), Atlas()).reason


def test_an_extreme_over_layers_is_told_with_all_layers_that_may_be_it():
    draw = np.random.default_rng(0)
    means = np.array([0.2, 0.8, 0.8, 0.5, 0.8, 0.2])
    noise = draw.normal(0, 0.05, (200, 6))
    values = means + noise - noise.mean(0)
    assert extreme_in_words(values, range(6), spec=".1f") == "in layers 1-2, 4 (0.8)"
    assert extreme_in_words(values, range(6), lowest=True, spec=".1f", place="without") == "without layers 0, 5 (0.2)"
    assert extreme_in_words(noise - noise.mean(0), range(6)).endswith("; no layer stands out)")


def test_a_plateau_holds_the_best_place_and_no_more_than_it_must():
    draw = np.random.default_rng(2)
    peaked = draw.random((400, 9)) < np.array([0.5] * 4 + [0.9] + [0.5] * 4)
    assert plateau(peaked.astype(float), generator=draw).tolist() == [place == 4 for place in range(9)]
    flat = draw.random((400, 9)) < 0.5
    assert plateau(flat.astype(float), generator=draw).sum() >= 7


def test_neurons_that_write_tokens_late_are_told_from_those_that_write_anything():
    model = tiny.fresh("gpt2", "fold")
    planted, random = (model if late else tiny.fresh("gpt2", "fold") for late in (True, False))
    planted.blocks[2].mlp.W_out.data[:96] = planted.unembed.W_U.data.T[:96]
    late = {one.claim.id: one for one in neurons(planted, kurtosis=5).claims}
    assert late["prediction-late"].outcome == "supported"
    assert late["suppression-overtakes"].outcome == "contradicted"
    planted.blocks[2].mlp.W_out.data[:96] *= -1
    assert {one.claim.id: one.outcome for one in neurons(planted, kurtosis=5).claims}[
        "suppression-overtakes"
    ] == "supported"
    assert all(one.outcome != "supported" for one in neurons(random, kurtosis=5).claims)


def test_the_layer_that_makes_a_sink_is_named():
    rows = pd.DataFrame({"sequence": 0, "layer": range(4), "mlp_at_0": [1.0, 2.0, 900.0, 1.0]})
    at_0 = [5.0, 6.0, 7.0, 900.0, 910.0]
    rows = rows.assign(resid_pre_at_0=at_0[:-1], resid_post_at_0=at_0[1:], resid_pre_median=5.0, resid_post_median=5.0)
    assert str(sink_maker(rows)).startswith("Layer 2 makes position 0 as large as an attention sink")
    assert sink_maker(rows.assign(resid_post_at_0=6.0)) is None


def test_a_sink_is_made_where_position_0_becomes_large_and_later_layers_attend_to_it():
    def said(norms: list[float], attention: list[float]) -> list[str]:
        curves = {"norm at position 0": norms, "attention to position 0": attention}
        return sink_in_words(
            pd.concat(
                pd.DataFrame({"metric": name, "layer": range(6), "mean": curve}) for name, curve in curves.items()
            )
        )

    grows, attends = [2.0, 2.0, 4.0, 8.0, 16.0, 15.0], [0.1, 0.1, 0.1, 0.1, 0.1, 0.8]
    assert said(grows, attends)[0].startswith("Layer 4 makes position 0 an attention sink")  # layer 0 only doubles it
    assert "do not attend to it more" in said(grows, attends[::-1])[0]
    assert said([2.0] * 6, attends) == []


def test_layers_without_a_number_are_left_out():
    rows = pd.DataFrame({"document": 0, "sequence": [0, 0, 1, 1], "layer": [0, 1, 0, 1], "x": [1.0, 2.0, np.nan, 3.0]})
    curves = by_layer(rows, "x").dropna()
    assert of_documents(curves[1] - curves[0]).values.tolist() == [1.0]
