"""The lesion study: protocols, weights of tokens, resuming, and what the figure shows."""

import numpy as np
import pytest
import torch

from mechicl import layer_lesions
from mechicl.corpora import load_corpus
from mechicl.engines.wavefront import lesion_sweep
from mechicl.errors import InputError
from mechicl.patches import Drop
from mechicl.results import Cells
from mechicl.studies import load_result
from mechicl.studies.stages.lesions import Lesions
from tests import tiny

TEXTS = ["Review good film", "Question Answer Type of a Person", "Sports in the World are Business and Technology"]


@pytest.fixture(scope="module")
def corpus():
    return load_corpus(tiny.tokenizer(), TEXTS, n_ctx=24, packing="documents", prepend_bos=True)


def test_every_lesion_of_every_sequence_is_a_row(corpus):
    kinds = ("drop", "swap", "attention", "mlp", "replace", "repeat")
    result = layer_lesions(
        tiny.model("gpt2"), corpus, kinds=kinds, windows=(2,), positions=("all",), untrained=0, batch_size=2
    )
    n = {kind: 3 if kind in ("drop", "attention", "mlp") else 2 for kind in (*kinds[:-1], "repeat 2")}
    assert result.table.groupby("kind", sort=False)["layer"].nunique().to_dict() == n
    assert len(result.table) == len(TEXTS) * sum(n.values())
    assert "middle" in " ".join(result.details())
    assert {trace.name for trace in result.figure().data if trace.name} >= {"drop", "swap", "repeat 2"}


def test_attention_and_mlps_are_dropped_at_position_0_too(corpus):
    """In parallel blocks (gptj) neither half reads the other: what each adds there is what Drop leaves out in all."""
    found = layer_lesions(tiny.model("gptj"), corpus, kinds=("drop", "attention", "mlp"), untrained=0)
    kinds = ["drop", "drop, bos", "drop, rest", "attention", "attention, bos", "mlp", "mlp, bos"]
    assert list(found.table["kind"].unique()) == kinds
    assert "MLP, at position 0 alone" in {trace.name for trace in found.figure().data}
    kl = found.table.groupby(["kind", "layer"])["kl"].mean().unstack("layer")
    assert (kl.loc[["attention, bos", "mlp, bos"]].max(axis=1) > 1e-6).all()
    assert (kl.loc["mlp, bos"][:2] != kl.loc["mlp"][:2]).all()
    only = layer_lesions(tiny.model("gptj"), corpus, kinds=("mlp",), positions=("rest",), untrained=0)
    assert list(only.table["kind"].unique()) == ["mlp, rest"]
    assert "MLP, everywhere else" in {trace.name for trace in only.figure().data}


def test_repeated_windows_have_their_entropy_beside_the_intact_models(corpus):
    result = layer_lesions(
        tiny.model("gpt2"), corpus, kinds=("drop", "repeat"), windows=(1, 2), positions=("all",), untrained=0
    )
    figure, summary = result.figure(), result.summary().set_index(["kind", "metric", "layer"])["mean"].sort_index()
    assert len(figure.layout.meta["panels"]) == 4
    shown = {(trace.name, trace.xaxis): list(trace.y) for trace in figure.data if trace.name}
    assert shown["repeat 1", "x4"] == summary["repeat 1", "entropy"].tolist()
    assert ("repeat 1", "x3") not in shown
    assert figure.layout.shapes[0].y0 == summary["repeat 1", "base_entropy", 0]
    lower = summary["repeat 1", "entropy_difference", 2] < 0
    assert f"The mean entropy is lower with {int(lower)} of 1 windows (repeat 1)" in " ".join(result.details())
    alone = layer_lesions(tiny.model("gpt2"), corpus, kinds=("repeat",), windows=(2,), untrained=0)
    assert len(alone.figure().layout.meta["panels"]) == 3


