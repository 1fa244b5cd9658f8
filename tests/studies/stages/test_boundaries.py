"""Boundaries of stages: planted changes are found, and nothing is where signatures do not change together."""

from itertools import combinations_with_replacement

import numpy as np
import pandas as pd
import pytest

from mechicl.claims import decide
from mechicl.errors import InputError
from mechicl.results import Result
from mechicl.studies import joined_atlas
from mechicl.studies.stages import boundaries as module
from mechicl.studies.stages.atlas import Atlas
from mechicl.studies.stages.atlas_claims import BOUNDARIES, MERGED, begins
from mechicl.studies.stages.boundaries import common_changes, fitted, signatures_of, stage_boundaries
from mechicl.studies.stages.inner_lexicon import InnerLexicon
from mechicl.studies.stages.spelling_bench import CONTROLS

N_LAYERS, N_DOCUMENTS = 16, 6
PLANTED = (4, 10, 14)


def levels(*of_stages, starts=PLANTED):
    """A curve that is constant in each stage."""
    return np.repeat(of_stages, np.diff([0, *starts, N_LAYERS])).astype(float)


def planted(starts=PLANTED):
    """What each layer does in a model with all four stages."""
    return {
        "local attention": levels(0.5, 0.2, 0.2, 0.2, starts=starts),
        "block influence": levels(0.3, 0.05, 0.2, 0.2, starts=starts),
        "lens KL": levels(0.5, 0.0, 1.2, 1.5, starts=starts),
        "lens entropy": levels(0.1, 0.1, 0.1, 0.8, starts=starts),
        "MLP norm": 2 ** levels(1, 1, 1, 3, starts=starts),
    }


def atlas(curves, noise=0.02, weights="as given", seed=0, counts=None):
    """An atlas' table; the lens' curves are what is left after each layer, and `counts` are neurons of 1,000."""
    draw, rows = np.random.default_rng(seed), []
    for name, curve in curves.items():
        for document in range(N_DOCUMENTS):
            values = curve * (1 + noise * draw.normal(size=N_LAYERS)) + noise * 0.1 * draw.normal(size=N_LAYERS)
            if name.startswith("lens"):
                values = np.append(values[::-1].cumsum()[::-1], 0.0)
            rows += [(name, document, layer, value, 10.0) for layer, value in enumerate(values)]
    for name, of_layers in (counts or {}).items():
        rows += [(name, -1, layer, n / 1000, 1000.0) for layer, n in enumerate(of_layers)]
    table = pd.DataFrame(rows, columns=["signature", "sequence", "layer", "value", "weight"])
    return table.assign(model="m", weights=weights, document=table["sequence"].where(table["sequence"] >= 0))


def with_twins(model, twin, **more):
    twins = [atlas(twin, more.get("noise", 0.02), f"untrained {seed}", seed + 1) for seed in range(4)]
    return pd.concat([atlas(model, **more), *twins], ignore_index=True)


FLAT = {name: np.full(N_LAYERS, curve.mean()) for name, curve in planted().items()}


def test_planted_boundaries_are_found():
    found = stage_boundaries(atlas(planted()))
    assert found["layer"].tolist() == [*PLANTED]
    assert (found["low"] <= found["layer"]).all()
    assert (found["high"] >= found["layer"]).all()
    assert found["kept"].eq(1).all()
    assert found["by"].tolist() == [
        "local attention, block influence, lens KL", "block influence, lens KL", "lens entropy, MLP norm",
    ]  # fmt: skip
    assert set(found["overlaps"]) == {""}


@pytest.mark.parametrize("seed", range(3))
def test_the_search_is_exact(seed):
    """All orders at once equal each alone, with levels and residuals in plain Python."""
    draw, n = np.random.default_rng(seed), 7
    curves = {name: draw.normal(size=n) for name in module.SIGNATURES if name not in module.DIRECT}

    def gain(curve, signs, starts):
        total, best = ((curve - curve.mean()) ** 2).sum(), 0.0
        for mask in range(1, 2 ** len(signs)):
            chosen = [boundary for i, boundary in enumerate(signs) if mask >> i & 1]
            parts = np.split(curve, [starts[boundary] for boundary in chosen])
            if not any(signs[boundary] for boundary in chosen) or not all(map(len, parts)):
                continue
            rises = np.diff([part.mean() for part in parts])
            if any(signs[boundary] * rise < 0 for boundary, rise in zip(chosen, rises, strict=True)):
                continue
            left = max(sum(((part - part.mean()) ** 2).sum() for part in parts) / total, 0.02)
            best = max(best, -n / 2 * np.log(left) - len(chosen) * np.log(n) / 2)
        return best

    scores = {
        starts: sum(gain(curve, module.SIGNATURES[name][1], starts) for name, curve in curves.items())
        - 2 * np.log(n) * len({start for start in starts if 0 < start < n})
        for starts in combinations_with_replacement(range(n + 1), 3)
    }
    assert common_changes(curves).starts == max(scores, key=scores.__getitem__)


