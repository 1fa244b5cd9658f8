"""What a contributor relies on: workflows call targets that exist, on the Python versions that the metadata claims."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import mechicl

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
ROOT = Path(__file__).parents[1]


def jobs(name: str) -> dict:
    return yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text())["jobs"]


def test_workflows_call_make_targets_that_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = {target for job in jobs("tests").values() for target in job["strategy"]["matrix"]["target"]}
    assert called <= targets
    gate = set(re.findall(r"^make (\S+)", (ROOT / ".ci" / "run").read_text(), re.MULTILINE))
    assert gate <= called


def test_every_claimed_python_is_tested_with_both_transformerlens_lines() -> None:
    low, high = re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', (ROOT / "pyproject.toml").read_text()).groups()
    matrix = jobs("tests")["test"]["strategy"]["matrix"]
    assert matrix["python"] == [f"3.{minor}" for minor in range(int(low), int(high))]
    assert {"test", "test-tl4"} <= set(matrix["target"])


def test_bug_reports_ask_for_what_doctor_says() -> None:
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text())
    required = [one["attributes"]["label"] for one in form["body"] if one.get("validations", {}).get("required")]
    assert any("mechicl doctor" in label for label in required)


def test_the_citation_names_this_version_and_both_papers() -> None:
    told = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert told["version"] == mechicl.__version__
    assert [one["year"] for one in told["references"]] == [2023, 2024]


def test_the_example_study_of_contributing_exists() -> None:
    named = re.findall(r"`(\w+/[\w/]+\.py)`", (ROOT / "CONTRIBUTING.md").read_text())
    roots = (ROOT, ROOT / "mechicl" / "studies")
    assert named
    assert [name for name in named if not any((root / name).is_file() for root in roots)] == []
