"""Lines of our own for the tests: every class of every task, no text of a data set."""

from __future__ import annotations

from mechicl.tasks import built_in_tasks, load_task

_SUBJECTS = ("the cat", "my brother", "a blue train", "our town", "the old radio", "that song", "the river", "her idea")


def rows(task: str, per_class: int = 8) -> list[dict[str, str]]:
    """Labelled texts, classes in turn; a text names its class and number."""
    names = load_task(task).class_names
    return [
        {"text": f"{_SUBJECTS[k % len(_SUBJECTS)]} number {k} seems {name.lower()} today .", "label": name}
        for k in range(per_class)
        for name in names
    ]


FOUR = tuple(name for name in built_in_tasks() if name in ("sst2", "trec", "agnews", "emo"))
