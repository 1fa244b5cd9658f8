"""Examples from the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from textwrap import shorten
from typing import Any

from mechicl.errors import InputError, retold
from mechicl.files.rows import dataset_rows
from mechicl.models import hub
from mechicl.tasks.examples import ClassReader, Examples, Splits, read_examples

PARQUET = "refs/convert/parquet"
"""The hub's parquet copies of data sets with a loading script, which `datasets` 4 refuses to run."""


@dataclass(frozen=True)
class HubSource:
    """A data set on the hub. Classes are identified by the data's own names of its numbers."""

    dataset: str
    config: str | None = None
    revision: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    """The columns of ``text`` and ``label``; the usual ones are known."""

    def load(self, class_names: Sequence[str], query_split: str) -> Splits:
        """Download the train split and the split to ask about, or read them from the local cache.

        Raises:
            InputError: The hub cannot be reached, or the data set is not as expected.
        """
        loaded = self._fetch()
        absent = [name for name in dict.fromkeys(("train", query_split)) if name not in loaded]
        if absent:
            raise InputError(
                f"The data set {self.dataset} has the splits {', '.join(loaded)}; expected {' and '.join(absent)} too "
                "(query_split='train' splits train in two)."
            )
        return Splits(*(self._examples(loaded[name], class_names, name) for name in ("train", query_split)))

    def _fetch(self) -> Any:
        from datasets import load_dataset

        # Whatever goes wrong between here and the hub (closed network, proxy, rate limit, cache) is one event
        # for the user, and its libraries raise many unrelated types for it.
        with retold(self._refusal), hub.at_hand():
            return load_dataset(self.dataset, self.config, revision=self.revision)

    def _refusal(self, error: Exception) -> str:
        reason = shorten(str(error) or type(error).__name__, 200, placeholder=" ...")
        return (
            f"The data set {self.dataset} could not be fetched from the Hugging Face hub; check the network, or "
            f"give a local copy with data='file or folder' (the hub's client said: {reason})."
        )

    def _examples(self, split: Any, class_names: Sequence[str], name: str) -> Examples:
        origin = f"{self.dataset}{f' ({self.config})' if self.config else ''}, {name}"
        return read_examples(dataset_rows(split, origin), ClassReader(class_names), origin, self.columns)
