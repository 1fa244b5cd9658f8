"""`mechicl doctor`: installed versions, available hardware, and whether a model fits."""

from typing import Annotated

import typer

from mechicl.cli.finish import terminal
from mechicl.errors import InputError


def doctor(
    model: Annotated[str | None, typer.Option(help="Check whether this model fits: a name or a local folder.")] = None,
) -> None:
    """Report what mechicl finds here: versions, machine, memory, the hub, a browser for exports, vulnerabilities.

    Packages are checked for known vulnerabilities if pip-audit is installed and has network access.

    Example: mechicl doctor --model gpt2-xl
    """
    from rich.table import Table

    from mechicl.models import hub
    from mechicl.versions import machine, versions

    table = Table(show_header=False, title="mechicl doctor", title_justify="left")
    for name, found in (versions() | machine()).items():
        table.add_row(name, str(found))
    memory = _memory()
    for device, size in memory.items():
        table.add_row(f"free memory, {device}", "unknown" if size is None else f"{size / 1e9:.1f} GB")
    table.add_row("Hugging Face hub", "answers" if hub.reachable() else f"no answer within {hub.TIMEOUT:g} s")
    table.add_row("export of figures", _export())
    table.add_row("known vulnerabilities", _vulnerabilities())
    fits = None if model is None else _fits(model, memory)
    terminal().print(table)
    if fits is not None:
        terminal().print(fits)


def _memory() -> dict[str, int | None]:
    """Free bytes by device; None if unknown."""
    import torch

    from mechicl.limits import free_bytes

    found: dict[str, int | None] = {"cpu": free_bytes("cpu")}
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        found[f"cuda:{index} ({torch.cuda.get_device_name(index)})"] = torch.cuda.mem_get_info(index)[0]
    return found


def _export() -> str:
    from importlib.util import find_spec
    from shutil import which

    if find_spec("kaleido") is None:
        return "no: pip install kaleido"
    browsers = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    found = next(filter(None, map(which, browsers)), None)
    return f"kaleido with {found}" if found else "kaleido; no Chrome or Chromium found (plotly_get_chrome gets one)"


def _vulnerabilities() -> str:
    """Known vulnerabilities of the installed packages, if pip-audit is installed."""
    import subprocess
    import sys
    from importlib.util import find_spec

    from mechicl.files.json_files import parse_json

    if find_spec("pip_audit") is None:
        return "not checked: pip install pip-audit"
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        packages = parse_json(done.stdout, "pip-audit's answer", lenient=True)["dependencies"]
    except (subprocess.TimeoutExpired, InputError):  # no network, or no JSON
        return "not checked: pip-audit got no answer"
    known = [f"{one['name']} {one['version']}: {one['vulns'][0]['id']}" for one in packages if one.get("vulns")]
    return ", ".join(known) or "none that pip-audit knows"


def _fits(model: str, memory: dict[str, int | None]) -> str:
    """Whether a model fits in float32, and while loading, which holds its weights twice. InputError: no such model."""
    from mechicl.limits import COPIES, in_words
    from mechicl.models.names import parameters_by_name

    numbers = parameters_by_name(model)
    if numbers is None:
        return f"{model}: its size is not known here (no such folder, and the hub gives no configuration of it)."
    size = 4 * numbers

    def verdict(free: int | None) -> str:
        if free is None:
            return "unknown"
        return "fits" if COPIES * size < free else "runs, but may not load" if size < free else "does not fit"

    parts = [f"{device}: {verdict(free)}" for device, free in memory.items()]
    return (
        f"{model}: {numbers / 1e6:,.1f} million parameters, {in_words(size)} in float32 and twice "
        f"that while loading, half of it in bfloat16. In float32 {'; '.join(parts)}."
    )
