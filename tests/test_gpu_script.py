"""`benchmarks/gpu.py` is ready: it rehearses on a CPU, and no part that fails or hangs takes the others with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "benchmarks" / "gpu.py"
SOUND = "choices"
"""The smallest part."""


def rehearsed(out: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    """The script's exit code on the CPU, and what it wrote."""
    command = [sys.executable, str(SCRIPT), *arguments, "--device", "cpu", "--size", "tiny", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert (out / "gpu.json").is_file(), done.stderr
    return done.returncode, json.loads((out / "gpu.json").read_text())


def test_its_smallest_part_runs_to_the_end(tmp_path: Path) -> None:
    code, found = rehearsed(tmp_path, SOUND)
    part = found["parts"][SOUND]
    assert code == 0
    assert part["ended"] == "done"
    assert part["rows"][0]["torch"]
    assert all(row["deviation"] < 1e-2 for row in part["rows"][1:])
    assert SOUND in (tmp_path / "gpu.md").read_text()


def test_a_part_that_fails_and_one_that_hangs_stop_no_other(tmp_path: Path) -> None:
    """Parts of our own stand in for measurements; the child processes are the script's."""
    (tmp_path / "broken.py").write_text("def rows(asked):\n    yield {'n': 1}\n    raise RuntimeError('no kernel')\n")
    (tmp_path / "hanging.py").write_text("import time\ndef rows(asked):\n    yield {'n': 2}\n    time.sleep(600)\n")
    (tmp_path / "sound.py").write_text("def rows(asked):\n    yield {'n': 3, 'ok': True}\n")
    program = f"""
import sys
sys.path[:0] = [{str(SCRIPT.parent)!r}, {str(tmp_path)!r}]
import gpu
gpu.machine = lambda device: {{}}  # which would import torch
gpu.PARTS = {{name: (f"{{name}}:rows", 4) for name in ("broken", "hanging", "sound")}}
gpu.__file__ = __file__
gpu.main()
"""
    (tmp_path / "script.py").write_text(program)
    command = [sys.executable, str(tmp_path / "script.py"), "--device", "cpu", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    parts = json.loads((tmp_path / "out" / "gpu.json").read_text())["parts"]
    assert {name: part["ended"] for name, part in parts.items()} == {
        "broken": "failed", "hanging": "stopped after 4 s", "sound": "done",
    }  # fmt: skip
    assert [part["rows"][-1]["n"] for part in parts.values()] == [1, 2, 3]
    assert "no kernel" in parts["broken"]["said"][-1]
    assert done.returncode == 1


@pytest.mark.slow
def test_it_rehearses_whole_on_a_cpu(tmp_path: Path) -> None:
    code, found = rehearsed(tmp_path)
    assert {part["ended"] for part in found["parts"].values()} == {"done"}
    assert code == 0, [row for part in found["parts"].values() for row in part["rows"] if row.get("ok") is False]
    whole = found["parts"]["both papers, extrapolated"]["rows"]
    assert [row["experiment"] for row in whole].count("both papers") == 2, "of float32 and of bfloat16, lacking nothing"


REFUSED = (
    "gguf", "wandb", "typeguard", "beartype", "fancy_einsum", "transformers_stream_generator", "kaleido", "lm_eval",
    "anywidget", "IPython",
)  # fmt: skip
"""What mechicl or TransformerLens ask for, and neither the machine nor the wheels have."""


@pytest.mark.slow
def test_every_part_imports_without_what_the_machine_lacks() -> None:
    program = f"""
import importlib, sys
sys.path[:0] = [{str(ROOT)!r}, {str(SCRIPT.parent)!r}]
sys.modules |= dict.fromkeys({REFUSED!r})  # their import raises ImportError
import gpu
for place, _ in gpu.PARTS.values():
    importlib.import_module(place.split(":")[0])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
