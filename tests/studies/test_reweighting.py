"""The re-weighting study: its auxiliary prompts, controls and numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from mechicl import reweighting
from mechicl.engines.compression import on_anchors
from mechicl.engines.reweighting import fit_reweighting
from mechicl.errors import InputError
from mechicl.hooks import run
from mechicl.patches import ReweightAnchors
from mechicl.results import Cells
from mechicl.studies import load_result
from mechicl.studies.label_words.controls import MORE_SHOTS, at_random_positions, fit_biases
from mechicl.studies.label_words.reweighting import REWEIGHTED, Reweighting
from tests import tiny
from tests.engines.test_compression import TASK, films

STUDY = Reweighting(lr=0.1, epochs=2, per_class=2, more_shots=3)


def test_auxiliary_prompts_share_the_demonstrations() -> None:
    prompts = STUDY.prompts(TASK, tiny.tokenizer(), seed=0)
    start = prompts[0].query_start
    for name in ("training", "content_free"):
        assert all(p.tokens[:start] == prompts[0].tokens[:start] for p in prompts.auxiliary[name])
    assert len(prompts.auxiliary["training"]) == 4
    assert prompts.auxiliary["more_shots"].shots == 3
    assert [p.ids.query for p in prompts.auxiliary["more_shots"]] == [p.ids.query for p in prompts]
    assert prompts.digest() != films().digest()
    room = max(map(len, TASK.prompts(tiny.tokenizer(), seed=0, shots=2)))
    with pytest.warns(UserWarning, match=r"cannot have 3 per class: .* tokens .* It has 2\."):
        prompts = STUDY.prompts(TASK, tiny.tokenizer(), seed=0, n_ctx=room)
    assert prompts.auxiliary["more_shots"].shots == 2
    assert "3 per class" in prompts.provenance()["fewer_shots"]


def test_auxiliary_prompts_have_the_order_of_the_prompts() -> None:
    prompts = STUDY.prompts(TASK, tiny.tokenizer(), seed=0, shots=2, order="class")
    start = prompts[0].tokens[: prompts[0].query_start]
    for name in ("training", "content_free"):
        assert all(p.tokens[: p.query_start] == start for p in prompts.auxiliary[name])
    more = prompts.auxiliary["more_shots"][0].anchor_classes
    assert list(more) == sorted(more)


def test_seeds_that_are_averaged_have_as_many_more_shots() -> None:
    """The context holds three in one seed alone; queries that would be too long for a share of it are asked as well."""
    seeds, study = (0, 1, 2), replace(STUDY, more_shots=3)
    need = [max(map(len, TASK.prompts(tiny.tokenizer(), seed=seed, shots=3))) for seed in seeds]
    assert len(set(need)) > 1
    with pytest.warns(UserWarning, match="2 demonstrations per class fit every seed"):
        sets = study.prompt_sets(TASK, tiny.tokenizer(), seeds=seeds, n_ctx=min(need), too_long="shorter")
    for one in sets:
        more = one.auxiliary["more_shots"]
        assert more.shots == 2
        assert [prompt.ids.query for prompt in more] == [prompt.ids.query for prompt in one]
        assert set(one[0].ids.demonstrations) <= set(more[0].ids.demonstrations)


def test_different_numbers_of_shots_are_not_averaged() -> None:
    sets = [replace(STUDY, more_shots=n, protocol="paper").prompts(TASK, tiny.tokenizer(), seed=n) for n in (2, 3)]
    result = replace(STUDY, protocol="paper").run(tiny.model("gpt2"), sets)
    more = result.summary().query(f"method == {MORE_SHOTS!r} and metric == 'accuracy'")
    assert dict(zip(more["per_class"], more["seeds"], strict=True)) == {"2": 1, "3": 1}
    bars = result.figure().data[0]
    assert len(set(bars.y)) == len(bars.y)


def test_ag_news_has_the_authors_number_in_their_protocol() -> None:
    news, study = replace(TASK, name="agnews"), replace(STUDY, more_shots=5)
    shots = {p: replace(study, protocol=p).prompts(news, tiny.tokenizer()).auxiliary["more_shots"].shots
             for p in ("paper", "corrected")}  # fmt: skip
    assert shots == {"paper": 3, "corrected": 5}


def test_all_methods_are_measured() -> None:
    model = tiny.model("gpt2")
    result = STUDY.run(model, STUDY.prompts(TASK, tiny.tokenizer(), seed=0))
    summary = result.summary()
    assert set(summary["method"]) == {condition["method"] for condition in STUDY.conditions(model)}
    mean = summary.set_index(["metric", "method"])["mean"]
    rows = result.table[result.table["method"] == REWEIGHTED]
    assert mean["accuracy", REWEIGHTED] == (rows["gold"] == rows["predicted"]).mean()
    assert mean["macro_f1", REWEIGHTED] == pytest.approx(f1_score(rows["gold"], rows["predicted"], average="macro"))
    negative = rows[rows["gold_name"] == "negative"]
    assert mean["recall of negative", REWEIGHTED] == (negative["predicted"] == 0).mean()
    assert mean["accuracy", "majority class"] == np.bincount(films().gold).max() / len(films())
    assert len(result.claims) == 4
    assert result.figure().data


def test_queries_are_paired_by_what_they_ask() -> None:
    """More shots may ask in another order, and lack a query; a gain is that on the same queries all the same."""
    model, prompts = tiny.model("gpt2"), STUDY.prompts(TASK, tiny.tokenizer(), seed=0)
    more = prompts.auxiliary["more_shots"]
    other = replace(prompts, auxiliary={**prompts.auxiliary, "more_shots": more.select(range(len(more) - 2, -1, -1))})
    straight, turned = (STUDY.measure(model, one, {"method": MORE_SHOTS}, batch_size=16) for one in (prompts, other))
    both = turned.merge(straight, on="prompt")
    assert len(both) == len(more) - 1
    assert list(both["gold_x"]) == list(both["gold_y"])
    assert list(both["label_logits_x"].map(np.argmax)) == list(both["label_logits_y"].map(np.argmax))


def test_gains_are_paired_and_learning_is_kept() -> None:
    model = tiny.model("gpt2")
    result = STUDY.run(model, [STUDY.prompts(TASK, tiny.tokenizer(), seed=seed) for seed in (0, 1)])
    gain = result.summary().query("metric == 'gain'").set_index("method")
    right = (result.table["gold"] == result.table["predicted"]).groupby(result.table["method"]).mean()
    for method in gain.index:
        assert gain.loc[method, "mean"] == pytest.approx(right[REWEIGHTED] - right[method])
    assert REWEIGHTED not in gain.index
    verdict = next(one for one in result.claims if one.claim.id == "reweighting-biases")
    assert gain.loc["label biases", ["mean", "low", "high"]].tolist() == [verdict.effect, verdict.low, verdict.high]
    curves = STUDY.learning_curves(result.table)
    assert set(curves["epoch"]) == {1, 2}
    training = [STUDY.prompts(TASK, tiny.tokenizer(), seed=seed).auxiliary["training"] for seed in (0, 1)]
    fits = [fit_reweighting(model, one, lr=STUDY.lr, epochs=2, seed=one.seed) for one in training]
    losses = curves.query(f"method == {REWEIGHTED!r} and metric == 'training_loss'")["mean"]
    np.testing.assert_allclose(losses, np.mean([fit.by_epoch()[0] for fit in fits], axis=0), rtol=1e-4)


def test_what_was_fitted_is_kept_and_applied_again(tmp_path: Path) -> None:
    """A result's re-weightings are files; applied to the same prompts they give the study's own answers, also resumed."""
    model, prompts = tiny.model("gpt2"), STUDY.prompts(TASK, tiny.tokenizer(), seed=0)
    STUDY.run(model, prompts, cells=Cells(tmp_path))
    result = STUDY.run(model, prompts, cells=Cells(tmp_path))
    result.save(tmp_path)
    folder = tmp_path / "reweighting" / "films-1-per-class-seed-0"
    patch = ReweightAnchors.load(folder)
    assert (patch.about["task"], patch.about["seed"]) == ("films", 0)
    rows = result.table[result.table["method"] == REWEIGHTED]
    again = run(model, prompts, patches=[patch]).label_logits
    torch.testing.assert_close(again, torch.tensor(np.stack(rows["label_logits"])).float(), rtol=1e-4, atol=1e-5)
    compressed = ReweightAnchors.load(folder.with_name(folder.name + "-compressed"))
    rows = result.table[result.table["method"] == "re-weighted, compressed"]
    on = on_anchors(model, prompts, [compressed]).label_logits
    torch.testing.assert_close(on, torch.tensor(np.stack(rows["label_logits"])).float(), rtol=1e-4, atol=1e-5)
    assert set(load_result(tmp_path, "reweighting").study.fitted(result)) == {
        "films, 1 per class, seed 0", "films, 1 per class, seed 0, compressed"
    }  # fmt: skip


def test_what_is_measured_together_is_what_each_method_measures_alone(tmp_path: Path) -> None:
    """Also where a part is there already and only the rest is made."""
    model, prompts = tiny.model("gpt2"), STUDY.prompts(TASK, tiny.tokenizer(), seed=0)
    conditions = STUDY.conditions(model)
    together = list(STUDY.measure_all(model, prompts, conditions, batch_size=4))
    for condition, table in zip(conditions, together, strict=True):
        alone = STUDY.measure(model, prompts, condition, batch_size=16)
        expected, found = (torch.tensor(np.stack(t["label_logits"])) for t in (alone, table))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert list(alone["gold"]) == list(table["gold"])


def test_without_room_for_more_shots_the_row_is_missing() -> None:
    prompts = Reweighting(more_shots=1).prompts(TASK, tiny.tokenizer(), seed=0)
    result = reweighting(tiny.model("gpt2"), prompts, epochs=1, protocol="paper")
    assert set(result.table["method"]) == {"vanilla", REWEIGHTED}
    assert {one.outcome for one in result.claims if one.claim.id == "reweighting-shots"} == {"undecided"}


def test_biases_undo_a_shift_of_the_logits() -> None:
    gold = torch.arange(60) % 3
    logits = torch.nn.functional.one_hot(gold, 3) * 2.0 + torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    shift = torch.tensor([3.0, 0.0, -2.0])
    restored = (logits + shift) + fit_biases(logits + shift, gold)
    assert (restored.argmax(-1) == gold).float().mean() > 0.9 > ((logits + shift).argmax(-1) == gold).float().mean()


def test_random_positions_are_text_and_the_same_for_the_same_demonstrations() -> None:
    prompts = STUDY.prompts(TASK, tiny.tokenizer(), seed=0)
    moved = at_random_positions(prompts, 0)
    assert {p.anchors for p in moved} == {at_random_positions(prompts.auxiliary["training"], 0)[0].anchors}
    assert set(moved[0].anchors) <= set(prompts[0].w)


def test_refusals_say_what_to_do() -> None:
    with pytest.raises(InputError, match="make the prompts by"):
        reweighting(tiny.model("gpt2"), films())
    with pytest.raises(InputError, match="lr is 0; give a number above 0"):
        Reweighting(lr=0)
