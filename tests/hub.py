"""A small hub on 127.0.0.1 that speaks as much of the real one's API as `huggingface_hub` asks for."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PATH = re.compile(r"/(api/models/)?([\w.-]+/[\w.-]+)/(revision|tree|resolve)/([^/?]+)/?([^?]*)")


class Hub:
    """Directories by hub id, those that are gated, and the names of the files that were downloaded."""

    def __init__(self) -> None:
        self.models: dict[str, Path] = {}
        self.gated: set[str] = set()
        self.downloads: list[str] = []


@contextmanager
def serving(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[Hub]:
    """The hub, with `huggingface_hub` in this process turned to it and to an empty cache."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self._answer()

        def do_HEAD(self):
            self._answer()

        def log_message(self, *words):
            pass

        def _answer(self):
            match = PATH.fullmatch(self.path.partition("?")[0])
            if match is None or match[2] not in hub.models:
                return self._send(401, {"X-Error-Code": "RepoNotFound"}, b"{}")
            _, repo, kind, revision, name = match.groups()
            if revision not in ("main", "v1", COMMIT):
                return self._send(404, {"X-Error-Code": "RevisionNotFound"}, b"{}")
            folder = hub.models[repo]
            if kind == "revision":
                return self._json({"id": repo, "sha": COMMIT, "siblings": []})
            if kind == "tree":
                return self._json(
                    [entry(file, folder) for file in sorted(folder.rglob("*")) if file.is_file()]
                )
            if repo in hub.gated:
                return self._send(403, {"X-Error-Code": "GatedRepo"}, b"{}")
            if not (folder / name).is_file():
                return self._send(404, {"X-Error-Code": "EntryNotFound"}, b"{}")
            content = (folder / name).read_bytes()
            if self.command == "GET":
                hub.downloads.append(name)
            facts = {"X-Repo-Commit": COMMIT, "ETag": f'"{sha1(content).hexdigest()}"'}
            return self._send(200, facts, content)

        def _json(self, found):
            self._send(200, {"Content-Type": "application/json"}, json.dumps(found).encode())

        def _send(self, code, headers, content):
            self.send_response(code)
            for key, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def entry(file: Path, folder: Path) -> dict[str, object]:
    """A file in the listing of a repository."""
    oid = sha1(file.read_bytes()).hexdigest()
    name = file.relative_to(folder).as_posix()
    return {"type": "file", "path": name, "size": file.stat().st_size, "oid": oid}