@pytest.mark.parametrize(("name", "value"), [("lens KL", 90.0), ("block influence", 30.0), ("local attention", 20.0)])
def test_one_layer_does_not_outweigh_all_others(name, value):
    """Layer 0 of a model with a tied unembedding takes 90 nats from the lens, where others take one."""
    curves = planted()
    curves[name][0] = value
    assert stage_boundaries(atlas(curves))["layer"].tolist() == [*PLANTED]


def test_a_stage_without_a_common_change_has_no_boundary():
    curves = planted() | {name: FLAT[name] for name in ("lens entropy", "MLP norm")}
    fits = [fitted(signatures_of(atlas(curves, seed=seed))) for seed in range(20)]
    assert {fit.starts[:2] for fit in fits} == {PLANTED[:2]}
    assert sum(bool(fit.by[2]) for fit in fits) <= 2  # by chance
    fall = planted() | {"MLP norm": planted()["MLP norm"][::-1], "lens entropy": np.zeros(N_LAYERS)}
    found = stage_boundaries(atlas(fall, noise=0))
    assert found[["layer", "low", "high"]].iloc[2].isna().all()  # a change the wrong way is none


def test_stages_that_begin_together_are_not_separable():
    curves = planted(starts=(4, 10, 10)) | {"lens KL": levels(0.5, 0.0, 1.2, 1.2)}
    found = stage_boundaries(atlas(curves))
    assert found["layer"].tolist() == [4, 10, 10]
    assert found["overlaps"].tolist() == ["", "", "prediction ensembling"]


def test_signatures_that_disagree_make_the_interval_wide():
    """Documents are equal here, so that resampling them alone would give no width at all."""
    counts = {"suppression neurons": [0.0] * 8 + [40.0] * 8}
    found = stage_boundaries(atlas(planted(), noise=1e-6, counts=counts)).iloc[2]
    assert found["low"] <= 10 < 14 <= found["high"]


def test_neurons_of_which_there_are_few_say_nothing():
    few, many = ([0.0] * 12 + [n] * 4 for n in (2.0, 40.0))
    assert "suppression neurons" in signatures_of(atlas(planted(), counts={"suppression neurons": many}))
    assert "suppression neurons" not in signatures_of(atlas(planted(), counts={"suppression neurons": few}))


def test_boundaries_count_where_untrained_twins_have_none():
    table = with_twins(planted(), FLAT)
    assert [decide(claim, begins(claim, table)).outcome for claim in BOUNDARIES] == ["supported"] * 3
    same = with_twins(planted(), planted())
    assert "supported" not in [decide(claim, begins(claim, same)).outcome for claim in BOUNDARIES]
    alone = atlas(planted())
    assert [decide(claim, begins(claim, alone)).outcome for claim in BOUNDARIES] == ["undecided"] * 3


def test_twins_of_a_single_sequence_count_beside_neurons():
    """A signature from weights has one row, too, and it is not that sequence."""
    counts = {"prediction neurons": [0.0] * 10 + [40.0] * 6}
    twins = [atlas(FLAT, 0.02, f"untrained {seed}", seed + 1, counts).query("sequence < 1") for seed in range(4)]
    table = pd.concat([atlas(planted(), counts=counts), *twins], ignore_index=True)
    assert [decide(claim, begins(claim, table)).outcome for claim in BOUNDARIES] == ["supported"] * 3


def test_a_change_in_another_part_of_the_depth_is_none_that_is_claimed():
    late = {name: curve[::-1] if name == "local attention" else curve for name, curve in planted((12, 13, 14)).items()}
    table = with_twins(late, FLAT)
    assert "layer 12 of 16; the claim is about layers 0 to 8" in decide(MERGED, begins(MERGED, table)).reason


