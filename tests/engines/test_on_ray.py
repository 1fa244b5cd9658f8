"""On a real Ray cluster of two nodes, one killed in mid-run: nothing is lost, nothing is doubled (`make test-ray`)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import mechicl as mi
from mechicl.engines.on_ray import RaySeat, places_on_ray
from mechicl.errors import InputError
from mechicl.results import Cells
from mechicl.studies.label_words.isolation import Isolation
from mechicl.studies.team import Team

pytestmark = pytest.mark.ray
_STORE = 80 * 2**20


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without room for workers, and two nodes with room for one each."""
    ray = pytest.importorskip("ray", reason="ray is not installed")
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "object_store_memory": _STORE, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.nodes = [cluster.add_node(num_cpus=1, object_store_memory=_STORE) for _ in range(2)]
    cluster.wait_for_nodes()
    yield cluster
    ray.shutdown()
    cluster.shutdown()


class Watched(Cells):
    """Cells that remember what was kept, and let something happen while the fifth is."""

    def __init__(self, folder: Path, at_fifth: Callable[[], None]) -> None:
        super().__init__(folder)
        self.kept: list[str] = []
        self._at_fifth = at_fifth

    def keep(self, key: Mapping[str, Any], table: pd.DataFrame) -> pd.DataFrame:
        self.kept.append(repr(key))
        if len(self.kept) == 5:
            self._at_fifth()
        return super().keep(key, table)


def node_of(model: Any, seconds: float) -> str:
    """The node of the actor that does it; slowly, so that both actors do one."""
    import ray

    time.sleep(seconds)
    return str(ray.get_runtime_context().get_node_id())


def test_as_many_workers_as_the_nodes_have_room_for(cluster: Any) -> None:
    with pytest.warns(UserWarning, match="room for 2 of the 3 workers, so 2 work"):
        assert places_on_ray(cluster.address, 3, gpus=0) == (2, {"gpus": 0, "threads": 1, "sharing": 1})


def test_a_node_is_killed_in_mid_run(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Semaphore(0)
    monkeypatch.setattr(
        RaySeat, "__init__", lambda seat, *a, __init__=RaySeat.__init__, **k: begun.release() or __init__(seat, *a, **k)
    )
    model, study = mi.load_model("tiny-icl", device="cpu"), Isolation(n_layers=(1, 2))
    cells = Watched(tmp_path, lambda: cluster.remove_node(cluster.nodes[0], allow_graceful=False))
    task = mi.load_task("tiny-topics-4")
    prompts = study.prompt_sets(task, model.tokenizer, seeds=(42, 43), samples=16, shots=1)
    alone = study.run(model, prompts).table
    with Team(model, 2, ray=cluster.address) as team:
        work = team._workers
        places = [work.submit(node_of, 2.0, name="node", then=str) for _ in range(2)]
        assert len({place.result(timeout=400)[0] for place in places}) == 2, "an actor on each node"
        assert [begun.acquire(blocking=False) for _ in range(3)] == [True, True, False], "two actors so far"
        result = study.run(model, prompts, cells=cells, workers=team)
        assert begun.acquire(timeout=300), "another actor was begun in the place of the lost one"
    pd.testing.assert_frame_equal(result.table, alone, check_exact=True)
    assert len(cells.kept) == len(set(cells.kept)) == len(list(cells.folder.iterdir())), "nothing lost, nothing doubled"
    assert result.provenance["workers"]["ray"] == cluster.address


def test_there_must_be_room_for_a_worker(cluster: Any) -> None:
    with pytest.raises(InputError, match="no GPU for a worker"):
        places_on_ray(cluster.address, 2, gpus=1)
