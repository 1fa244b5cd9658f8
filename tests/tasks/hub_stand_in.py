"""A hub on 127.0.0.1 with a few rows of each data set: the requests that `datasets` makes, and nothing more.

Sentences are our own; names, columns, class orders and file layouts are those of the hub.
"""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

MAIN, PARQUET = "main", "refs/convert/parquet"
COMMITS = {revision: sha1(revision.encode()).hexdigest() for revision in (MAIN, PARQUET)}

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
    features = {
        text: {"dtype": "string", "_type": "Value"},
        label: {"names": names, "_type": "ClassLabel"},
    }
    if fine:
        columns["fine_label"] = [c * 7 for _ in range(2) for c in range(len(names))]
        features["fine_label"] = {"dtype": "int64", "_type": "Value"}
    table = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    sink = io.BytesIO()
    write_table(table, sink)
    return sink.getvalue()


def _files() -> dict[tuple[str, str], dict[str, bytes]]:
    """Contents of every repository and revision, by path."""
    glue, news, trec, emo = CLASSES
    return {
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


class _Handler(BaseHTTPRequestHandler):
    files: dict[tuple[str, str], dict[str, bytes]]
    asked: list[str]

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_GET

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        path = unquote(urlsplit(self.path).path).strip("/")
        self.asked.append(f"{self.command} {path}")
        for dataset, _ in self.files:
            if path.startswith(f"datasets/{dataset}/resolve/"):
                return self._resolve(dataset, path.removeprefix(f"datasets/{dataset}/resolve/"))
            if path == f"api/datasets/{dataset}" or path.startswith(f"api/datasets/{dataset}/"):
                return self._api(dataset, path.removeprefix(f"api/datasets/{dataset}").strip("/"), body)
        self._send(404, {}, b"")

    def _revision(self, dataset: str, rest: str) -> tuple[str, str] | None:
        """Revision and what follows it."""
        for known, commit in COMMITS.items():
            for spelled in (known, commit):
                if (dataset, known) in self.files and (rest == spelled or rest.startswith(f"{spelled}/")):
                    return known, rest.removeprefix(spelled).strip("/")
        return None

    def _resolve(self, dataset: str, rest: str) -> None:
        found = self._revision(dataset, rest)
        content = self.files[dataset, found[0]].get(found[1]) if found else None
        if found is None or content is None:
            return self._send(404, {"X-Error-Code": "EntryNotFound"}, b"")
        headers = {"ETag": f'"{sha256(content).hexdigest()}"', "X-Repo-Commit": COMMITS[found[0]]}
        return self._send(200, headers, content)

    def _api(self, dataset: str, rest: str, body: bytes) -> None:
        what, _, rest = (rest or f"revision/{MAIN}").partition("/")
        found = self._revision(dataset, rest)
        if found is None:
            return self._send(404, {"X-Error-Code": "RevisionNotFound"}, b"")
        revision, folder = found
        content = self.files[dataset, revision]
        if what == "revision":
            siblings = [{"rfilename": name} for name in content]
            return self._json({"id": dataset, "sha": COMMITS[revision], "siblings": siblings, "tags": []})
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
def hub() -> Iterator[tuple[str, list[str]]]:
    """The address of a running stand-in, and the requests it has seen."""
    asked: list[str] = []
    handler = type("Handler", (_Handler,), {"files": _files(), "asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
