"""The hub, by a stand-in: class names decide, no script runs, a closed network is one sentence."""

from __future__ import annotations

import socket
from functools import partial
from pathlib import Path

import pytest

from tests.hub_stand_in import hub, read_from
from tests.tasks.rows import FOUR

READ = """
import json, sys, time
time.sleep = lambda seconds: None  # the hub's client waits 23 s between its attempts at a closed network
from mechicl.errors import InputError
from mechicl.tasks import load_task

found = {}
for name in sys.argv[1:]:
    task = load_task(name)
    try:
        splits = task.splits
    except InputError as error:
        found[name] = str(error)
        continue
    found[name] = [
        [[text, task.class_names[c]] for text, c in zip(part.texts, part.classes)]
        for part in (splits.demonstrations, splits.queries)
    ]
print(json.dumps(found))
"""


read = partial(read_from, code=READ)


def test_every_task_is_read_by_class_name(tmp_path: Path) -> None:
    with hub() as (address, asked):
        found = read(address, tmp_path, *FOUR)
    assert set(found) == set(FOUR)
    for name, (demonstrations, queries) in found.items():
        assert {text.split()[0] for text, _ in demonstrations} == {"train"}
        assert {text.split()[0] for text, _ in queries} == {"validation" if name == "sst2" else "test"}
        for text, class_name in [*demonstrations, *queries]:
            assert text.endswith(f" {class_name} "), "texts keep their trailing space and say their own class"
    assert not any(request.startswith("GET") and request.endswith(".py") for request in asked), "no script is fetched"


def test_what_was_fetched_once_is_read_without_the_hub(tmp_path: Path) -> None:
    with hub() as (address, _):
        first = read(address, tmp_path, "agnews")
    assert read(address, tmp_path, "agnews") == first


def test_a_closed_network_is_one_sentence_and_the_way_round_it(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{taken.getsockname()[1]}"
        message = read(closed, tmp_path, "trec")["trec"]
    assert "CogComp/trec could not be fetched from the Hugging Face hub" in message
    assert "data='file or folder'" in message
    assert "\n" not in message


def test_a_split_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from mechicl.errors import InputError
    from mechicl.tasks import HubSource

    monkeypatch.setattr(HubSource, "_fetch", lambda self: {"train": None})
    with pytest.raises(InputError, match="has the splits train; expected dev too"):
        HubSource("some/set").load(("a", "b"), "dev")
