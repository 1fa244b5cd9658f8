"""Benchmarks of lm-evaluation-harness: HellaSwag, ARC-Easy, LAMBADA, and any task of its multiple-choice kind.

The harness reads the documents, writes the requests and scores the answers; mechicl only answers. It is the extra
`lm-eval`.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mechicl.doors import door
from mechicl.errors import InputError, first_line
from mechicl.tasks.built_in import load_task, shipped_tasks
from mechicl.tasks.files import FileSource

if TYPE_CHECKING:
    import pandas as pd

NAMES = {"hellaswag": "hellaswag", "arc-easy": "arc_easy", "lambada": "lambada_openai"}
"""The paper's benchmarks and their names in the harness."""

Request = tuple[str, str]
"""A context, and a continuation whose probability is requested."""
Answer = tuple[float, bool]
"""Its log-probability in nats, and whether greedy decoding gives it."""


@dataclass(frozen=True, eq=False)
class Benchmarks:
    """Tasks of the harness, with their documents."""

    tasks: Mapping[str, Any]
    limit: int | None = None
    """Number of documents of each task to use, from the first; None for all."""

    @cached_property
    def requests(self) -> list[Request]:
        """All requests of the tasks, each once."""
        asked: dict[Request, None] = {}

        def note(requests: Sequence[Request]) -> list[Answer]:
            asked.update(dict.fromkeys(requests))
            return [(0.0, False)] * len(requests)

        self.score(note)
        return list(asked)

    def score(self, answer: Callable[[Sequence[Request]], Sequence[Answer]]) -> pd.DataFrame:
        """The harness's scores of these answers, a row per document: benchmark, prompt, acc, and acc_norm if known.

        acc_norm compares log-probabilities per byte of a choice.
        """
        import pandas as pd
        from lm_eval.evaluator import evaluate

        with _quietly():
            found = evaluate(_Answering(answer), {"tasks": dict(self.tasks)}, limit=self.limit, bootstrap_iters=0)
        names = {harness: name for name, harness in NAMES.items()}
        for task, documents in found["samples"].items():
            if any("acc" not in document for document in documents):
                raise InputError(f"The benchmark {task} has no accuracy; list the metric acc in its YAML file.")
        rows = [
            {"benchmark": names.get(task, task), "prompt": int(document["doc_id"]), "acc": float(document["acc"]),
             "acc_norm": float(document.get("acc_norm", "nan"))}
            for task, documents in found["samples"].items()
            for document in documents
        ]  # fmt: skip
        return pd.DataFrame(rows)

    def digest(self) -> str:
        """SHA-256 of all requests."""
        return sha256(json.dumps(self.requests).encode()).hexdigest()

    def provenance(self) -> dict[str, Any]:
        """Provenance of the benchmarks, as plain values."""
        from importlib.metadata import version

        versions = {name: str(task.VERSION) for name, task in self.tasks.items()}
        return {"tasks": versions, "limit": self.limit, "lm_eval": version("lm_eval"), "digest": self.digest()}


@dataclass(frozen=True)
class _Answering:
    """A model with the harness's interface."""

    answer: Callable[[Sequence[Request]], Sequence[Answer]]
    rank: int = 0
    world_size: int = 1

    def loglikelihood(self, instances: Sequence[Any]) -> list[Answer]:
        return list(self.answer([(str(instance.args[0]), str(instance.args[1])) for instance in instances]))

    def generate_until(self, instances: Sequence[Any]) -> list[str]:
        raise InputError("The benchmark asks for generated text; mechicl answers multiple choice and cloze tasks.")

    loglikelihood_rolling = generate_until


@door
def load_benchmarks(
    names: Sequence[str] = tuple(NAMES), *, include: str | Path | None = None, limit: int | None = None
) -> Benchmarks:
    """Load tasks of lm-evaluation-harness, whose documents come from the hub, or shipped texts in its format.

    Args:
        names: hellaswag, arc-easy, lambada, or any task name of the harness; without the hub, reviews, headlines or
            questions, whose texts come with mechicl.
        include: a folder with your own tasks in the harness's YAML, which may read local files.
        limit: number of documents of each task to use; default: all.

    Raises:
        InputError: the extra is not installed, there is no such task, or its documents cannot be read.
    """
    try:
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise InputError("Benchmarks need lm-evaluation-harness: pip install lm-eval.") from None
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}; use at least one document, or leave it out for all.")
    if include is not None and not Path(include).is_dir():
        raise InputError(f"There is no folder {include}; give one with the YAML files of your tasks.")
    wanted = [NAMES.get(name, name) for name in names]
    own = {} if include is not None else {name: _of_shipped_texts(name) for name in wanted if name in _shipped_texts()}
    with _quietly():
        manager = TaskManager(include_path=include, include_defaults=include is None and len(own) < len(wanted))
        if include is not None and not set(wanted) <= set(manager.all_tasks):
            manager = TaskManager(include_path=include)  # the harness's own tasks, which take seconds to list
        unknown = [name for name in wanted if name not in own and name not in manager.all_tasks]
        if unknown or not wanted:
            raise InputError(
                f"The harness has no task {unknown[0] if unknown else ''!r}; {', '.join(NAMES)} are the paper's, and "
                f"{', '.join(_shipped_texts())} come with mechicl."
            )
        try:
            tasks = manager.load([own.get(name, name) for name in wanted])["tasks"]
        except Exception as error:  # whatever the harness, datasets or the hub's client raise
            raise InputError(f"The documents of {', '.join(names)} cannot be loaded ({first_line(error)}).") from error
    return Benchmarks(tasks, limit)


def _shipped_texts() -> list[str]:
    return [name for name in shipped_tasks() if isinstance(load_task(name).source, FileSource)]


def _of_shipped_texts(name: str) -> dict[str, Any]:
    """A shipped task without demonstrations, in the form of the harness's YAML: which label word is most probable?"""
    task = load_task(name)
    assert isinstance(task.source, FileSource)
    return {
        "task": name, "dataset_path": "json", "test_split": "test",
        "dataset_kwargs": {"data_files": {"test": str(task.source.path / "test.jsonl")}},
        "output_type": "multiple_choice",
        "doc_to_text": task.template.replace("{text}", "{{text}}").replace("{label}", ""),
        "doc_to_target": f"{{{{{list(task.label_words)}.index(label)}}}}",
        "doc_to_choice": [word.strip() for word in task.label_words.values()],
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}], "metadata": {"version": 1.0},
    }  # fmt: skip


@contextmanager
def _quietly() -> Iterator[None]:
    """Silence the harness's own progress bars and logs."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "lm-eval")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