def test_a_window_repeated_twice_is_the_model_with_each_of_its_layers_run_three_times(corpus):
    model, only = tiny.model("gpt2"), {"kinds": ("repeat",), "windows": (1,), "untrained": 0}
    twice = layer_lesions(model, corpus, times=2, **only)
    assert set(twice.table["kind"]) == {"repeat 1 (2 times)"}
    residual = model(corpus.tokens, stop_at_layer=0)
    for layer in (0, 1, 1, 1, 2):
        residual = model.blocks[layer](residual)
    logits = model.unembed(model.ln_final(residual))
    for row, n in enumerate(corpus.lengths.tolist()):
        entropy = torch.distributions.Categorical(logits=logits[row, 1:n].double()).entropy().mean() / np.log(2)
        mine = twice.table.query("layer == 1 and sequence == @row")["entropy"].item()
        assert mine == pytest.approx(entropy.item(), rel=1e-5)
    assert set(layer_lesions(model, corpus, **only).table["kind"]) == {"repeat 1"}
    assert "of 1 windows (repeat 1 (2 times))" in " ".join(twice.details())


def test_means_weigh_tokens_not_sequences(corpus):
    model = tiny.model("gpt2")
    result = layer_lesions(model, corpus, kinds=("drop",), positions=("all",), untrained=0)
    summary = result.summary().set_index(["metric", "layer"])["mean"]
    compared = lesion_sweep(model, corpus.tokens, [Drop(1)], lengths=corpus.lengths)
    assert summary["kl", 1] == pytest.approx(np.nanmean(compared.kl[0, :, 1:]), rel=1e-4)
    assert summary["accuracy", 1] == pytest.approx(np.nanmean(compared.correct[0, :, 1:]), rel=1e-6)
    retained = np.nansum(compared.correct[0, :, 1:]) / max(np.nansum(compared.base_correct[:, 1:]), 1)
    if np.nansum(compared.base_correct[:, 1:]):
        assert summary["accuracy_retained", 1] <= retained + 1e-6


def test_protocols_differ_where_the_authors_do(corpus):
    model = tiny.model("gpt2")
    results = [
        layer_lesions(model, corpus, protocol=protocol, positions=("all",), untrained=0)
        for protocol in ("paper", "corrected")
    ]
    paper, corrected = (one.table.sort_values(["kind", "layer", "sequence"], ignore_index=True) for one in results)
    dropped = (paper["kind"] == "drop").to_numpy()
    np.testing.assert_allclose(paper["kl"][dropped], corrected["kl"][dropped])
    # Where all blocks are built alike, swapping weights is swapping blocks, up to the rounding of another batch.
    np.testing.assert_allclose(paper["kl"], corrected["kl"], rtol=1e-6)
    assert (paper["targets"] == corrected["targets"] + 1).all()  # the loss of the prediction from BOS
    assert (paper["agreement"] >= corrected["agreement"] - 1e-9).all()  # strings agree more often than ids
    of_loss = results[0].summary().query("metric == 'loss_difference' and kind == 'drop'").set_index("layer")["mean"]
    rows = paper[paper["kind"] == "drop"].groupby("layer")[["loss", "base_loss", "targets"]]
    added = rows.apply(lambda one: np.average(one["loss"] - one["base_loss"], weights=one["targets"]))
    np.testing.assert_allclose(of_loss, -added)  # theirs is what the loss falls by


def test_a_result_is_saved_and_goes_on_from_its_cells(corpus, tmp_path):
    study = Lesions(kinds=("drop",), untrained=1)
    model = tiny.model("gpt2")
    result = study.run(model, corpus, cells=Cells(tmp_path))
    result.save(tmp_path)
    again = load_result(tmp_path, "layer-lesions")
    assert again.summary().equals(result.summary())
    files = sorted((tmp_path / "cells").iterdir())
    study.run(model, corpus, cells=Cells(tmp_path))
    assert sorted((tmp_path / "cells").iterdir()) == files


def test_what_does_not_fit_is_refused(corpus):
    with pytest.raises(InputError, match=r"kinds is .*; choose from"):
        Lesions(kinds=("shuffle",))
    with pytest.raises(InputError, match="running text"):
        Lesions().run(tiny.model("gpt2"), None)
    with pytest.raises(InputError, match="too few"):
        layer_lesions(tiny.model("gpt2"), corpus, kinds=("repeat",), windows=(9,))
