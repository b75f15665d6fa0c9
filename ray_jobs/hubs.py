"""The catalogue's files from the hubs that have them: Hugging Face, ModelScope, GitHub.

Beside a file that has come, `<file>.fetched.json` says from where and what it was: with it nothing
is asked again, and a file that somebody changed or put there is never overwritten.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import httpx

from ray_jobs import files
from ray_jobs.catalogue import Entry, Place
from ray_jobs.downloads import NotFetched, Request, Unreachable, download

ENDPOINTS = {
    "huggingface": ("HF_ENDPOINT", "https://huggingface.co"),
    "modelscope": ("MODELSCOPE_ENDPOINT", "https://www.modelscope.cn"),
    "github": ("GITHUB_RAW_ENDPOINT", "https://raw.githubusercontent.com"),
}
TIMEOUT = httpx.Timeout(60.0, connect=10.0)
HEADERS = {
    "User-Agent": "garrison",
    "Accept-Encoding": "identity",  # a part of a compressed body could not be gone on with
}

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Hubs:
    """The places that files come from, as this machine reaches them."""

    client: httpx.Client
    endpoints: Mapping[str, str]
    token: str = field(default="", repr=False)
    """For Hugging Face alone."""
    pause_s: float = 1.0
    """Before the second try; it doubles with each."""
    unreachable: dict[str, str] = field(default_factory=dict)
    """Hubs that could not be reached in this run, and why: they are not tried again."""


@contextmanager
def reach(environ: Mapping[str, str], token: str, pause_s: float = 1.0) -> Iterator[Hubs]:
    """The hubs at the addresses that the environment gives, and a client for as long as needed."""
    found = endpoints(environ)
    with httpx.Client(timeout=TIMEOUT, headers=HEADERS, follow_redirects=True) as client:
        yield Hubs(client=client, endpoints=found, token=token, pause_s=pause_s)


def endpoints(environ: Mapping[str, str]) -> dict[str, str]:
    """Where each hub is. ValueError names the variable that holds no address."""
    found = {}
    for hub, (variable, usual) in ENDPOINTS.items():
        address = (environ.get(variable) or usual).rstrip("/")
        if not re.fullmatch(r"https?://[\w.-]+(:\d+)?(/\S*)?", address):
            raise ValueError(f"{variable}: expected an address such as {usual}, found {address!r}")
        found[hub] = address
    return found


def bring_file(name: str, entry: Entry, target: Path, hubs: Hubs) -> None:
    """Bring an entry's file to `target` from the first place that gives it. NotFetched says why
    none did, and what a person can do.
    """
    if _is_here(name, entry, target):
        return
    reasons: list[str] = []
    for place in entry.places:
        if place.hub in hubs.unreachable:
            reasons.append(hubs.unreachable[place.hub])
            continue
        try:
            fetched = download(_request(place, hubs), target, hubs.client, pause_s=hubs.pause_s)
        except NotFetched as error:
            reasons.append(str(error))
            if isinstance(error, Unreachable):
                hubs.unreachable[place.hub] = str(error)
            continue
        came = {**_where(place), **vars(fetched), "at": datetime.now(UTC).isoformat()}
        _note(target).write_text(json.dumps(came, indent=1), encoding="utf-8")
        log.info("%s: %d bytes from %s", name, fetched.size_bytes, place)
        log.info("%s: licence %s: %s", name, entry.licence, entry.duties)
        if place.unverified:
            log.warning("%s: nobody has checked %s", name, place.unverified)
        return
    advice = entry.by_hand or f"download {entry.file} from {entry.publisher}"
    raise NotFetched("; ".join([*reasons, f"by hand: {advice}, and put it at {target}"]))


def _is_here(name: str, entry: Entry, target: Path) -> bool:
    """Whether the entry's file is there, unchanged. NotFetched where another file is in its place:
    it may be somebody's work, so it is not overwritten.
    """
    if not target.exists():
        return False
    _, sha256, git_blob = files.hashes(target)
    came = _came(target)
    if came:
        if came.get("sha256") != sha256:
            raise NotFetched(f"{target} has changed since it was fetched: move it away")
        return any(_where(place).items() <= came.items() for place in entry.places)
    hashed = [place for place in entry.places if place.sha256 or place.git_blob]
    if any(place.sha256 == sha256 or place.git_blob == git_blob for place in hashed):
        return True
    if hashed and len(hashed) == len(entry.places):
        raise NotFetched(
            f"{target} is there, but it is not the published file: expected "
            + " or ".join(f"{place.sha256 or place.git_blob}" for place in hashed)
            + f", found sha256 {sha256}: move it away"
        )
    log.warning("%s: %s was put there by hand; no checksum is known to verify it", name, target)
    return True


def _request(place: Place, hubs: Hubs) -> Request:
    base, file = hubs.endpoints[place.hub], quote(place.file)
    revision = quote(place.revision, safe="")
    asked = urlencode({"Revision": place.revision, "FilePath": place.file})
    url = {
        "huggingface": f"{base}/datasets/{place.id}/resolve/{revision}/{file}",
        "modelscope": f"{base}/api/v1/datasets/{place.id}/repo?{asked}",
        "github": f"{base}/{place.id}/{place.revision}/{file}",
    }[place.hub]
    is_hub = place.hub == "huggingface"
    return Request(
        title=str(place),
        url=url,
        page=place.page,
        token=hubs.token if is_hub else "",
        token_name="HF_TOKEN" if is_hub else "",
        sha256=place.sha256,
        git_blob=place.git_blob,
        size_bytes=place.size_bytes,
    )


def _where(place: Place) -> dict[str, Any]:
    return {name: getattr(place, name) for name in ("hub", "id", "revision", "file")}


def _note(target: Path) -> Path:
    return target.with_name(f"{target.name}.fetched.json")


def _came(target: Path) -> dict[str, Any]:
    """What was noted when the file came; nothing where a person put it there."""
    try:
        came = json.loads(_note(target).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return came if isinstance(came, dict) else {}
