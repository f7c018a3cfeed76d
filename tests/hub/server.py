"""A hub of our own on the loopback address: as much of the Hugging Face hub's HTTP interface as its clients ask for.

Its repositories are in memory. Each has commits (revision -> files); a gated one wants a token, and can deny it.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_a_member"


@dataclass
class Repository:
    """Files by commit, and the commits that branches and tags stand for."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: bool = False

    def commit(self, files: dict[str, bytes], *, ref: str = "main") -> str:
        """A new commit that a branch or tag then stands for; returns its hash."""
        content = json.dumps({name: hashlib.sha1(data).hexdigest() for name, data in files.items()}, sort_keys=True)
        name = hashlib.sha1(f"{len(self.commits)}{content}".encode()).hexdigest()
        self.commits[name] = files
        self.refs[ref] = name
        return name


class Hub:
    """The server, on a port of its own.

    Its ``repositories`` are keyed by ``datasets`` or ``models`` and by name; ``requests`` holds what was asked for.
    Where it is ``broken``: ``hang`` (it accepts and never answers), ``cut`` (the connection ends in the middle of a
    file) or ``503``.
    """

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.requests: list[str] = []
        self.broken: str | None = None
        hub = self

        class Handler(_Handler):
            owner = hub

        self._server = _Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def repository(self, kind: str, name: str) -> Repository:
        return self.repositories.setdefault((kind, name), Repository())

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has given up is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    owner: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._answer()

    def _answer(self) -> None:
        path = urlsplit(self.path).path  # a revision such as refs/pr/1 is one part of it, its slashes quoted
        self.owner.requests.append(f"{self.command} {unquote(path)}")
        if self.owner.broken == "hang":
            time.sleep(30)
        if self.owner.broken == "503":
            self._send(503, b"")
            return
        if match := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/(.+))?", path):
            self._api(*match.groups())
        elif match := re.fullmatch(r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            kind, name, revision, file = match.groups()
            self._file(kind or "models", name, unquote(revision), unquote(file))
        else:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})

    def _found(self, kind: str, name: str, revision: str) -> tuple[Repository, str] | None:
        """The repository and the commit; None where the client has had its error already."""
        repository = self.owner.repositories.get((kind, name))
        if repository is None:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
            return None
        commit = repository.refs.get(revision, revision)
        if commit not in repository.commits:
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
            return None
        return repository, commit

    def _api(self, kind: str, name: str, what: str | None, rest: str | None) -> None:
        revision, folder = (unquote(part) for part in (rest or "main").partition("/")[::2])
        found = self._found(kind, name, revision)
        if found is None:
            return
        repository, commit = found
        files = repository.commits[commit]
        answer: Any = {
            "_id": "0" * 24,
            "id": name,
            "modelId": name,
            "sha": commit,
            "private": False,
            "gated": "manual" if repository.gated else False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "siblings": [{"rfilename": file} for file in files],
        }
        if what == "tree":
            answer = _tree(files, folder)
            if folder and not answer:
                self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
                return
        elif what == "paths-info":
            wanted = _paths(self._body)
            answer = [entry for path in wanted for entry in _entry(files, path)]
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _file(self, kind: str, name: str, revision: str, file: str) -> None:
        found = self._found(kind, name, revision)
        if found is None:
            return
        repository, commit = found
        if repository.gated:
            sent = self.headers.get("Authorization")
            if sent != f"Bearer {TOKEN}":
                self._send(401 if sent is None else 403, b"", {"X-Error-Code": "GatedRepo"})
                return
        headers = {"X-Repo-Commit": commit}
        content = repository.commits[commit].get(file)
        if content is None:
            self._send(404, b"", {**headers, "X-Error-Code": "EntryNotFound"})
            return
        headers |= {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "Accept-Ranges": "bytes"}
        if self.owner.broken == "cut" and self.command == "GET":
            self.close_connection = True
            self._send(200, content[: len(content) // 2], headers, length=len(content))
            return
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if part is None:
            self._send(200, content, headers)
            return
        start, end = int(part[1]), min(int(part[2] or len(content)), len(content) - 1)
        headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        self._send(206, content[start : end + 1], headers)

    def _send(
        self, status: int, content: bytes, headers: dict[str, str] | None = None, *, length: int | None = None
    ) -> None:
        self.send_response(status)
        announced = str(len(content) if length is None else length)
        for key, value in {**(headers or {}), "Content-Length": announced}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _paths(body: bytes) -> list[str]:
    """The paths that a request names, as a form or as JSON."""
    if body.startswith(b"{"):
        paths = json.loads(body)["paths"]
        return [paths] if isinstance(paths, str) else list(paths)
    from urllib.parse import parse_qs

    return parse_qs(body.decode())["paths"]


def _file_entry(path: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}


def _entry(files: dict[str, bytes], path: str) -> list[dict[str, Any]]:
    if path in files:
        return [_file_entry(path, files[path])]
    if any(name.startswith(f"{path}/") for name in files):
        return [{"type": "directory", "path": path, "oid": "0" * 40}]
    return []


def _tree(files: dict[str, bytes], folder: str) -> list[dict[str, Any]]:
    """All files below a folder, and the folders."""
    inside = {name: data for name, data in files.items() if not folder or name.startswith(f"{folder}/")}
    folders = {name.rsplit("/", depth)[0] for name in inside for depth in range(1, name.count("/") + 1)}
    return [_file_entry(name, data) for name, data in inside.items()] + [
        {"type": "directory", "path": name, "oid": "0" * 40} for name in sorted(folders)
    ]
