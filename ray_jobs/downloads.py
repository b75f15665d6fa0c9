"""One file over HTTP: whole or not at all, verified, and a transfer that was cut goes on.

What has come so far is `<file>.part`; beside it `.part.json` says of which file it is, so that two
versions are never spliced. One path for all hubs: their resolve addresses are plain HTTP.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

import httpx
from tqdm import tqdm

from ray_jobs.files import hashes

ATTEMPTS = 5  # in a row without one new byte
CONNECTS = 2


class NotFetched(Exception):
    """The file cannot be had. The message is one line that says what to do."""


class Unreachable(NotFetched):
    """No connection could be made at all."""


class _Again(Exception):
    """Worth another try."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A file at one address."""

    title: str
    """What it is and where, for messages."""
    url: str
    page: str
    """Where a person accepts its licence."""
    token: str = field(default="", repr=False)
    token_name: str = ""
    """The variable that a token comes from, where the place takes one."""
    sha256: str = ""
    git_blob: str = ""
    size_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What has come."""

    size_bytes: int
    sha256: str
    etag: str
    commit: str  # that the server named; empty where it named none


@dataclass(frozen=True, kw_only=True)
class _Told:
    """What the server said about the file. `total` is -1 where it did not say."""

    url: str
    etag: str
    total: int
    commit: str
    hub_hash: str


def download(
    request: Request, target: Path, client: httpx.Client, *, pause_s: float = 1.0
) -> Fetched:
    """Bring a file to `target`. NotFetched where it cannot be had; OSError where the disk cannot
    hold it. `pause_s` is the first pause between tries; each is twice the one before.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part, note = (target.with_name(target.name + end) for end in (".part", ".part.json"))
    with _held(part, note) as stream:
        told = _transfer(request, note, stream, client, pause_s)
        size_bytes, sha256, wrong = _verified(part, request, told)
        if wrong:
            stream.truncate(0)
            raise NotFetched(wrong)
        os.fsync(stream.fileno())
        part.replace(target)
    return Fetched(size_bytes=size_bytes, sha256=sha256, etag=told.etag, commit=told.commit)


@contextmanager
def _held(part: Path, note: Path) -> Iterator[IO[bytes]]:
    """The part, open for appending, for this process alone. Afterwards neither is there, but where
    a part is worth going on with.
    """
    with part.open("ab") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between opening and locking another process may have made it the finished file.
            mine = os.fstat(stream.fileno()).st_ino == part.stat().st_ino
        except (BlockingIOError, FileNotFoundError):
            mine = False
        if not mine:
            raise NotFetched(f"{part}: another fetch is writing it; wait for it")
        try:
            yield stream
        finally:
            stream.flush()
            if not part.exists() or not part.stat().st_size:
                part.unlink(missing_ok=True)
                note.unlink(missing_ok=True)


def _transfer(
    request: Request, note: Path, stream: IO[bytes], client: httpx.Client, pause_s: float
) -> _Told:
    failures = 0
    while True:
        before = _size(stream)
        try:
            return _attempt(request, note, stream, client)
        except (httpx.RequestError, _Again) as error:
            failures = 1 if _size(stream) > before else failures + 1
            reason = " ".join(str(error).split()) or type(error).__name__
            if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
                if failures >= CONNECTS:
                    host = httpx.URL(request.url).host
                    raise Unreachable(f"{request.title}: cannot reach {host}: {reason}") from error
            elif failures >= ATTEMPTS:
                raise NotFetched(f"{request.title}: {reason}; run it again later") from error
        time.sleep(pause_s * 2 ** (failures - 1))


def _attempt(request: Request, note: Path, stream: IO[bytes], client: httpx.Client) -> _Told:
    known = _resumable(request, note)
    start = _size(stream) if known else 0
    if known and start == known.total:
        return known
    headers = {"Authorization": f"Bearer {request.token}"} if request.token else {}
    if known and start:
        headers["Range"] = f"bytes={start}-"
        if _is_strong(known.etag):
            headers["If-Range"] = known.etag
    with client.stream("GET", request.url, headers=headers) as answer:
        if answer.status_code not in (200, 206, 416):
            _refuse(request, answer)
        if answer.status_code == 200:
            start = 0
            stream.truncate(0)
        elif not answer.headers.get("content-range", "").startswith(f"bytes {start}-"):
            stream.truncate(0)
            raise _Again("the server has another file than before")
        if answer.headers.get("content-type", "").startswith("text/html"):
            raise NotFetched(f"{request.title}: a web page came instead; open {request.url}")
        told = _told(request, answer, start)
        note.write_text(json.dumps(asdict(told)), encoding="utf-8")
        _append(stream, answer, told, start)
    if told.total not in (-1, _size(stream)):
        raise _Again(f"expected {told.total} bytes, {_size(stream)} came")
    return told


