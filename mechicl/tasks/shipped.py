"""Examples that ship with mechicl: written for it, so they need neither network nor data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import as_file, files

from mechicl.tasks.examples import Splits
from mechicl.tasks.files import FileSource


@dataclass(frozen=True)
class ShippedSource:
    """The texts in ``mechicl/shipped/tasks/NAME``, in a train and a test file; the README there describes them."""

    name: str

    def load(self, class_names: Sequence[str], query_split: str) -> Splits:
        """Read both splits; their origin names mechicl, not the place where it is installed."""
        with as_file(files("mechicl.shipped") / "tasks" / self.name) as folder:
            splits = FileSource(folder).load(class_names, query_split)
        assert splits.queries is not None, f"the shipped task {self.name} has a test file"
        origin = f"{self.name} (shipped with mechicl)"
        return Splits(
            replace(splits.demonstrations, origin=f"{origin}, train"),
            replace(splits.queries, origin=f"{origin}, {query_split}"),
        )
