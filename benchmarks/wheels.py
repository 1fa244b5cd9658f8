"""Collect the packages that a bare machine with a GPU lacks, as wheels that travel with the tree.

    python benchmarks/wheels.py [--python 3.12]

The machine has its own torch and transformers, and no network. Everything here is pure Python, in the version that
`constraints.txt` names, so one folder serves every machine; `gpu.py` unpacks it behind what the machine has of its own.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".whl"
MISSING = ("transformer-lens", "better-abc", "datasets", "dill", "multiprocess", "platformdirs", "plotly")
"""What `gpu.py` imports, itself or through another, that the machine's list of packages does not have."""
MOST = 50 * 2**20
"""Bytes that the wheels may have together: the tree travels within 64 MiB."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default="3.12", help="the machine's version")
    asked = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.whl"):
        old.unlink()
    command = [
        sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--implementation", "cp",
        "--python-version", asked.python, "--platform", "any", "-d", str(FOLDER), *map(pinned, MISSING),
    ]  # fmt: skip
    subprocess.run(command, check=True)
    total = 0
    for wheel in sorted(FOLDER.glob("*.whl")):
        total += wheel.stat().st_size
        print(f"{wheel.stat().st_size / 2**20:6.2f} MiB  {wheel.name}")
    print(f"{total / 2**20:6.2f} MiB in {FOLDER}")
    if total > MOST:
        sys.exit(f"The wheels take {total / 2**20:.0f} MiB; at most {MOST // 2**20} can travel with the tree.")


def pinned(name: str) -> str:
    """A package with the version that the constraints name, where they do."""
    found = re.search(rf"^{re.escape(name)}==([^;\s]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    return f"{name}=={found[1]}" if found else name


if __name__ == "__main__":
    main()
