"""Benchmarks under lesions: the harness scores, lesions answer; a task of our own in the harness's format."""

import functools
import json
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from mechicl.claims import decide
from mechicl.engines.continuations import continuations
from mechicl.errors import InputError
from mechicl.patches import Drop
from mechicl.studies import benchmarks
from mechicl.studies.stages.benchmarks import HELPED, KEPT, LesionedBenchmarks
from mechicl.tasks import load_benchmarks, load_task
from tests import tiny

DOCUMENTS = [
    {"query": "a good", "choices": ["film", "a bad and long film", "match"], "gold": 0},
    {"query": "the World is", "choices": ["bad", "Happy", "Sad"], "gold": 2},
    {"query": "Business and", "choices": ["Technology", "Sports", "so"], "gold": 1},
    {"query": "Question:", "choices": ["Answer", "Type", "Person"], "gold": 1},
]
YAML = """task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: {file}}}
output_type: {kind}
test_split: test
doc_to_text: "{{{{query}}}}"
doc_to_target: "{target}"
{choices}metric_list:
  - metric: acc
  - metric: {second}
metadata: {{version: 1.0}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("lm_eval", reason="lm_eval is not installed")
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "documents.jsonl").write_text("".join(json.dumps(document) + "\n" for document in DOCUMENTS))
    common = {"file": folder / "documents.jsonl"}
    choice = YAML.format(name="own_choice", kind="multiple_choice", target="{{gold}}", second="acc_norm",
                         choices='doc_to_choice: "{{choices}}"\n', **common)  # fmt: skip
    cloze = YAML.format(name="own_cloze", kind="loglikelihood", target="{{' ' + choices[gold]}}", second="perplexity",
                        choices="", **common)  # fmt: skip
    (folder / "own_choice.yaml").write_text(choice)
    (folder / "own_cloze.yaml").write_text(cloze)
    return folder


@pytest.fixture(scope="module")
def tasks(folder):
    return load_benchmarks(["own_choice", "own_cloze"], include=folder)


def by_hand(model, requests):
    """Sums of log-probabilities, and greedy hits, from plain forward passes."""
    found = []
    for context, continuation in requests:
        tokenizer = tiny.tokenizer()
        own, ids = (tokenizer(text)["input_ids"] for text in (context, context + continuation))
        log_p = model(torch.tensor([ids]), prepend_bos=False)[0].log_softmax(-1)
        at = range(len(own), len(ids))
        greedy = all(int(log_p[i - 1].argmax()) == ids[i] for i in at)
        found.append((sum(float(log_p[i - 1, ids[i]]) for i in at), greedy))
    return found


@pytest.mark.lm_eval
def test_accuracies_are_those_of_plain_passes(tasks):
    model = tiny.model("gpt2")
    result = benchmarks(model, tasks, kinds=("drop",))
    table = result.table.set_index(["benchmark", "kind", "layer", "prompt"])
    for kind, layer, lesion in (("clean", -1, None), ("drop", 1, Drop(1))):
        for i, document in enumerate(DOCUMENTS):
            requests = [(document["query"], f" {choice}") for choice in document["choices"]]
            if lesion is None:
                answers = by_hand(model, requests)
            else:
                with lesion.on(model):
                    answers = by_hand(model, requests)
            scores = torch.tensor([score for score, _ in answers])
            sizes = torch.tensor([float(len(choice)) for choice in document["choices"]])
            gold = document["gold"]
            assert table.loc[("own_choice", kind, layer, i), "acc"] == float(scores.argmax() == gold)
            assert table.loc[("own_choice", kind, layer, i), "acc_norm"] == float((scores / sizes).argmax() == gold)
            assert table.loc[("own_cloze", kind, layer, i), "acc"] == float(answers[gold][1])
    assert "own_choice: clean" in " ".join(result.details())
    assert result.figure().data
    assert result.provenance["benchmarks"]["tasks"] == {"own_choice": "1.0", "own_cloze": "1.0"}


@pytest.mark.lm_eval
def test_every_kind_of_lesion_is_scored(tasks):
    result = benchmarks(tiny.model("llama"), tasks, windows=(2,))
    assert set(result.table["kind"]) == {"clean", "drop", "swap", "repeat 2"}
    assert len(result.table) == (1 + 3 + 2 + 2) * 2 * len(DOCUMENTS)


def scored(layer_0, middle, repeated, n=60):
    """Documents that so many of the clean model's right answers survive."""
    draw, rows = np.random.default_rng(0), []
    shares = {("clean", -1): 0.8, ("drop", 0): layer_0, ("repeat 1", 8): repeated}
    shares |= {("drop", layer): middle for layer in range(1, 10)}
    for (kind, layer), share in shares.items():
        right = (draw.random(n) < share).astype(float)
        rows.append(
            pd.DataFrame({"benchmark": "reviews", "prompt": range(n), "kind": kind, "layer": layer, "acc": right})
        )
    return pd.concat(rows).assign(acc_norm=np.nan, model="m")


