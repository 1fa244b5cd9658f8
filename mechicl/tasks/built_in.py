"""The tasks that mechicl knows by name.

The paper's four data sets use its templates and label words (Wang et al. 2023, table 4). Three tasks of our own ship
with mechicl; each of their label words is one token in the tokenizers of GPT-2, Llama 2, Qwen and SmolLM2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from reprlib import repr as shorten

from mechicl.doors import door
from mechicl.errors import InputError
from mechicl.files.rows import READERS, file_kind
from mechicl.prompts import Score
from mechicl.tasks.files import FileSource
from mechicl.tasks.hub import PARQUET, HubSource
from mechicl.tasks.sources import Data
from mechicl.tasks.task import Task
from mechicl.tasks.task_file import read_task

_TASKS = (
    Task(
        "sst2", "Review: {text}\nSentiment:{label}", {"negative": " Negative", "positive": " Positive"},
        HubSource("nyu-mll/glue", "sst2"), query_split="validation",
    ),
    Task(
        "trec", "Question: {text}\nAnswer Type:{label}",
        {"ABBR": " Abbreviation", "ENTY": " Entity", "DESC": " Description", "HUM": " Person", "LOC": " Location",
         "NUM": " Number"},
        HubSource("CogComp/trec", revision=PARQUET),
    ),
    Task(
        "agnews", "Article: {text}\nAnswer:{label}",
        {"World": " World", "Sports": " Sports", "Business": " Business", "Sci/Tech": " Technology"},
        HubSource("fancyzhx/ag_news"),
    ),
    Task(
        "emo", "Dialogue: {text}\nEmotion:{label}",
        {"others": " Others", "happy": " Happy", "sad": " Sad", "angry": " Angry"},
        HubSource("SemEvalWorkshop/emo", revision=PARQUET),
    ),
)  # fmt: skip


def _shipped(name: str) -> FileSource:
    """Texts written for mechicl, which need neither network nor data; the README there describes them."""
    return FileSource(Path(__file__).parents[1] / "shipped" / "tasks" / name, origin=f"{name} (shipped with mechicl)")


_SHIPPED = (
    Task(
        "reviews", "Review: {text}\nSentiment:{label}", {"negative": " negative", "positive": " positive"},
        _shipped("reviews"),
    ),
    Task(
        "headlines", "Headline: {text}\nCategory:{label}",
        {"world": " world", "sports": " sports", "business": " business", "technology": " technology"},
        _shipped("headlines"),
    ),
    Task(
        "questions", "Question: {text}\nAnswer Type:{label}",
        {"abbreviation": " Short", "entity": " Entity", "description": " Description", "person": " Person",
         "location": " Location", "number": " Number"},
        _shipped("questions"),
    ),
)  # fmt: skip

_TOPICS = {"tiny-topics-2": 2, "tiny-topics-4": 4}
"""Generated tasks in the language of the shipped model, by their number of classes."""


def built_in_tasks() -> tuple[str, ...]:
    """Names that :func:`load_task` knows."""
    return (*(task.name for task in _TASKS), *shipped_tasks())


def shipped_tasks() -> tuple[str, ...]:
    """Names of the built-in tasks whose examples come with mechicl, so that they need neither network nor data."""
    return (*(task.name for task in _SHIPPED), *_TOPICS)


@partial(door, kinds=False)
def load_task(
    task: str | Path | Task,
    data: Data | None = None,
    label_words: Mapping[str, str] | None = None,
    columns: Mapping[str, str] | None = None,
    *,
    chat: bool | None = None,
    score: Score | None = None,
) -> Task:
    """A built-in task by name, or your own task, with other data or other label words.

    Args:
        task: A name (:func:`built_in_tasks`), a task, or the path of a task file
            (:func:`~mechicl.tasks.read_task`).
        data: A file or a folder (:class:`~mechicl.tasks.FileSource`), or rows; None for the task's own data: from the
            hub, or shipped with mechicl.
        label_words: The word of every class by class name, such as ``{"negative": " A", "positive": " B"}``; the task's
            name then includes them ("sst2 (A, B)"), because results differ from those with the paper's words.
        columns: The columns of its data, such as ``{"text": "body", "label": "stars"}``; the usual names (text,
            sentence, label, ...) need not be given.
        chat: Whether examples are turns of a conversation, see :class:`~mechicl.tasks.Task`; None leaves it unchanged.
        score: "first" or "sequence", what scores a class, see there; None leaves it unchanged. The name includes both.

    Raises:
        InputError: There is no such task, or label words or columns do not match its classes or data.
    """
    from mechicl.tasks.topics import TopicsTask

    if isinstance(task, str | Path):
        task = _by_name(str(task))
    if not isinstance(task, Task):
        raise InputError(f"The task is {shorten(task)}; expected a name, the path of a task file, or a Task.")
    if isinstance(task, TopicsTask) and any(given is not None for given in (data, label_words, columns)):
        raise InputError(f"The task {task.name!r} draws its texts and label words by the seed; give it no others.")
    if data is not None:
        task = replace(task, source=data, columns={})
    if columns is not None:
        task = replace(task, columns=columns)
    if label_words is not None:
        if not isinstance(label_words, Mapping):
            raise InputError(f"label_words is {shorten(label_words)}; expected a word for each class by its name.")
        if set(label_words) != set(task.label_words):
            raise InputError(
                f"The label words are for the classes {', '.join(map(str, label_words))}, but the task {task.name!r} "
                f"has {', '.join(task.label_words)}; give one word for each."
            )
        words = {name: label_words[name] for name in task.label_words}
        if words != task.label_words:
            named = ", ".join(str(word).strip() for word in words.values())
            task = replace(task, name=f"{task.name} ({named})", label_words=words)
    if chat is not None and chat != task.chat:
        task = replace(task, name=f"{task.name} (chat)" if chat else task.name, chat=chat)
    if score is not None and score != task.score:
        task = replace(task, name=f"{task.name} (whole words)" if score == "sequence" else task.name, score=score)
    return task


def _by_name(name: str) -> Task:
    if name in _TOPICS:
        from mechicl.tasks.topics import topics_task

        return topics_task(name, _TOPICS[name])
    for task in (*_TASKS, *_SHIPPED):
        if task.name == name:
            return task
    if file_kind(Path(name)) in READERS or Path(name).name != name:
        return read_task(Path(name).expanduser())
    raise InputError(
        f"There is no task {name!r}; there are {', '.join(built_in_tasks())}, or give the path of a task file (JSON)."
    )
