"""Tasks: a template, label words by class name, and a source of examples."""

from mechicl.tasks.benchmarks import Benchmarks, load_benchmarks
from mechicl.tasks.built_in import built_in_tasks, load_task, shipped_tasks
from mechicl.tasks.examples import Examples, Source, Splits
from mechicl.tasks.files import FileSource
from mechicl.tasks.hub import HubSource
from mechicl.tasks.sampling import Counts, all_permutations
from mechicl.tasks.sources import RowsSource
from mechicl.tasks.task import Task
from mechicl.tasks.task_file import read_task

__all__ = [
    "Benchmarks", "Counts", "Examples", "FileSource", "HubSource", "RowsSource", "Source", "Splits", "Task",
    "all_permutations", "built_in_tasks", "load_benchmarks", "load_task", "read_task", "shipped_tasks",
]  # fmt: skip


def __dir__() -> list[str]:
    return __all__
