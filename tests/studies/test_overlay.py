"""Several models in one figure: every model's curves on relative depth, and nothing averaged over models."""

import numpy as np
import pytest

import mechicl as mi
from mechicl.corpora import load_corpus
from mechicl.errors import InputError
from mechicl.studies import LensStudy, Lesions, LocalAttentionStudy, NeuronsStudy, NormsStudy, compare
from tests import tiny

TEXTS = ["Review good film and a long sentence", "Question Answer Type of a Person in the World"]
FAMILIES = ("gpt2", "neo")
"""Of three and of four layers."""


@pytest.fixture(scope="module")
def corpus():
    return load_corpus(tiny.tokenizer(), TEXTS, n_ctx=40, packing="documents", prepend_bos=True)


@pytest.mark.parametrize(
    "study",
    [
        Lesions(untrained=0, positions=("all",)),
        LensStudy(untrained=0),
        LocalAttentionStudy(),
        NormsStudy(),
        NeuronsStudy(),
    ],
    ids=lambda study: study.name,
)
def test_every_models_curve_is_its_own_on_relative_depth(study, corpus):
    results = [study.run(tiny.model(family), None if study.reads == "weights" else corpus) for family in FAMILIES]
    both = compare(results)
    figure = both.figure()
    wanted = [metric for metric in study.overlaid if metric in set(both.summary()["metric"])]
    assert len(figure.layout.meta["panels"]) <= len(study.overlaid)
    alone = results[1].summary().query(f"metric == '{wanted[0]}'")
    expected = (alone.query("kind == 'drop'") if "kind" in alone else alone).sort_values(
        results[1].study.drawing(results[1]).x
    )
    named = [trace for trace in figure.data if trace.name and trace.name.startswith("tiny-neo") and trace.mode]
    curve = named[0]
    assert (min(curve.x), max(curve.x)) == (0, 1)
    np.testing.assert_allclose(curve.y, expected["mean"], rtol=1e-6)
    assert both.finding().startswith("tiny-gpt2: ")
    assert "tiny-neo: " in both.finding()
    assert {one.about["model"] for one in both.claims} == {"tiny-gpt2", "tiny-neo"}


def test_what_cannot_be_compared_is_said(corpus):
    one = LensStudy(untrained=0).run(tiny.model("gpt2"), corpus)
    with pytest.raises(InputError, match="same model"):
        compare([one, one])
    with pytest.raises(InputError, match="several studies"):
        compare([one, NormsStudy().run(tiny.model("neo"), corpus)])
    with pytest.raises(InputError, match="nothing to compare"):
        compare([one])
    with pytest.raises(InputError, match="not by depth"):
        compare([mi.studies.token_lesions(tiny.model(family), corpus) for family in FAMILIES])


def test_several_texts_stand_beside_the_model(tmp_path, capsys, monkeypatch):
    from mechicl.cli import main
    from mechicl.studies import load_result

    for name in ("first", "second"):
        (tmp_path / f"{name}.txt").write_text(" ".join(["the cat sat on a mat"] * 40))
    texts = f"{tmp_path / 'first.txt'},{tmp_path / 'second.txt'}"
    asked = ["run", "norms", "--model", "tiny-icl", "--text", texts, "--tokens", "60", "--length", "20"]
    monkeypatch.setattr("sys.argv", ["mechicl", *asked, "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    result = load_result(tmp_path / "out", "norms")
    assert set(result.table["model"]) == {"tiny-icl on first.txt", "tiny-icl on second.txt"}
    assert "tiny-icl on first.txt: " in capsys.readouterr().out.replace("\n", " ").replace("  ", " ")