def test_what_ablations_cost_and_repeats_add_is_decided_over_documents():
    def outcomes(table):
        return [decide(claim, LesionedBenchmarks().evidence(claim, table)).outcome for claim in (KEPT, HELPED)]

    assert outcomes(scored(0.2, 0.7, 1.0)) == ["supported", "supported"]
    assert outcomes(scored(0.7, 0.2, 0.2)) == ["contradicted", "contradicted"]
    assert outcomes(scored(0.5, 0.5, 0.8)) == ["undecided", "undecided"]
    old = scored(0.2, 0.7, 1.0).replace({"kind": {"clean": "intact"}})
    assert outcomes(old) == ["supported", "supported"], "a table of version 0.1"
    early = scored(0.2, 0.7, 1.0).replace({"layer": {8: 3}})
    assert "No repeated window has its middle" in LesionedBenchmarks().evidence(HELPED, early).undecided


@pytest.mark.lm_eval
def test_other_documents_are_another_material(folder, tasks):
    fewer = load_benchmarks(["own_choice"], include=folder, limit=2)
    assert len(fewer.requests) == 6
    assert fewer.digest() != tasks.digest()
    assert fewer.digest() == load_benchmarks(["own_choice"], include=folder, limit=2).digest()


@pytest.mark.lm_eval
def test_shipped_texts_are_asked_without_a_network():
    """The first document as the task itself would ask it, and a choice for every label word."""
    tasks = load_benchmarks(["reviews", "questions"], limit=3)
    context, words = tasks.requests[0][0], [continuation for _, continuation in tasks.requests[:2]]
    assert context.startswith("Review: ")
    assert context.endswith("\nSentiment:")
    assert words == list(load_task("reviews").label_words.values())
    assert len(tasks.requests) == 3 * 2 + 3 * 6
    queries = load_task("reviews").splits.queries
    assert queries is not None
    first = {(context, list(load_task("reviews").label_words.values())[queries.classes[0]]): (-1.0, True)}
    table = tasks.score(lambda requests: [first.get(one, (-2.0, False)) for one in requests])
    assert table.set_index(["benchmark", "prompt"]).loc[("reviews", 0), "acc"] == 1


def test_groups_of_lesions_change_nothing(monkeypatch):
    model, lesions = tiny.model("gpt2"), [Drop(0), Drop(1), Drop(2)]
    requests = [("a good", " film"), ("a bad", " film and a match"), ("", "a"), ("the World ", "is")]
    whole = continuations(model, requests, lesions, prepend_bos=True)
    monkeypatch.setattr(sys.modules["mechicl.engines.wavefront"], "RESIDUAL_BYTES", 1)
    parts = continuations(model, requests, lesions, prepend_bos=True, batch_size=1)
    torch.testing.assert_close(parts.log_prob, whole.log_prob, atol=1e-5, rtol=1e-5)
    assert torch.equal(parts.greedy, whole.greedy)


@pytest.mark.lm_eval
def test_what_is_wrong_is_said(folder, monkeypatch):
    harness = sys.modules["lm_eval.tasks"]  # which takes ten seconds to list its tasks
    monkeypatch.setattr(harness, "TaskManager", functools.cache(harness.TaskManager))
    with pytest.raises(InputError, match="no task 'nothing'"):
        load_benchmarks(["nothing"])
    with pytest.raises(InputError, match="no folder"):
        load_benchmarks(["own_choice"], include=folder / "nowhere")
    with pytest.raises(InputError, match="cannot be loaded"):  # the hub is not reached in the tests
        load_benchmarks(["hellaswag"])
    with pytest.raises(InputError, match="kinds is"):
        LesionedBenchmarks(kinds=("shuffle",))
    with pytest.raises(InputError, match="nothing is cut"):
        continuations(tiny.model("gpt2"), [("film " * 600, "film")], prepend_bos=False)
    with pytest.raises(InputError, match="no token"):
        continuations(tiny.model("gpt2"), [("film", "")], prepend_bos=False)
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(InputError, match="pip install lm-eval"):
        load_benchmarks(["hellaswag"])
