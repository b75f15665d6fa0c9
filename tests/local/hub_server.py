"""A real HTTP server that speaks as the hubs do: Hugging Face's resolve, redirect and API,
ModelScope's repo, GitHub's raw files. It can be told to misbehave, and it notes what it was asked.
"""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

COMMIT = "c" * 40
KINDS = {"models": "model", "datasets": "huggingface"}


@dataclass
class Asked:
    """One request."""

    method: str
    path: str
    range: str | None
    token: str | None


@dataclass
class Server(ThreadingHTTPServer):
    """Files by hub, id and name; what to do wrong by path."""

    files: dict[str, bytes] = field(default_factory=dict)
    """`huggingface owner/name file`, `modelscope …`, `github …`, `model owner/name file`."""
    statuses: dict[str, list[int]] = field(default_factory=dict)
    """Answered before the file is, by a part of the path."""
    cuts: dict[str, list[int]] = field(default_factory=dict)
    """After so many bytes the connection is cut, by a part of the path."""
    asked: list[Asked] = field(default_factory=list)
    error_code: str = ""
    etags: bool = True
    content_type: str = "application/octet-stream"

    daemon_threads = True

    def __post_init__(self) -> None:
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def cdn(self) -> str:
        """The same by another name: no client may take its token there."""
        return f"http://localhost:{self.server_address[1]}"

    def next_of(self, plan: dict[str, list[int]], path: str) -> int | None:
        """What the plan has next for a path."""
        with self.lock:
            for part, values in plan.items():
                if part in path and values:
                    return values.pop(0)
        return None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that was cut is what some tests are about."""


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(self.path)
        with self.server.lock:
            told = self.headers["range"], self.headers["authorization"]
            self.server.asked.append(Asked(self.command, path, *told))
        status = self.server.next_of(self.server.statuses, path)
        if status:
            self.send(status, b"{}", **{"X-Error-Code": self.server.error_code})
        else:
            self.route(path)

    def route(self, path: str) -> None:
        """Who is asked, and for what."""
        parts = urlsplit(path).path.strip("/").split("/")
        query = {key: values[0] for key, values in parse_qs(urlsplit(path).query).items()}
        files = self.server.files
        if parts[0] == "cdn":
            self.file(files.get("/".join(parts[1:])), {})
        elif parts[0] == "api" and parts[1] in KINDS and len(parts) > 4:
            self.about(KINDS[parts[1]], "/".join(parts[2:4]), parts[4], parts[6:])
        elif parts[0] == "datasets" and parts[3] == "resolve":
            self.resolve(f"huggingface {parts[1]}/{parts[2]} {'/'.join(parts[5:])}")
        elif parts[:3] == ["api", "v1", "datasets"]:
            data = files.get(f"modelscope {parts[3]}/{parts[4]} {query.get('FilePath')}")
            self.file(data, {})
        elif len(parts) > 4 and parts[2] == "resolve":
            self.resolve(f"model {parts[0]}/{parts[1]} {'/'.join(parts[4:])}")
        elif len(parts) > 3:
            self.file(files.get(f"github {parts[0]}/{parts[1]} {'/'.join(parts[3:])}"), {})
        else:
            self.send(404, b"{}")

    def resolve(self, key: str) -> None:
        """A small file at once, a large one (here: over 1,000 bytes) from another address."""
        data = self.server.files.get(key)
        headers = {"X-Repo-Commit": COMMIT}
        if data is None:
            self.send(404, b"{}", **{"X-Error-Code": "EntryNotFound"})
        elif len(data) > 1000:
            linked = {"X-Linked-Etag": f'"{sha256(data)}"', "X-Linked-Size": str(len(data))}
            self.send(302, b"", Location=f"{self.server.cdn}/cdn/{quote(key)}", **linked, **headers)
        else:
            self.file(data, {**headers, "ETag": f'"{git_blob(data)}"'})

    def about(self, kind: str, name: str, what: str, under: list[str]) -> None:
        """What the hub's API tells about a repository: its revision, or its files."""
        mine = {
            key.split(" ", 2)[2]: data
            for key, data in self.server.files.items()
            if key.startswith(f"{kind} {name} ")
        }
        if not mine:
            self.send(404, b"{}", **{"X-Error-Code": "RepoNotFound"})
        elif what == "tree":
            folder = "".join(f"{part}/" for part in under)
            everything = "recursive=true" in self.path
            self.say(listed(mine, folder, everything))
        elif what == "paths-info":
            asked = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())["paths"]
            self.say([told(file, mine[file]) for file in asked if file in mine])
        else:
            siblings = [{"rfilename": file} for file in mine]
            self.say({"id": name, "sha": COMMIT, "siblings": siblings, "tags": []})

    def say(self, value: object) -> None:
        """JSON."""
        self.send(200, json.dumps(value).encode(), **{"Content-Type": "application/json"})

    def file(self, data: bytes | None, headers: dict[str, str]) -> None:
        """A file's bytes, from where the client wants them, as far as the plan lets them go."""
        if data is None:
            self.send(404, b"{}")
            return
        etag = headers.get("ETag", f'"{sha256(data)[:32]}"')
        headers = {**headers, "ETag": etag} if self.server.etags else headers
        start, wanted = 0, self.headers["range"]
        if wanted and self.headers.get("if-range", etag) == etag:
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            if start >= len(data):
                self.send(416, b"", **{"Content-Range": f"bytes */{len(data)}"})
                return
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        cut = None
        if self.command == "GET":
            cut = self.server.next_of(self.server.cuts, unquote(self.path))
        self.send(206 if "Content-Range" in headers else 200, data[start:], cut, **headers)

    def send(self, status: int, body: bytes, cut: int | None = None, **headers: str) -> None:
        """One response, or its beginning and the end of the connection."""
        self.send_response(status)
        for name, value in {"Content-Type": self.server.content_type, **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Tests are quiet."""


def listed(files: dict[str, bytes], folder: str, everything: bool) -> list[dict[str, object]]:
    """What lies in a folder, as the hub's API names it."""
    inside = {file: data for file, data in files.items() if file.startswith(folder)}
    rests = {file: file.removeprefix(folder) for file in inside}
    flat = [told(file, inside[file]) for file in inside if everything or "/" not in rests[file]]
    folders = {rest.partition("/")[0] for rest in rests.values() if "/" in rest}
    return flat + [
        {"type": "directory", "path": folder + one, "oid": "d" * 40} for one in sorted(folders)
    ]


def told(file: str, data: bytes) -> dict[str, object]:
    """A file as the hub's API names it."""
    about: dict[str, object] = {"type": "file", "path": file, "size": len(data)}
    if len(data) > 1000:
        about["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 134}
    return {**about, "oid": git_blob(data)}


def sha256(data: bytes) -> str:
    """Of bytes."""
    return hashlib.sha256(data).hexdigest()


def git_blob(data: bytes) -> str:
    """As `git hash-object` says it."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
