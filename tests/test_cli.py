"""The command line: results, a page, one sentence for what is wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from mechicl.claims import Verdicts
from mechicl.cli import jobs, main, reproduce
from mechicl.cli.finish import as_json, fitting, overview, show, terminal
from mechicl.cli.options import OnAllOfLabelWords, OnPrompts
from mechicl.cli.options_of_stages import OnAllOfStages
from mechicl.cli.sharing import job_of
from mechicl.cli.verdicts import print_verdicts
from mechicl.errors import InputError
from mechicl.files.leases import Leases
from mechicl.studies import STUDIES, load_result
from mechicl.studies.shard import closing_lease
from tests import claiming, tiny
from tests.figures import adversarial

WORDS = ["a", "good", "bad", "film", "match", "is", "was", "the"]


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face directory of a tiny GPT-2 with a tokenizer that knows the tasks' words."""
    folder = tmp_path_factory.mktemp("model") / "tiny-gpt2"
    tiny.huggingface("gpt2").save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with SST-2 rows of our own, <img> and all."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "sst2").mkdir()
    for step, split in enumerate(("train", "validation"), start=1):
        rows = [
            {
                "text": " ".join(WORDS[(i + step * j) % 8] for j in range(4)) + " <img src=x>",
                "label": ["negative", "positive"][i % 2],
            }
            for i in range(12)
        ]
        (folder / "sst2" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


Mechicl = Callable[..., tuple[int, str, str]]


def complaints(err: str) -> list[str]:
    """What is said on standard error beside what each study needs."""
    return [line for line in err.splitlines() if "Estimated memory: " not in line]


@pytest.fixture
def mechicl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Mechicl:
    """Run the command in this process: exit code, output, errors (without the true one that tiny models cannot read)."""

    def call(*arguments: Any) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mechicl", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        out, err = capsys.readouterr()
        return code, out, "".join(line for line in err.splitlines(keepends=True) if "one by one" not in line)

    return call


def test_a_study_leaves_results_and_a_page(
    mechicl: Mechicl, model_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    asked = ["--model", model_folder, "--task", "sst2", "--data", data_folder, "--samples", 6, "--seeds", "42,43"]
    code, out, _ = mechicl("run", "information-flow", *asked, "--out", tmp_path)
    assert code == 0
    page = Path(out.strip().splitlines()[-1])
    assert page == (tmp_path / "report.html").resolve()
    result = load_result(tmp_path, "information-flow")
    assert (result.table["weights"] == "as given").sum() == 2 * 6 * tiny.N_LAYERS
    enriched = {
        f"{kind}_{tokens}" for kind in ("reading", "gathering")
        for tokens in ("label_words", "random_text", "colon", "line_break")
    }  # fmt: skip
    flows = {"S_wp", "S_pq", "S_ww"}
    measured = {"model", "task", "seed", "shots", "prompt", "layer", "S_wp_text"}
    measured |= flows | {f"{flow}_sum_of_abs" for flow in flows}
    assert measured | {"weights", "demonstration_set"} | enriched == set(result.table.columns)
    for fact in ("settings", "model", "prompts", "versions", "machine", "seconds"):
        assert fact in result.provenance
    assert result.provenance["model"]["weight_digest"]

    code, _, _ = mechicl("run", "isolation", *asked, "--out", tmp_path, "--n-layers", "1,2")
    assert code == 0
    html = page.read_text()
    assert "Isolating label words" in html
    assert "Information flow" in html, "the page shows every result of the folder"
    assert "<img src=x>" not in html
    assert " src=" not in html.split("</script>")[-1], "nothing is fetched"

    again = load_result(tmp_path, "isolation")
    shown = overview(again.summary())["isolated"]
    assert shown.isin(("label words", "random tokens")).sum() == 8
    assert {"random edges", "label words (exchange)"} < set(shown), "the further modes of the verdict"

    _, _, err = mechicl("run", "isolation", *asked, "--out", tmp_path, "--n-layers", "1,2")
    assert "Replaced the earlier" not in err, "the same command again"
    _, _, err = mechicl("run", "isolation", *asked, "--out", tmp_path, "--n-layers", "1")
    assert "Replaced the earlier" in err
    assert "--n-layers 1,2" in err, "it names what is gone"


def test_paper_protocol_and_variants_run(
    mechicl: Mechicl, model_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    asked = ["--model", model_folder, "--task", "sst2", "--data", data_folder, "--samples", 3, "--seeds", "1"]
    for number, (study, options) in enumerate(
        (
            ("information-flow", ["--protocol", "paper", "--head-reduce", "sum_of_abs", "--loss", "logit_difference"]),
            ("information-flow", ["--shots", "2", "--target", "predicted"]),
            ("isolation", ["--protocol", "paper", "--n-layers", "1"]),
            ("isolation", ["--mode", "postsoftmax_zero", "--pool", "demo_text", "--n-layers", "1"]),
        )
    ):
        code, out, err = mechicl("run", study, *asked, *options, "--out", tmp_path / str(number))
        assert (code, complaints(err)) == (0, []), err
        assert err.startswith(f"mechicl: {study}. Estimated memory: "), "memory and time, before it begins"
        assert "report.html" in out


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"--model": "no-such-model"}, "no-such-model"),
        ({"--model": "/no/such/folder"}, "/no/such/folder"),
        ({"--task": "sst3"}, "no task 'sst3'"),
        ({"--task": "sst2,sst2"}, "each name once"),
        ({"--data": "/no/such/data"}, "/no/such/data"),
        ({"--seeds": "42;43"}, "comma-separated whole numbers"),
        ({"--seeds": "42,42"}, "each number once"),
        ({"--seeds": "-1"}, "none below zero"),
        ({"--protocol": "papers"}, "--protocol: 'papers' is not one of 'paper', 'corrected'"),
        ({"--shots": "7"}, "7"),
        ({"--n-layers": "9"}, "has 3 layers"),
        ({"--out": "/proc/nothing"}, "choose another folder"),
        ({"--dtype": "float7"}, "float7"),
        ({"--too-long": "cut"}, "--too-long: 'cut' is not one of 'refuse', 'drop', 'shorter'"),
        ({"--samples": "abc"}, "--samples should be a valid integer"),
        ({"--samples": "0"}, "--samples should be greater"),
        ({"--sampels": "3"}, "--sampels"),
        ({"--task": "no/such.json"}, "task file no/such.json cannot be read"),
        ({"--device": "cuda:77"}, "needs 78 GPUs, and there are"),
        ({"--shard": "3/2"}, "give one of several, from 1 on, such as 2/8"),
        ({"--shard": "1/2", "--workers": "2"}, "without --workers and --ray"),
        ({"--workers": "0"}, "--workers should be greater"),
        ({"--model": "tiny-icl", "--checkpoints": "step1"}, "tiny-icl has no revisions; leave out @step1"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    change: dict[str, str], sentence: str, mechicl: Mechicl, model_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    options = {"--model": model_folder, "--task": "sst2", "--data": data_folder, "--seeds": "42", "--samples": "2",
               "--n-layers": "1", "--out": tmp_path / "out"} | change  # fmt: skip
    code, _, err = mechicl("run", "isolation", *[part for pair in options.items() for part in pair])
    assert code == 2
    assert sentence in err
    assert err.startswith("mechicl: ")
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    assert err.endswith(".\n")
    assert not (tmp_path / "out").exists(), "nothing is left behind"


def test_a_shard_leaves_the_results_to_the_one_that_closes(
    mechicl: Mechicl, model_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    asked = ["run", "deep-layers", "--model", model_folder, "--task", "sst2", "--data", data_folder, "--samples", 3,
             "--seeds", "1,2", "--out", tmp_path]  # fmt: skip
    with Leases(tmp_path / "leases") as other:
        assert other.take(closing_lease(job_of([*map(str, asked), "--shard", "1/2"], "1/2")))
        code, out, err = mechicl(*asked, "--shard", "1/2")
    assert (code, out) == (0, "")
    assert complaints(err) == ["mechicl: Shard 1/2 is done; another shard writes the results."]
    assert len(list((tmp_path / "cells").iterdir())) == 2
    assert not (tmp_path / "deep-layers.json").exists()
    code, out, _ = mechicl(*asked, "--shard", "2/2")
    assert code == 0
    assert out.strip().endswith("report.html")
    assert load_result(tmp_path).provenance["workers"] == {"shards": 2}


def test_shards_do_not_fit_a_lens_each(mechicl: Mechicl, tmp_path: Path) -> None:
    asked = ["--model", "tiny-icl", "--text", "tiny-icl", "--tokens", 64, "--out", tmp_path / "out"]
    code, _, err = mechicl("run", "logit-lens", *asked, "--tuned", tmp_path / "lens", "--shard", "1/2")
    assert (code, err.count("\n")) == (2, 1)
    assert "has no tuned lens, and each shard would fit its own" in err
    assert not (tmp_path / "lens").exists()


def test_several_models_are_one_result(mechicl: Mechicl, model_folder: Path, data_folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "runs" / "other-gpt2"
    shutil.copytree(model_folder, other)
    asked = ["--task", "sst2", "--data", data_folder, "--samples", 3, "--seeds", "1,2", "--out", tmp_path / "out"]
    code, out, err = mechicl("run", "deep-layers", "--model", f"{model_folder},{other}", *asked, "--json")
    assert code == 0, err
    told = json.loads(out)
    assert {one["model"] for one in told["claims"]} == {"tiny-gpt2", "other-gpt2"}
    assert {one["model"] for one in told["summary"]} == {"tiny-gpt2", "other-gpt2"}
    code, _, err = mechicl("run", "deep-layers", "--model", f"{model_folder},{other}", *asked, "--shard", "1/2")
    assert (code, "--shard takes one model" in err) == (2, True)
    code, _, err = mechicl("reproduce", "label-words", "--model", f"{model_folder},{other}", *asked)
    assert (code, "This takes one model" in err) == (2, True)


def test_unknown_commands_are_one_sentence(mechicl: Mechicl) -> None:
    for words in (["runn"], ["run", "isolatio"], ["run", "isolation"], ["report"]):
        code, _, err = mechicl(*words)
        assert code == 2
        assert err.startswith("mechicl: ")
        assert err.count("\n") == 1


def test_a_prompt_without_quotes_is_not_repeated_whole(mechicl: Mechicl) -> None:
    code, _, err = mechicl("scan", *["word"] * 5000)
    assert code == 2
    assert err.startswith("mechicl: Got unexpected extra argument")
    assert len(err) < 500


def test_tables_fit_a_terminal_without_breaking_words(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = ["label_loyalty", "word_loyalty_5", "word_loyalty_10", "reciprocal_rank", "S_wp"]
    summary = pd.DataFrame(
        {"task": "tiny-topics-2", "isolated": kind, "metric": name, "mean": 0.5, "low": 0.4, "high": 0.6, "n": 8}
        for name in metrics
        for kind in ("label words", "random tokens in place of label words")
    )
    printed, missing = fitting("isolation", summary, Console(width=60))
    console = Console(width=60)
    console.print(printed)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 60
    words = " ".join(lines).split()
    shown = [name for name in metrics if name not in missing]
    assert "label_loyalty" in shown
    assert {"loyalty", "random", "tokens"} <= set(words)
    assert "the intervals" in missing
    _, missing = fitting("isolation", summary, Console(width=400))
    assert "the intervals" in missing, "of five metrics"
    _, missing = fitting("isolation", summary[summary["metric"] != "S_wp"], Console(width=400))
    assert missing == []
    capsys.readouterr()
    Console(width=400).print(fitting("isolation", summary[summary["metric"] != "S_wp"], Console(width=400))[0])
    assert "0.500 [0.400, 0.600]" in capsys.readouterr().out


def test_values_of_options_are_completed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from mechicl.cli import completion
    from mechicl.tasks import built_in_tasks

    monkeypatch.chdir(tmp_path)
    Path("mine.json").write_text("{}")
    Path("models").mkdir()
    assert set(completion.tasks("")) == {*built_in_tasks(), "mine.json", "models/"}
    assert completion.tasks("sst2,m") == ["sst2,mine.json", "sst2,models/"]
    assert completion.several_of("drop", "swap")("drop,") == ["drop,swap"]
    assert completion.models("tiny") == ["tiny-icl"]
    assert completion.texts("py") == ["pydocs"]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("run isolation --protocol p", "paper"),
        ("run isolation --mode post", "postsoftmax_renorm"),
        ("run layer-lesions --kinds drop,s", "drop,swap"),
        ("run cka --processing f", "fold"),
        ("run isolation --task sst2,tiny", "sst2,tiny-topics-4"),
        ("run isolation --model t", "tiny-icl"),
        ("report results --export p", "pdf"),
    ],
)
def test_the_shell_is_told_values(words: str, offered: str, monkeypatch: pytest.MonkeyPatch, mechicl: Mechicl) -> None:
    line = f"mechicl {words}"
    monkeypatch.setenv("_MECHICL_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split()) - 1))
    code, out, _ = mechicl()
    assert code == 0
    assert offered in out.split()


def test_a_task_file_is_a_task(mechicl: Mechicl, model_folder: Path, data_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "films.json").write_text(
        json.dumps(
            {
                "template": "Review: {text}\nSentiment:{label}",
                "label_words": {"negative": " Negative", "positive": " Positive"},
                "data": str(data_folder / "sst2"),
            }
        )
    )
    asked = ["--model", model_folder, "--samples", 4, "--seeds", 1, "--n-layers", 1]
    for name, task in (("a", tmp_path / "films.json"), ("b", "sst2")):
        data = ["--data", data_folder] if name == "b" else []
        code, _, _ = mechicl("run", "isolation", *asked, "--task", task, *data, "--out", tmp_path / name)
        assert code == 0
    own, built_in = (load_result(tmp_path / name, "isolation") for name in "ab")
    assert set(own.table["task"]) == {"films"}
    assert own.table.drop(columns="task").equals(built_in.table.drop(columns="task"))


def test_prompts_beyond_the_context_are_never_cut(mechicl: Mechicl, model_folder: Path, tmp_path: Path) -> None:
    rows = [{"text": "film " * (600 if i == 3 else 5), "label": ["negative", "positive"][i % 2]} for i in range(40)]
    (tmp_path / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = ["--model", model_folder, "--task", "sst2", "--data", tmp_path / "long.jsonl", "--samples", 40, "--seeds", 0,
             "--demonstrations", "per_prompt", "--out", tmp_path / "out"]  # fmt: skip
    code, _, err = mechicl("run", "information-flow", *asked)
    assert code == 2
    assert f"context of {tiny.N_CTX} tokens" in err
    code, _, _ = mechicl("run", "information-flow", *asked, "--too-long", "shorter")
    assert code == 0
    assert load_result(tmp_path / "out", "information-flow").table["prompt"].nunique() > 1


def test_list_names_studies_and_tasks(mechicl: Mechicl) -> None:
    code, out, _ = mechicl("list")
    assert code == 0
    for name in ("information-flow", "isolation", "sst2", "trec", "agnews", "emo"):
        assert name in out


def test_scan_looks_at_a_prompt_or_at_a_text(mechicl: Mechicl, tmp_path: Path) -> None:
    code, out, err = mechicl("scan", "--task", "tiny-topics-2", "--prompt", 1, "--out", tmp_path)
    assert code == 0, err
    assert "The target reads label words at least twice as much" in " ".join(out.split())
    assert Path(out.split()[-1]).is_file()
    code, out, err = mechicl("scan", "--text", "Text: so na", "--answers", " Amber, Harbor", "--out", tmp_path)
    assert code == 0, err
    assert "among 2 answers" in out
    of_task = ["--task", "tiny-topics-2"]
    for words in ([], [*of_task, "--text", "so"], [*of_task, "--answers", " Amber"], ["--text", "so", "--shots", 2]):
        code, _, err = mechicl("scan", *words, "--out", tmp_path)
        assert (code, err.count("\n")) == (2, 1), err
    code, _, err = mechicl("scan", "--task", "tiny-topics-2,tiny-topics-4", "--out", tmp_path)
    assert (code, err.splitlines()[-1]) == (
        2, "mechicl: scan looks at one prompt, and --task names several tasks: tiny-topics-2,tiny-topics-4; give one."
    )  # fmt: skip
    code, _, err = mechicl("scan", *of_task, "--prompt", 10**6, "--out", tmp_path)
    assert code == 2
    assert err.splitlines()[-1] == "mechicl: --prompt is 1000000, and tiny-topics-2 has 1000 prompts, counted from 0."


def test_the_readme_names_every_study() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    assert [name for name in STUDIES if f"`{name}`" not in readme] == []


def test_help_and_import_load_no_torch() -> None:
    check = (
        "import sys, mechicl, mechicl.cli.app; "
        "assert not {'torch', 'transformer_lens', 'pandas', 'plotly', 'datasets'} & set(sys.modules), 'slow'"
    )
    subprocess.run([sys.executable, "-c", check], check=True)


def test_reproduce_runs_every_study_of_the_first_paper(
    mechicl: Mechicl, model_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    asked = ["--model", model_folder, "--task", "sst2", "--data", data_folder, "--samples", 4, "--seeds", "1"]
    code, out, err = mechicl("reproduce", "label-words", *asked, "--out", tmp_path)
    assert code == 0
    assert all("splits the leading space off label words of 'sst2 (A, B)'" in line for line in complaints(err))
    assert "published and measured" in out
    parts = ("corrected", "paper", "two-per-class", "two-per-class-paper", "norm-weighted", "unrelated-labels")
    assert out.strip().splitlines()[-6:] == [str((tmp_path / part / "report.html").resolve()) for part in parts]
    assert "deep-layers (unrelated-labels) is tried with 4 demonstrations per class: Class 'negative' has 6" in out
    assert set(load_result(tmp_path / "two-per-class", "deep-layers").table["shots"].astype(str)) == {"2"}
    assert load_result(tmp_path / "two-per-class-paper", "deep-layers").study.protocol == "paper"
    assert load_result(tmp_path / "norm-weighted", "deep-layers").study.weight == "norm"
    assert len(load_result(tmp_path / "corrected", "one-prompt").summary()) == 20
    assert "Where isolation changes the most probable words most (Table 5)" in (
        tmp_path / "corrected" / "report.html"
    ).read_text(encoding="utf-8")
    assert "Published: +0.167" in " ".join(out.split())
    for study in ("information-flow", "isolation", "compression", "compression-speed", "reweighting"):
        assert load_result(tmp_path / "paper", study).study.protocol == "paper"
    # two classes have a single pair, which cannot be ranked
    assert not (tmp_path / "corrected" / "error-diagnosis.json").exists()


def test_reproduce_takes_the_papers_tasks_unless_the_model_knows_only_its_own(tmp_path: Path) -> None:
    assert OnAllOfLabelWords(model="gpt2", out=tmp_path).task == "sst2,trec,agnews,emo"
    assert OnAllOfLabelWords(model="tiny-icl", out=tmp_path).task == "tiny-topics-4"
    assert OnAllOfLabelWords(model="tiny-icl", out=tmp_path, task="sst2").task == "sst2"


def test_reproduce_runs_what_neither_paper_has_where_it_is_asked_to(tmp_path: Path) -> None:
    """On as many prompts as their own commands draw, fresh demonstrations where these do."""
    asked = OnAllOfLabelWords(model="m", out=tmp_path, task="sst2", samples=1000)
    assert reproduce._label_word_studies("extensions", 6, asked) == []
    plan = reproduce._label_word_studies("extensions", 6, replace(asked, extensions=True))
    names = [study.name for study, _ in plan]
    assert names == ["anchor-sweep", "decision-layer", "anchor-patching", "anchor-heads", "shot-sweep"]
    shipped = [name for name, study in STUDIES.items() if study.__module__.startswith("mechicl.studies.extensions")]
    assert set(names) == set(shipped)
    for study, own in plan:
        assert own.samples == study.shared_options["samples"]
        assert own.demonstrations == (study.shared_options["demonstrations"] or "per_seed")


def test_reproduce_runs_every_study_once(tmp_path: Path) -> None:
    """In each part: a study that stands twice would be measured, or read back, and told twice."""
    asked = OnAllOfLabelWords(model="m", out=tmp_path, task="sst2", samples=1000, extensions=True)
    plans = [[one for one, _ in reproduce._label_word_studies(part, 6, asked)] for part in reproduce._PARTS]
    texts = OnAllOfStages(model="m", out=tmp_path, text="pydocs", word_pairs=Path("wic"), benchmarks="lambada")
    plans += [reproduce._stages_studies(protocol, 6, texts) for protocol in reproduce._PROTOCOLS]
    for plan in plans:
        names = [study.name for study in plan]
        assert len(names) == len(set(names)), names


def test_studies_share_a_tasks_prompts_unless_they_add_to_them(tmp_path: Path) -> None:
    model = SimpleNamespace(tokenizer=tiny.tokenizer(), cfg=SimpleNamespace(n_ctx=512))
    asked = OnPrompts(model="m", out=tmp_path, task="reviews", samples=2, seeds="42")
    drawn: dict[OnPrompts, Any] = {}

    def given(name: str, **options: Any) -> Any:
        return reproduce._prompts("corrected", STUDIES[name](), replace(asked, **options), model, drawn)

    assert given("isolation") is given("deep-layers")
    assert given("deep-layers", demonstrations="per_prompt") is not given("deep-layers")
    assert given("reweighting") is not given("deep-layers")
    assert set(given("reweighting")[0].auxiliary) > set(given("deep-layers")[0].auxiliary)


def test_order_and_anchor_make_other_prompts(tmp_path: Path) -> None:
    """Words of two pieces have two anchors; orders are names or places."""
    model = SimpleNamespace(tokenizer=tiny.tokenizer(), cfg=SimpleNamespace(n_ctx=512))

    def prompt(**options: Any) -> Any:
        asked = OnPrompts(model="m", out=tmp_path, task="reviews", samples=1, seeds="42", **options)
        return asked.material(STUDIES["isolation"](), model)[0][0]

    first, last = prompt(), prompt(anchor="last")
    assert first.tokens == last.tokens
    assert first.anchors != last.anchors
    shown = first.ids.demonstrations
    assert prompt(order="reversed").ids.demonstrations == shown[::-1]
    assert prompt(order="1,0").ids.demonstrations == shown[::-1]
    assert prompt(shots="0").ids.demonstrations == ()
    for wrong in ("sideways", "0,2", ""):
        with pytest.raises(InputError, match="order"):
            prompt(order=wrong)


def test_reproduce_runs_every_study_of_the_second_paper(
    mechicl: Mechicl, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mechicl.studies.twins.has_twin", lambda model: False)  # other tests run twins
    text = tmp_path / "text.jsonl"
    words = ["Review", "film", "matches", "goodbye", "Businesses", "World", "worldly"]
    rows = [{"text": " ".join(words[(i * j) % 7] for j in range(1, 9))} for i in range(1, 30)]
    text.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = tmp_path / "pairs.jsonl"
    cases = [
        {"word": word, "sentence1": f"a {word}", "sentence2": f"{other} {word}", "label": label}
        for word in ("bank", "bat", "seal")
        for other, label in (("good", "T"), ("bad", "F"))
    ]
    pairs.write_text("".join(json.dumps(case) + "\n" for case in cases))
    out = tmp_path / "out"
    asked = ["--model", model_folder, "--text", text, "--tokens", 600, "--length", 32, "--word-pairs", pairs]
    code, printed, err = mechicl("reproduce", "stages", *asked, "--out", out)
    assert (code, complaints(err)) == (0, [])
    assert "published and measured" in printed
    assert "many-lesions (corrected) has no result" in printed  # three layers have one in the middle
    assert "inner-lexicon (corrected) has no result: " in printed  # no words with a token of their own
    for study in ("stages-atlas", "layer-lesions", "logit-lens", "norms", "neurons", "local-attention", "cka", "wic"):
        assert load_result(out / "corrected", study).study.protocol == "corrected"
    for study in ("layer-lesions", "logit-lens", "norms", "local-attention", "cka"):
        assert load_result(out / "paper", study).study.protocol == "paper"


def test_a_reproduction_on_an_unknown_task_ends_in_one_sentence(mechicl: Mechicl, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, printed, err = mechicl("reproduce", "label-words", "--model", "tiny-icl", "--task", "nothing", "--out", out)
    assert (code, printed) == (2, "")
    assert len(complaints(err)) == 1
    assert "There is no task 'nothing'" in complaints(err)[0]
    assert not out.exists()


def test_each_text_of_a_reproduction_has_a_folder(
    mechicl: Mechicl, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What reads weights alone is measured once."""
    both = [STUDIES["stages-atlas"](), STUDIES["norms"](), STUDIES["neurons"]()]
    monkeypatch.setattr(reproduce, "_stages_studies", lambda protocol, *_: both if protocol == "corrected" else [])
    for name in ("films", "news"):
        rows = [{"text": f"{name} Review film matches goodbye Businesses World {i}"} for i in range(20)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = f"{tmp_path / 'films.jsonl'},{tmp_path / 'news.jsonl'}"
    asked = ["--model", model_folder, "--text", texts, "--tokens", 300, "--length", 32, "--packing", "documents"]
    code, printed, err = mechicl("reproduce", "stages", *asked, "--out", tmp_path / "out")
    assert (code, complaints(err)) == (0, [])
    assert [printed.count(f"norms ({name}.jsonl/corrected)") for name in ("films", "news")] == [1, 1]
    saved = {str(one.relative_to(tmp_path / "out")) for one in (tmp_path / "out").glob("*/*/*.parquet")}
    assert {f"films.jsonl/corrected/{name}.parquet" for name in ("stages-atlas", "norms", "neurons")} <= saved
    assert "news.jsonl/corrected/stages-atlas.parquet" in saved
    assert "news.jsonl/corrected/neurons.parquet" not in saved
    code, _, _ = mechicl("run", "stages-atlas", *asked, "--out", tmp_path / "atlas")
    assert code == 0
    named = [facts["name"] for facts in load_result(tmp_path / "atlas", "stages-atlas").provenance["model"]]
    assert [name.rpartition(" on ")[2] for name in named] == ["films.jsonl", "news.jsonl"]


@pytest.mark.parametrize(("architecture", "longest"), [("GPT2LMHeadModel", 500), ("LlamaForCausalLM", 800)])
def test_documents_are_cut_as_the_authors_cut_them(architecture: str, longest: int, tmp_path: Path) -> None:
    """Of a GPT-2, 500 characters for the lens, and 500 tokens for attention; all documents if there are too few."""
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": f"{i} " + "good film " * 500}) + "\n" for i in range(4)))
    asked = OnAllOfStages(model="any", out=tmp_path, text=str(text), tokens=100_000)
    cfg = SimpleNamespace(n_ctx=800, original_architecture=architecture)
    model = SimpleNamespace(cfg=cfg, tokenizer=tiny.tokenizer())
    lens, attention, lesions = (
        asked.material(study, model)
        for study in (
            STUDIES["logit-lens"]("paper"),
            STUDIES["local-attention"]("paper"),
            STUDIES["layer-lesions"]("paper"),
        )
    )
    assert [len(one) for one in (lens, attention, lesions)] == [4, 4, 4]
    assert max(len(lens.text(i)) for i in range(4)) <= 500
    assert (int(attention.lengths.max()), int(lesions.lengths.max())) == (longest, 800)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (["--text", "tiny-icl,missing.txt"], "There is no file or folder missing.txt; give the path of the text."),
        (["--text", "tiny-icl", "--word-pairs", "missing"], "missing"),
        (["--text", "tiny-icl", "--task", "missing.json"], "missing.json"),
    ],
)
def test_a_wrong_input_of_a_reproduction_is_said_before_any_work(
    wrong: list[str], sentence: str, mechicl: Mechicl, tmp_path: Path
) -> None:
    asked = ["--model", "tiny-icl", "--tokens", 300, "--length", 32, "--out", tmp_path / "out"]
    code, printed, err = mechicl("reproduce", "stages", *asked, *wrong)
    assert (code, printed) == (2, "")
    assert sentence in err
    assert (err.count("\n"), "Traceback" in err) == (1, False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("columns", [80, 132])
def test_verdicts_fit_the_terminal_without_breaking_words(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    verdicts = claiming.result_of(("sst2", "trec")).claims
    monkeypatch.setenv("COLUMNS", str(columns))
    console = terminal()
    with console.capture() as captured:
        print_verdicts(verdicts, console)
    text = captured.get()
    assert max(map(len, text.splitlines())) <= columns
    sentences = " ".join(verdict.claim.sentence for verdict in verdicts)
    assert set(sentences.split()) <= {word for line in text.splitlines() for word in line.split()}
    assert [text.count(outcome) for outcome in ("supported", "contradicted", "undecided")] == [2, 2, 2]
    assert text.count("Undecided: ") == 1, "the same reason once"
    with console.capture() as captured:
        print_verdicts(Verdicts(), console)
    assert captured.get() == ""


def test_a_reproduction_ends_with_every_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(STUDIES, "claiming", claiming.Claiming)
    result = claiming.result_of()
    for part in ("corrected", "two-per-class"):
        result.save(tmp_path / part)
    table = pd.DataFrame({"quantity": ["accuracy"], "task": ["sst2"], "measured": ["1"]})
    asked, why = SimpleNamespace(out=tmp_path, as_json=False, model="m"), "The text is too short; use more."
    parts = ("corrected", "two-per-class")
    jobs.print_summary(table, [], [], asked, parts, {})  # type: ignore[arg-type]
    printed = capsys.readouterr().out
    assert printed.index("published and measured") < printed.index("(two-per-") < printed.index("report.html")
    asked.as_json = True
    failed = [("paper", claiming.Claiming(), InputError(why))]
    jobs.print_summary(table, [], failed, asked, parts, {})  # type: ignore[arg-type]
    told = json.loads(capsys.readouterr().out)
    assert [(one["part"], one["id"]) for one in told["claims"]] == [
        (part, one.id) for part in ("corrected", "two-per-class", "paper") for one in claiming.CLAIMS
    ]
    without = told["claims"][-1]
    assert (without["verdict"], without["reason"], without["model"]) == ("undecided", why, "tiny"), (
        "a study that failed"
    )
    facts = as_json(result)["claims"][0]
    keys = "id claim source study model task protocol verdict effect unit low high n null reason"
    assert set(keys.split()) <= facts.keys()
    assert facts["n"] == {"sets": 4, "prompts": 32}
    assert facts["null"] == {"name": "random text tokens", "value": 0.25}


def test_the_terminal_lists_further_numbers_and_counts_models(capsys: pytest.CaptureFixture[str]) -> None:
    """The verdicts themselves are in its table, so they are not said again."""
    one = adversarial.small("isolation")
    for result in (one, adversarial.many_models(one)):
        show(result)
        shown = " ".join(capsys.readouterr().out.split())
        assert all(f"- {' '.join(text.split())}" in shown for text in (*result.claims.limits(), *result.details()))
        counts = result.claims.counted_in_words()
        assert counts in shown
        assert bool(counts) == (result is not one)
        assert "Undecided: " in shown
        assert one.claims[0].claim.sentence not in shown.split("- ")[1]


def test_json_is_one_object_for_programs(
    mechicl: Mechicl, model_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    asked = ["--model", model_folder, "--task", "sst2", "--data", data_folder, "--samples", 99, "--seeds", "42"]
    code, out, err = mechicl("run", "information-flow", *asked, "--out", tmp_path, "--json")
    assert code == 0
    told = json.loads(out)
    assert (told["study"], told["protocol"]) == ("information-flow", "corrected")
    summary = load_result(tmp_path, "information-flow").summary()
    assert [row["mean"] for row in told["summary"]] == pytest.approx(summary["mean"].tolist())
    assert [one["id"] for one in told["claims"]] == [one.id for one in STUDIES["information-flow"].claims]
    saved = load_result(tmp_path, "information-flow")
    assert (told["finding"], told["details"]) == (saved.finding(), saved.details())
    assert [one["limits"] for one in told["claims"]] == [list(one.limits) for one in saved.claims]
    assert Path(told["page"]).exists()
    assert "12 prompts of the 99 asked for" in err

    code, out, _ = mechicl("report", tmp_path, "--out", tmp_path / "elsewhere")
    assert code == 0
    assert Path(out.strip()) == (tmp_path / "elsewhere" / "report.html").resolve()


@pytest.mark.parametrize("folder", ["nothing", "."])
def test_a_report_needs_results(folder: str, mechicl: Mechicl, tmp_path: Path) -> None:
    code, _, err = mechicl("report", tmp_path / folder)
    assert code == 2
    assert err.count("\n") == 1


def test_the_doctor_says_what_there_is(mechicl: Mechicl) -> None:
    code, out, _ = mechicl("doctor", "--model", "tiny-icl")
    assert code == 0
    for fact in (
        "torch", "tokenizers", "datasets", "BLAS", "threads", "GPU", "free memory, cpu", "Hugging Face hub",
        "export of figures", "known vulnerabilities", "fits",
    ):  # fmt: skip
        assert fact in out


@pytest.mark.parametrize("model", ["/nope", "no-such-model", "."])
def test_the_doctor_refuses_what_is_no_model(model: str, mechicl: Mechicl) -> None:
    code, _, err = mechicl("doctor", "--model", model)
    assert code == 2
    assert err.startswith("mechicl: ")
    assert err.count("\n") == 1


def test_help_has_an_example_that_runs(mechicl: Mechicl) -> None:
    code, out, _ = mechicl("run", "isolation", "--help")
    assert code == 0
    assert "mechicl run isolation --model tiny-icl --task tiny-topics-4 --out results" in " ".join(out.split())


def test_the_cache_is_listed_and_cleared(mechicl: Mechicl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MECHICL_CACHE", str(tmp_path / "cache"))
    assert mechicl("cache") == (0, f"Nothing is kept in {tmp_path / 'cache' / 'mechicl'}.\n", "")
    thing = tmp_path / "cache" / "mechicl" / "thing"
    thing.mkdir(parents=True)
    (thing / "weights").write_bytes(b"x" * 2_500_000)
    _, out, _ = mechicl("cache")
    assert "thing" in out
    assert "2.5" in out
    assert "2.5 MB" in mechicl("cache", "--clear")[1]
    assert mechicl("cache")[1].startswith("Nothing is kept")


def test_a_longest_sequence_is_an_option(
    mechicl: Mechicl, model_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    asked = ("run", "isolation", "--model", model_folder, "--task", "sst2", "--data", data_folder, "--samples", 2)
    more = ("--seeds", 42, "--n-layers", 1, "--out", tmp_path / "out")
    code, _, err = mechicl(*asked, *more, "--n-ctx", 20)
    assert code == 2
    assert "longer than the context of 20 tokens" in err
    code, _, err = mechicl(*asked, *more, "--n-ctx", tiny.N_CTX + 1)
    assert code == 2
    assert f"has {tiny.N_CTX} learned positions; pass at most {tiny.N_CTX}" in err
    assert not (tmp_path / "out").exists()
    assert mechicl(*asked, *more)[0] == 0
