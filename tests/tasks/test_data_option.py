"""--data among several tasks: for those that have no data of their own in the package."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from mechicl.cli.options import OnPrompts
from mechicl.errors import InputError
from mechicl.shipped import load_tokenizer
from mechicl.studies import STUDIES
from tests.tasks.rows import rows

MODEL = SimpleNamespace(tokenizer=load_tokenizer(), cfg=SimpleNamespace(n_ctx=2048))


def origins(task: str, data: Path | None) -> dict[str, str]:
    """Where the demonstrations of each task come from."""
    asked = OnPrompts(model="tiny-icl", out=Path("out"), task=task, data=data, samples=2, seeds="42")
    return {s.task: s.origin["data"]["demonstrations"] for s in asked.material(STUDIES["information-flow"](), MODEL)}


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """A folder with data that both sst2 and reviews could read."""
    lines = "".join(json.dumps(row) + "\n" for row in rows("sst2"))
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text(lines)
    return tmp_path


def test_a_shipped_task_named_alone_takes_the_data(films: Path) -> None:
    assert origins("reviews", films) == {"reviews": str(films / "train.jsonl")}
    assert origins("reviews", None) == {"reviews": "reviews (shipped with mechicl), train"}


def test_columns_are_named_where_data_are_given(tmp_path: Path) -> None:
    path = tmp_path / "films.csv"
    path.write_text(
        "idx,body,stars\n" + "".join(f"{i},film {i},{'negative' if i % 2 else 'positive'}\n" for i in range(8))
    )
    asked = OnPrompts(model="tiny-icl", out=Path("out"), task="sst2,reviews", data=path, samples=2, seeds="42",
                      columns="text=body,label=stars")  # fmt: skip
    films, reviews = asked.material(STUDIES["information-flow"](), MODEL)
    assert "film" in films[0].string
    assert reviews.origin["data"]["demonstrations"] == "reviews (shipped with mechicl), train"
    with pytest.raises(
        InputError, match="--columns is 'body'; give a text for each name, such as \"text=body,label=stars\""
    ):
        replace(asked, columns="body").material(STUDIES["information-flow"](), MODEL)


def test_among_several_tasks_shipped_ones_keep_their_own(films: Path) -> None:
    sources = origins("sst2,reviews,tiny-topics-2", films)
    assert sources["sst2"] == str(films / "train.jsonl")
    assert sources["reviews"] == "reviews (shipped with mechicl), train"
    assert sources["tiny-topics-2"].startswith("the language of tiny-icl")


def test_a_folder_that_seems_meant_for_a_shipped_task_is_not_passed_over_in_silence(films: Path) -> None:
    (films / "reviews").mkdir()
    (films / "train.jsonl").rename(films / "reviews" / "train.jsonl")
    assert origins("reviews", films) == {"reviews": str(films / "reviews" / "train.jsonl")}
    (films / "sst2").mkdir()
    (films / "validation.jsonl").rename(films / "sst2" / "train.jsonl")
    with pytest.warns(UserWarning, match="The task reviews uses the data shipped with mechicl"):
        sources = origins("sst2,reviews", films)
    assert sources["reviews"] == "reviews (shipped with mechicl), train"
    assert sources["sst2"] == str(films / "sst2" / "train.jsonl")


def test_data_that_would_serve_no_task_are_refused(films: Path) -> None:
    with pytest.raises(InputError, match="applies to none of reviews, headlines"):
        origins("reviews,headlines", films)
