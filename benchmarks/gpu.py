"""Everything that a GPU has to show, in seven minutes: equal numbers, speed, memory, waits, and both papers' time.

    make gpu [PYTHON=python3] [OUT=folder]
    python benchmarks/gpu.py [PART ...] [--device cuda] [--size full] [--out build/gpu] [--minutes 7]
    python benchmarks/gpu.py --device cpu --size tiny       # a rehearsal

Every part is a process with a time limit of its own: one that fails, hangs or leaves the GPU broken does not stop the
rest. Rows are written to OUT/gpu.json as they come, and the tables at the end to OUT/gpu.md. Libraries that the machine
lacks are taken from the wheels in `.whl` (`wheels.py` collects them).
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PARTS = {
    "equal": ("on_gpu.equal:rows", 100),
    "waits": ("on_gpu.waits:rows", 45),
    "memory": ("on_gpu.memory:rows", 70),
    "xl": ("on_gpu.speed:xl", 110),
    "xl-bf16": ("on_gpu.speed:xl_half", 50),
    "7b": ("on_gpu.speed:seven", 80),
    "choices": ("on_gpu.choices:rows", 40),
}
"""Where each part's rows come from, and its limit in seconds, the libraries' import included."""
ROW = "row: "


def main() -> None:
    asked = _arguments()
    if asked.part:
        return child(asked)
    out = Path(asked.out)
    out.mkdir(parents=True, exist_ok=True)
    rehearsal = asked.size == "tiny"
    deadline = time.monotonic() + (3600 if rehearsal else 60 * asked.minutes)
    found: dict[str, Any] = {"device": asked.device, "size": asked.size, "parts": {}}
    for part in asked.parts or PARTS:
        left = deadline - time.monotonic()
        record = found["parts"][part] = {"rows": [], "seconds": 0.0, "ended": "not started: no time was left"}
        if left > 15:
            _run(part, left if rehearsal else min(left, PARTS[part][1]), asked, record, lambda: _keep(out, found))
        _keep(out, found)
    _extrapolate(found)
    _keep(out, found)
    page = _tables(found)
    (out / "gpu.md").write_text(page)
    print(page)
    sys.exit(0 if all(part["ended"] == "done" for part in found["parts"].values()) and not _wrong(found) else 1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", choices=["full", "tiny"], default="full")
    parser.add_argument("--out", default=str(ROOT / "build" / "gpu"))
    parser.add_argument("--minutes", type=float, default=7.0, help="in all; a rehearsal has no limit")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    unknown = [part for part in asked.parts if part not in PARTS]
    if unknown:
        parser.error(f"unknown part {unknown[0]}; the parts are {', '.join(PARTS)}")
    return asked


def _run(part: str, limit: float, asked: argparse.Namespace, record: dict[str, Any], keep: Any) -> None:
    """One part in a process of its own, whose rows are kept as they come."""
    start = time.monotonic()
    command = [sys.executable, __file__, "--part", part, "--device", asked.device, "--size", asked.size]
    lines: list[str] = []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    over = threading.Event()
    timer = threading.Timer(limit, lambda: (over.set(), process.kill()))
    timer.start()
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(ROW):
            record["rows"].append(json.loads(line.removeprefix(ROW)))
            keep()
        else:
            lines.append(line.rstrip())
    code = process.wait()
    timer.cancel()
    record["seconds"] = round(time.monotonic() - start, 1)
    record["ended"] = f"stopped after {limit:.0f} s" if over.is_set() else "done" if code == 0 else "failed"
    if record["ended"] != "done":
        record["said"] = lines[-40:]
    print(f"{part}: {record['ended']}, {len(record['rows'])} rows, {record['seconds']} s", flush=True)


def child(asked: argparse.Namespace) -> None:
    """Measure one part and print its rows."""
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory() as folder:
        unpack_wheels(Path(folder))
        module, function = PARTS[asked.part][0].split(":")
        try:
            _say(machine(asked.device))
            for row in getattr(importlib.import_module(module), function)(asked):
                _say(row)
        except Exception:
            traceback.print_exc()
            sys.exit(1)


def unpack_wheels(folder: Path) -> None:
    """Put the wheels behind everything that the machine has of its own."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    for wheel in sorted((ROOT / ".whl").glob("*.whl")):
        with zipfile.ZipFile(wheel) as packed:
            packed.extractall(folder)
    sys.path.append(str(folder))


def machine(device: str) -> dict[str, Any]:
    """Where this runs."""
    import torch

    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else f"{torch.get_num_threads()} threads"
    return {"machine": name, "torch": torch.__version__, "transformers": version("transformers")}


def _say(row: dict[str, Any]) -> None:
    print(ROW + json.dumps(row), flush=True)


def _keep(out: Path, found: dict[str, Any]) -> None:
    """Write what there is, so that a run which is cut off leaves a whole file."""
    part = out / "gpu.json.part"
    part.write_text(json.dumps(found, indent=1))
    part.replace(out / "gpu.json")


def _extrapolate(found: dict[str, Any]) -> None:
    from on_gpu import whole

    rows = [
        row
        for part in ("xl", "xl-bf16")
        if part in found["parts"]
        for row in whole.rows(part, found["parts"][part]["rows"])
    ]
    if rows:
        found["parts"]["both papers, extrapolated"] = {"rows": rows, "seconds": 0.0, "ended": "done"}


def _wrong(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows that say something is not as it must be."""
    return [row for part in found["parts"].values() for row in part["rows"] if row.get("ok") is False]


def _tables(found: dict[str, Any]) -> str:
    """Every part as a table in Markdown."""
    lines = []
    for name, part in found["parts"].items():
        lines += [f"\n## {name}: {part['ended']}, {part['seconds']} s\n", *_table(part["rows"])]
        lines += [f"    {line}" for line in part.get("said", [])]
    wrong = _wrong(found)
    lines += [f"\n{len(wrong)} rows are not as they must be." if wrong else "\nAll rows with a bound keep it."]
    return "\n".join(lines) + "\n"


def _table(rows: list[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        if "machine" in row:
            yield f"{row['machine']}, torch {row['torch']}, transformers {row['transformers']}\n"
    rows = [row for row in rows if "machine" not in row]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    if columns:
        yield "| " + " | ".join(columns) + " |"
        yield "|" + "---|" * len(columns)
    for row in rows:
        yield "| " + " | ".join(_cell(row.get(column, "")) for column in columns) + " |"


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
