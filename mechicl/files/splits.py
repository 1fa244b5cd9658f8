"""Find the files of a folder that hold a split, such as train."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from mechicl.errors import InputError
from mechicl.files.rows import READERS, file_kind, is_saved


def split_files(folder: Path, split: str) -> list[Path]:
    """The files of a split, in order; empty if the folder lacks it.

    A split is one file (train.csv) or shards (train-00000-of-00002.parquet), in the folder itself or in `data`, as on
    the hub; or a folder (train) with files of one kind, or written by `Dataset.save_to_disk`.

    Raises:
        InputError: The split exists in two forms, or some of its shards are missing.
    """
    named = folder / split
    if is_saved(named):
        return [named]
    ways: dict[tuple[Path, str, str], list[Path]] = defaultdict(list)
    for place in (folder, folder / "data", named):
        for file in _readable(place):
            stem, suffix = _parts(file)
            match = re.fullmatch(rf"{re.escape(split)}(?:-\d+-of-(\d+))?", stem)
            if match or place == named:
                ways[place, suffix, (match and match[1]) or ""].append(file)
    if len(ways) > 1:
        there = " and ".join(str(files[0].relative_to(folder)) for files in ways.values())
        raise InputError(f"The folder {folder} has {there}; keep one of them.")
    for (_, _, shards), files in ways.items():
        if shards and len(files) != int(shards):
            raise InputError(
                f"The folder {folder} has {len(files)} of {int(shards)} shards of {split}; add the others."
            )
        return files
    return []


def _readable(folder: Path) -> list[Path]:
    """Its data files by name, without the lists of class names."""
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return [file for file in files if file_kind(file) in READERS and file.name != "labels.json" and file.is_file()]


def _parts(file: Path) -> tuple[str, str]:
    """The name before the suffix, and the rest: "train" and ".csv.gz"."""
    end = file.name.lower().rindex(file_kind(file))
    return file.name[:end], file.name[end:]
