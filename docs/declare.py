"""`make declare`: write what the shipped studies declare: for the command line, for editors, and for README's table.

All of it follows from the classes in `mechicl/studies/` and from the names in `mechicl/__init__.py`; a test fails when
it is out of date.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

HERE = Path(__file__).parents[1]
if __name__ == "__main__":  # what was declared before may have another form
    (HERE / "mechicl" / "studies" / "declared.json").write_text("[]")

import mechicl  # noqa: E402
from mechicl import studies  # noqa: E402
from mechicl.declared import DECLARED, declaration, written  # noqa: E402
from mechicl.studies import STUDIES, Study, call_of  # noqa: E402

PACKAGE = Path(mechicl.__file__).parent
README = HERE / "README.md"
_TABLE = ("<!-- studies: written by `make declare` -->\n", "<!-- end of studies -->\n")
_SHIPPED = [study for study in STUDIES.values() if study.__module__.startswith("mechicl.")]
_HEAD = '''"""Written by `make declare`; see `__init__.py`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from mechicl.corpora import TokenCorpus, WordPairs
from mechicl.models import Model
from mechicl.probes import TunedLens
from mechicl.prompts import Prompt, PromptSet
from mechicl.results import Result
from mechicl.studies.call import call_of as call_of
from mechicl.tasks import Benchmarks
'''


def declared_text() -> str:
    """What `studies/declared.json` should hold."""
    return written([declaration(study) for study in _SHIPPED])


def stubs() -> dict[Path, str]:
    """What the stubs should hold: of the package, and of its studies."""
    names = [_exported(name, home) for name, home in mechicl.HOME.items()]
    rooms = [f"from mechicl import {name} as {name}" for name in mechicl.NAMESPACES]
    classes = [_exported(study.__name__, study.__module__) for study in _SHIPPED]
    helpers = [_exported(name, _home(name)) for name in studies.__all__]
    calls = [_definition(call_of(study)) for study in _SHIPPED]
    top = [_HEAD.splitlines()[0], "", *rooms, *names, "", "__version__: str", ""]
    return {
        PACKAGE / "__init__.pyi": "\n".join(top),
        PACKAGE / "studies" / "__init__.pyi": "\n".join([_HEAD, *helpers, *classes, "", *calls]),
    }


def _exported(name: str, home: str) -> str:
    return f"from {home} import {name} as {name}"


def _home(name: str) -> str:
    """The module of a name of `mechicl.studies`."""
    return getattr(getattr(studies, name), "__module__", Study.__module__)


def readme_text() -> str:
    """README with the table of studies as it should be."""
    before, _, rest = README.read_text(encoding="utf-8").partition(_TABLE[0])
    rows = [f"| `{study.name}` | {study.shows} | {study.source} |\n" for study in _SHIPPED]
    table = "".join(["| study | what it shows | source |\n|---|---|---|\n", *rows])
    return before + _TABLE[0] + table + _TABLE[1] + rest.partition(_TABLE[1])[2]


def _definition(call: Any) -> str:
    parameters = list(inspect.signature(call).parameters.values())
    lines = [_parameter(one) for one in parameters]
    keywords = [one.kind is inspect.Parameter.KEYWORD_ONLY for one in parameters]
    if any(keywords):
        lines.insert(keywords.index(True), "*")
    doc = (call.__doc__ or "").replace("\\", "\\\\").replace("\n", "\n    ").replace("\n    \n", "\n\n")
    text = "".join(f"    {line},\n" for line in lines)
    return f'def {call.__name__}(\n{text}) -> Result:\n    """{doc}\n    """\n'


def _parameter(one: inspect.Parameter) -> str:
    default = "" if one.default is inspect.Parameter.empty else f" = {one.default!r}"
    return f"{one.name}: {_written(one.annotation)}{default}"


def _written(hint: Any) -> str:
    """A type as it stands in source code."""
    text = hint.__name__ if isinstance(hint, type) and not hasattr(hint, "__origin__") else str(hint)
    for module in ("typing.", "collections.abc.", "pathlib._local.", "pathlib.", "mechicl.probes.tuned_lens."):
        text = text.replace(module, "")
    return text.replace("NoneType", "None")


if __name__ == "__main__":
    for path, text in {DECLARED: declared_text(), README: readme_text(), **stubs()}.items():
        path.write_text(text, encoding="utf-8")
