"""`make declare`: write what the shipped studies declare: for the command line, for editors, and for README's table.

Nothing here is typed twice: all three follow from the classes in `mechicl/studies/` and from the names in
`mechicl/__init__.py`, and a test says when they are behind.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

HERE = Path(__file__).parents[1]
if __name__ == "__main__":  # what was declared before may have another form
    (HERE / "mechicl" / "studies" / "declared.json").write_text("[]")

import mechicl  # noqa: E402
from mechicl.declared import DECLARED, declaration, written  # noqa: E402
from mechicl.studies import STUDIES, call_of  # noqa: E402

STUB = Path(mechicl.__file__).with_suffix(".pyi")
README = HERE / "README.md"
_TABLE = ("<!-- studies: written by `make declare` -->\n", "<!-- end of studies -->\n")
_SHIPPED = [study for study in STUDIES.values() if study.__module__.startswith("mechicl.")]
_HEAD = '''"""Written by `make declare`; see `mechicl/__init__.py`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from mechicl.corpora import TokenCorpus, WordPairs
from mechicl.probes.tuned_lens import TunedLens as _TunedLens
from mechicl.prompts import Prompt, PromptSet
from mechicl.results import Result
from mechicl.tasks.benchmarks import Benchmarks
'''


def declared_text() -> str:
    """What `studies/declared.json` should hold."""
    return written([declaration(study) for study in _SHIPPED])


def stub_text() -> str:
    """What `mechicl/__init__.pyi` should hold."""
    imports = [f"from {mechicl.HOME[name]} import {name} as {name}" for name in sorted(mechicl.HOME)]
    calls = [_definition(call_of(study)) for study in _SHIPPED]
    return "\n".join([_HEAD, *imports, "", *calls])


def readme_text() -> str:
    """README with the table of studies as it should be."""
    before, _, rest = README.read_text(encoding="utf-8").partition(_TABLE[0])
    rows = [f"| `{study.name}` | {study.shows} | {study.source} |\n" for study in _SHIPPED]
    table = "".join(["| study | what it shows | where it comes from |\n|---|---|---|\n", *rows])
    return before + _TABLE[0] + table + _TABLE[1] + rest.partition(_TABLE[1])[2]


def _definition(call: Any) -> str:
    told = inspect.signature(call)
    parameters = [_parameter(one) for one in told.parameters.values()]
    keywords = [one.kind is inspect.Parameter.KEYWORD_ONLY for one in told.parameters.values()]
    if any(keywords):
        parameters.insert(keywords.index(True), "*")
    doc = (call.__doc__ or "").replace("\\", "\\\\").replace("\n", "\n    ").replace("\n    \n", "\n\n")
    lines = "".join(f"    {one},\n" for one in parameters)
    return f'def {call.__name__}(\n{lines}) -> Result:\n    """{doc}\n    """\n'


def _parameter(one: inspect.Parameter) -> str:
    default = "" if one.default is inspect.Parameter.empty else f" = {one.default!r}"
    return f"{one.name}: {_written(one.annotation)}{default}"


def _written(hint: Any) -> str:
    """A type as it stands in source code."""
    text = hint.__name__ if isinstance(hint, type) and not hasattr(hint, "__origin__") else str(hint)
    for module in ("typing.", "collections.abc.", "pathlib.", "mechicl.prompts.sets.", "mechicl.prompts.prompt."):
        text = text.replace(module, "")
    return text.replace("mechicl.probes.tuned_lens.TunedLens", "_TunedLens").replace("NoneType", "None")


if __name__ == "__main__":
    DECLARED.write_text(declared_text(), encoding="utf-8")
    STUB.write_text(stub_text(), encoding="utf-8")
    README.write_text(readme_text(), encoding="utf-8")