def test_an_untrained_model_has_no_stages():
    """Noise, and curves that fall smoothly with depth, as block influence does in random weights."""
    smooth = {name: 1 / np.arange(1, N_LAYERS + 1) for name in planted()}
    for curves in (FLAT, smooth):
        for seed in range(2):
            found = Atlas().boundaries(with_twins(curves, curves, noise=0.1, seed=10 + seed))
            assert "supported" not in set(found["verdict"])


def test_no_boundary_is_told_or_drawn_that_is_not_shown():
    drops = atlas({"drop KL": np.ones(N_LAYERS)})
    curves = planted() | {name: FLAT[name] for name in ("lens entropy", "MLP norm")}
    result = Result(Atlas(), pd.concat([with_twins(curves, FLAT), drops], ignore_index=True), {})
    told = " ".join(result.details())
    assert "feature engineering from layer 4 [4, 4] (by local attention, block influence, lens KL)" in told
    assert "no boundary is shown for calibration" in told
    texts = {note.text for note in result.figure().layout.annotations}
    assert {"feature engineering", "prediction ensembling"} <= texts
    assert "calibration" not in texts


def lexicon(retrieved=None):
    """What the inner lexicon found of 120 words: their pieces become them in layers 0 to 5, by attention there."""
    draw, words = np.random.default_rng(0), [f"word {i}" for i in range(120)]
    place = np.linspace(0.1, 0.9, 7).tolist() + [0.9] * (N_LAYERS - 6)
    shares = {"whole word": [1.0] * (N_LAYERS + 1), "spelling": retrieved or place}
    shares |= dict.fromkeys(CONTROLS, [0.1] * (N_LAYERS + 1))

    def rows(arm, kind, quantity, of_points, pieces=2):
        points = range(len(of_points)) if len(of_points) > 1 else [-1]
        values = (draw.random((len(words), 1)) < np.array(of_points)).astype(float)
        facts = {"word": np.repeat(words, len(of_points)), "point": np.tile(points, len(words))}
        return pd.DataFrame({**facts, "value": values.flatten()}).assign(
            arm=arm, kind=kind, quantity=quantity, pieces=pieces
        )

    tables = [rows("spelling", k, "retrieval", s, 1 if k == "whole word" else 2) for k, s in shares.items()]
    tables += [rows("spelling", k, "kl", s[-1:]).assign(point=N_LAYERS) for k, s in shares.items()]
    tables += [rows("cut", kind, "retrieval", [0.9]) for kind in ("nothing", "within, early", "before, early")]
    tables.append(rows("cut", "within", "retrieval", [0.6] * 6 + [0.9] * 2))
    return Result(InnerLexicon(), pd.concat(tables, ignore_index=True).assign(model="m"), {"settings": {}})


def test_the_inner_lexicon_says_where_words_are_put_together():
    flat = planted() | {name: FLAT[name] for name in ("local attention", "block influence")}
    curves = flat | {"lens KL": levels(0.0, 0.0, 1.2, 1.5), "drop KL": np.ones(N_LAYERS)}
    plain = Result(Atlas(), with_twins(curves, FLAT), {})
    assert np.isnan(plain.study.boundaries(plain.table)["layer"].iloc[0])
    joined = joined_atlas(plain, [lexicon()])
    found = joined.study.boundaries(joined.table)
    assert found["layer"].tolist() == [6, *PLANTED[1:]]
    found = found.iloc[0]
    assert found["by"] == "words retrieved, words lost by a cut"
    assert found["verdict"] == "supported"
    assert decide(MERGED, begins(MERGED, joined.table)).n == {"words": 120}
    assert {"words retrieved", "words lost by a cut"} <= {trace.name for trace in joined.figure().data}


def test_only_what_beat_its_own_null_is_joined():
    plain = Result(Atlas(), atlas(planted() | {"drop KL": np.ones(N_LAYERS)}), {})
    joined = joined_atlas(plain, [lexicon(retrieved=[0.1] * (N_LAYERS + 1))])
    assert len(joined.table) == len(plain.table)
    assert joined.provenance["joined"] == {}
    with pytest.raises(InputError, match="of one model"):
        joined_atlas(plain, [Result(InnerLexicon(), lexicon().table.assign(model="other"), {})])
    with pytest.raises(InputError, match="Give a result of stages_atlas"):
        joined_atlas(plain, [plain])
