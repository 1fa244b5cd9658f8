"""A hub on 127.0.0.1 with a few rows of each data set, and models that a test gives it: the requests that the hub's
clients make, and nothing more.

Sentences are our own; names, columns, class orders and file layouts are those of the hub.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

MAIN, PARQUET = "main", "refs/convert/parquet"
Files = dict[tuple[str, str], dict[str, bytes]]
"""Contents by path, of each repository (such as "datasets/fancyzhx/ag_news", or a model's name) and revision."""

TREC = ["DESC", "ENTY", "ABBR", "HUM", "NUM", "LOC"]
"""The order of old copies, which makes wrong label words of every number that is not read by its name."""
CLASSES = {
    "nyu-mll/glue": ["negative", "positive"],
    "fancyzhx/ag_news": ["World", "Sports", "Business", "Sci/Tech"],
    "CogComp/trec": TREC,
    "SemEvalWorkshop/emo": ["others", "happy", "sad", "angry"],
}
GLUE_CARD = b"""---
configs:
- config_name: cola
  data_files:
  - split: train
    path: cola/train-*
- config_name: sst2
  data_files:
  - split: train
    path: sst2/train-*
  - split: validation
    path: sst2/validation-*
  - split: test
    path: sst2/test-*
---
"""


def _table(dataset: str, text: str, label: str, split: str, *, fine: bool = False, gold: bool = True) -> bytes:
    """A parquet file of two texts per class, which say their class."""
    import pyarrow as pa
    from pyarrow.parquet import write_table

    names = CLASSES[dataset]
    columns: dict[str, Any] = {
        text: [f"{split} {k} {name} " for k in range(2) for name in names],
        label: [c if gold else -1 for _ in range(2) for c in range(len(names))],
    }
    features = {text: {"dtype": "string", "_type": "Value"}, label: {"names": names, "_type": "ClassLabel"}}
    if fine:
        columns["fine_label"] = [c * 7 for _ in range(2) for c in range(len(names))]
        features["fine_label"] = {"dtype": "int64", "_type": "Value"}
    table = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    sink = io.BytesIO()
    write_table(table, sink)
    return sink.getvalue()


def commit(revision: str) -> str:
    """The commit of a branch."""
    return sha1(revision.encode()).hexdigest()


def _data_sets() -> Files:
    glue, news, trec, emo = CLASSES
    found = {
        (glue, MAIN): {
            "README.md": GLUE_CARD,
            "cola/train-00000-of-00001.parquet": _table(glue, "sentence", "label", "cola"),
            **{
                f"sst2/{split}-00000-of-00001.parquet": _table(glue, "sentence", "label", split, gold=split != "test")
                for split in ("train", "validation", "test")
            },
        },
        (news, MAIN): {
            "README.md": b"# AG News\n",
            **{
                f"data/{split}-00000-of-00001.parquet": _table(news, "text", "label", split)
                for split in ("train", "test")
            },
        },
        (trec, MAIN): {"README.md": b"# TREC\n", "trec.py": b"raise RuntimeError('a loading script ran')\n"},
        (emo, MAIN): {"README.md": b"# EmoC\n", "emo.py": b"raise RuntimeError('a loading script ran')\n"},
        (trec, PARQUET): {
            f"default/{split}/0000.parquet": _table(trec, "text", "coarse_label", split, fine=True)
            for split in ("train", "test")
        },
        (emo, PARQUET): {
            f"emo2019/{split}/0000.parquet": _table(emo, "text", "label", split) for split in ("train", "test")
        },
    }
    return {(f"datasets/{name}", revision): content for (name, revision), content in found.items()}


class _Handler(BaseHTTPRequestHandler):
    files: Files
    asked: list[str]

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_GET

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        path = unquote(urlsplit(self.path).path).strip("/")
        self.asked.append(f"{self.command} {path}")
        for repository, _ in self.files:
            api = f"api/{repository}" if repository.startswith("datasets/") else f"api/models/{repository}"
            if path.startswith(f"{repository}/resolve/"):
                return self._resolve(repository, path.removeprefix(f"{repository}/resolve/"))
            if path == api or path.startswith(f"{api}/"):
                return self._api(repository, path.removeprefix(api).strip("/"), body)
        self._send(404, {}, b"")

    def _revision(self, repository: str, rest: str) -> tuple[str, str] | None:
        """Revision and what follows it."""
        for known in [revision for name, revision in self.files if name == repository]:
            for spelled in (known, commit(known)):
                if rest == spelled or rest.startswith(f"{spelled}/"):
                    return known, rest.removeprefix(spelled).strip("/")
        return None

    def _resolve(self, repository: str, rest: str) -> None:
        found = self._revision(repository, rest)
        if found is None:
            return self._send(404, {"X-Error-Code": "RevisionNotFound"}, b"")
        content = self.files[repository, found[0]].get(found[1])
        if content is None:
            return self._send(404, {"X-Error-Code": "EntryNotFound"}, b"")
        headers = {"ETag": f'"{sha256(content).hexdigest()}"', "X-Repo-Commit": commit(found[0])}
        return self._send(200, headers, content)

    def _api(self, repository: str, rest: str, body: bytes) -> None:
        what, _, rest = (rest or f"revision/{MAIN}").partition("/")
        found = self._revision(repository, rest)
        if found is None:
            return self._send(404, {"X-Error-Code": "RevisionNotFound"}, b"")
        revision, folder = found
        content = self.files[repository, revision]
        if what == "revision":
            siblings = [{"rfilename": name} for name in content]
            name = repository.removeprefix("datasets/")
            return self._json({"id": name, "sha": commit(revision), "siblings": siblings, "tags": []})
        if what == "tree":
            inside = [name for name in self._entries(content) if not folder or name.startswith(f"{folder}/")]
            return self._json([self._entry(content, name) for name in inside])
        if what == "paths-info":
            wanted = json.loads(body)["paths"] if body.startswith(b"{") else []
            return self._json([self._entry(content, name) for name in wanted if name in self._entries(content)])
        return self._send(404, {}, b"")

    @staticmethod
    def _entries(content: dict[str, bytes]) -> list[str]:
        folders = {"/".join(name.split("/")[:depth]) for name in content for depth in range(1, name.count("/") + 1)}
        return sorted([*folders, *content])

    @staticmethod
    def _entry(content: dict[str, bytes], name: str) -> dict[str, Any]:
        oid = sha1(name.encode()).hexdigest()
        if name not in content:
            return {"type": "directory", "oid": oid, "size": 0, "path": name}
        return {"type": "file", "oid": oid, "size": len(content[name]), "path": name}

    def _json(self, value: Any) -> None:
        self._send(200, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def _send(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        """Requests are kept in `asked`, not printed."""


@contextmanager
def hub(models: Files | None = None) -> Iterator[tuple[str, list[str]]]:
    """The address of a running stand-in with the data sets and these models, and the requests it has seen."""
    asked: list[str] = []
    handler = type("Handler", (_Handler,), {"files": _data_sets() | (models or {}), "asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def read_from(endpoint: str, home: Path, *names: str, code: str) -> dict[str, Any]:
    """What code prints as JSON that reads these names from the hub at this address.

    It runs in a process of its own, because the address is read at import.
    """
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0",
                "MECHICL_CACHE": str(home / "m")}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code, *names], env={**os.environ, **settings}, cwd=Path(__file__).parents[1],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found
