"""Run every study on the real model as each model class; the page `models.md` shows how far the tables differ.

    python docs/backends.py FOLDER [STUDY ...] [--dtype float64]   (both classes of TransformerLens 3.9)
    PYTHONPATH=build/tl4 python docs/backends.py FOLDER ...        (the Bridge of TransformerLens 4)

A run measures what FOLDER does not hold yet, so it resumes, and compares what it holds. In float64 a HookedTransformer
takes the Bridge's rotary angles, and a Bridge does not round its norms and attention to float32, as it otherwise does:
what differs then would be an error.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).parent.parent))

from mechicl.library import has_hooked_transformer
from tests.contract import alike
from tests.tables import deviations

NAME = "smollm2-135m-q4"
KINDS = {"hooked": "HookedTransformer 3.9", "bridge": "Bridge 3.9", "bridge-4": "Bridge 4"}
OTHERS = [*KINDS][1:]
DTYPES = ("float32", "float64")
PAGE = Path(__file__).parent / "pages" / "backends.json"


def measure(folder: Path, names: list[str], dtype: str) -> None:
    """Each study's table as each class of this version, unless it is there."""
    for kind in ("hooked", "bridge") if has_hooked_transformer() else ("bridge-4",):
        for study in alike.studies(NAME):
            path = folder / dtype / kind / f"{study.name}.parquet"
            if path.is_file() or (names and study.name not in names):
                continue
            model, start = alike.loaded(NAME, kind.removesuffix("-4"), dtype), time.process_time()
            with alike.unrounded() if dtype == "float64" else nullcontext():
                table = alike.comparable(study.name, alike.table(NAME, model, study))
            path.parent.mkdir(parents=True, exist_ok=True)
            table.to_parquet(path)
            print(kind, dtype, study.name, len(table), f"{time.process_time() - start:.1f} s", flush=True)


def compare(folder: Path) -> dict[str, dict[str, dict[str, float]]]:
    """For every study, dtype and other class, the largest deviation from a HookedTransformer's table, as a multiple of
    what two classes may differ by.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    for path in sorted(folder.glob("*/*/*.parquet")):
        kind, dtype = path.parent.name, path.parent.parent.name
        first = folder / dtype / "hooked" / path.name
        if kind in OTHERS and first.is_file():
            far = deviations(pd.read_parquet(path), pd.read_parquet(first))
            found.setdefault(path.stem, {}).setdefault(dtype, {})[kind] = max(far.values())
    return found


def table() -> str:
    """The outcome as Markdown: a row per study."""
    columns = [(dtype, kind) for dtype in DTYPES for kind in OTHERS]
    lines = ["| study | " + " | ".join(f"{KINDS[kind]}, {dtype}" for dtype, kind in columns) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for name, row in json.loads(PAGE.read_text()).items():
        cells = [row.get(dtype, {}).get(kind) for dtype, kind in columns]
        lines.append(f"| `{name}` | " + " | ".join("-" if cell is None else f"{cell:.2g}" for cell in cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure, compare, and write the outcome for the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("studies", nargs="*")
    parser.add_argument("--dtype", choices=DTYPES, default=DTYPES[0])
    asked = parser.parse_args()
    measure(asked.folder, asked.studies, asked.dtype)
    PAGE.write_text(json.dumps(compare(asked.folder), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