def _append(stream: IO[bytes], answer: httpx.Response, told: _Told, start: int) -> None:
    title = Path(stream.name).name.removesuffix(".part")
    total = None if told.total < 0 else told.total
    # disable=None: no bar where nobody watches. unit_scale: 45.7M, not 45726833
    with tqdm(None, title, total, initial=start, disable=None, unit="B", unit_scale=True) as bar:
        for chunk in answer.iter_bytes():
            stream.write(chunk)
            bar.update(len(chunk))


def _resumable(request: Request, note: Path) -> _Told | None:
    """What was told about the part, where going on with it cannot splice two versions."""
    try:
        told = _Told(**json.loads(note.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    can_tell = _is_strong(told.etag) or request.sha256 or request.git_blob
    return told if can_tell and told.url == request.url else None


def _told(request: Request, answer: httpx.Response, start: int) -> _Told:
    total = answer.headers.get("content-range", "").rpartition("/")[2]
    length = answer.headers.get("content-length", "")
    if not total.isdigit():
        total = str(int(length) + start) if length.isdigit() else "-1"
    # A hub says what it knows before it sends the client on to where the bytes are.
    every = [step.headers for step in (*answer.history, answer)]
    commit = next((seen["x-repo-commit"] for seen in every if "x-repo-commit" in seen), "")
    linked = next((seen["x-linked-etag"] for seen in every if "x-linked-etag" in seen), "")
    etag = answer.headers.get("etag", "")
    return _Told(
        url=request.url,
        etag=etag,
        total=int(total),
        commit=commit,
        hub_hash=(linked or etag).strip('"') if commit else "",
    )


def _refuse(request: Request, answer: httpx.Response) -> None:
    status, name = answer.status_code, request.token_name
    if status in (408, 425, 429) or status >= 500:
        raise _Again(f"the server answered {status}")
    if status in (401, 403) and answer.headers.get("x-error-code") == "RepoNotFound":
        also = "" if request.token else f", or set {name}"
        raise NotFetched(
            f"{request.title}: there is none such, or it is private: mend its id{also}"
        )
    if status in (401, 403) and name:
        need = f"{name} has no access" if request.token else f"needs a token: set {name}"
        raise NotFetched(f"{request.title}: {need}, and accept the licence at {request.page}")
    if status == 404:
        raise NotFetched(f"{request.title}: not found there; mend the file, id or revision")
    raise NotFetched(f"{request.title}: the server answered {status}; see {request.page}")


def _verified(part: Path, request: Request, told: _Told) -> tuple[int, str, str]:
    """Size, SHA-256, and what is wrong with them: empty where it is the file that was expected."""
    size, sha256, git_blob = hashes(part)
    # On Hugging Face the ETag is the SHA-256 of a large file, git's hash of a small one.
    hub_sha256 = told.hub_hash if re.fullmatch(r"[0-9a-f]{64}", told.hub_hash) else ""
    hub_blob = told.hub_hash if re.fullmatch(r"[0-9a-f]{40}", told.hub_hash) else ""
    for name, expected, found in (
        ("size in bytes", str(request.size_bytes or ""), str(size)),
        ("sha256", request.sha256 or hub_sha256, sha256),
        ("git_blob", request.git_blob or hub_blob, git_blob),
    ):
        if expected and found != expected:
            wrong = f"wrong checksum: expected {name} {expected}, found {found}; it was thrown away"
            advice = "try again, and if that does not help the publisher has changed it"
            return size, sha256, f"{request.title}: {wrong}: {advice}"
    return size, sha256, ""


def _is_strong(etag: str) -> bool:
    return etag.startswith('"')


def _size(stream: IO[bytes]) -> int:
    stream.flush()
    return os.fstat(stream.fileno()).st_size
