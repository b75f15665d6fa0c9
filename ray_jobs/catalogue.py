"""The catalogue `conf/sources.yaml`: what there is to fetch, from where, and what it is for.

A recipe's source takes an entry by `from`; afterwards it is a plain source again.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache as cached
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import yaml

from ray_jobs.prompts import CONF

FILE = CONF / "sources.yaml"
GIVEN = ("reader", "role", "language", "licence", "fields")

Hub = Literal["huggingface", "modelscope", "github"]
Record = TypeVar("Record")


@dataclass(frozen=True, kw_only=True)
class Place:
    """One place that has the file."""

    hub: Hub
    id: str
    """owner/name"""
    revision: str
    """A commit where one is known; a branch where not."""
    file: str
    """The path inside the repository."""
    sha256: str = ""
    git_blob: str = ""
    """Git's own hash of the file, where that is what the publisher shows."""
    size_bytes: int = 0
    """0 where it is not known."""
    unverified: str = ""
    """What nobody has checked about this place."""

    def __post_init__(self) -> None:
        for name, value, form in (
            ("hub", self.hub, "|".join(get_args(Hub))),
            ("id", self.id, r"[\w.-]+/[\w.-]+"),
            ("revision", self.revision, r"[\w./-]+"),
            ("file", self.file, r"[^/].*"),
            ("sha256", self.sha256, r"([0-9a-f]{64})?"),
            ("git_blob", self.git_blob, r"([0-9a-f]{40})?"),
        ):
            if not isinstance(value, str) or not re.fullmatch(form, value):
                raise ValueError(f"{name}: expected {form}, found {value!r}")

    def __str__(self) -> str:
        return f"{self.hub} {self.id}, {self.file} at {self.revision}"

    @property
    def page(self) -> str:
        """Where a person reads about the set, and accepts its licence."""
        site = {
            "huggingface": "https://huggingface.co/datasets/",
            "modelscope": "https://modelscope.cn/datasets/",
            "github": "https://github.com/",
        }
        return site[self.hub] + self.id


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file of the catalogue."""

    reader: str
    role: str
    language: str
    licence: str
    duties: str
    """What the licence asks, in a line."""
    publisher: str
    """The publisher's page."""
    file: str
    """The file's name where it is kept."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """For readers that do not know their fields."""
    places: tuple[Place, ...] = ()
    """Where it can be fetched, the first choice first."""
    by_hand: str = ""
    """What a person can do where no place gives the file."""

    def __post_init__(self) -> None:
        if not self.places and not self.by_hand:
            raise ValueError("places: expected at least one, or by_hand, what a person is to do")
        if Path(self.file).name != self.file:
            raise ValueError(f"file: expected a name without folders, found {self.file!r}")


@cached
def load(file: Path = FILE) -> Mapping[str, Entry]:
    """The catalogue by name. ValueError names the entry and the key that is wrong."""
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, FileNotFoundError) as error:
        raise ValueError(f"{file}: cannot be read: {' '.join(str(error).split())}") from error
    sources = data.get("sources") if isinstance(data, dict) else None
    if not isinstance(sources, dict) or not sources:
        raise ValueError(f"{file}: expected 'sources: {{<name>: …}}'")
    return {str(name): _entry(entry, f"{file}: {name}") for name, entry in sources.items()}


def resolve(entry: Mapping[str, Any], cache: Path, file: Path = FILE) -> dict[str, Any]:
    """A recipe's source without `from`: what it leaves out comes from the catalogue, and its path
    is where `fetch` puts the file. One of reader hub gets the folder that `fetch` makes.
    ValueError names what is unknown.
    """
    given = {key: value for key, value in entry.items() if key != "from"}
    if given.get("reader") == "hub" and given.get("id") and not given.get("path"):
        return {**given, "path": str(hub_folder(given, cache))}
    if "from" not in entry:
        return given
    name, known = str(entry["from"]), load(file)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
        raise ValueError(f"there is no source {name!r} in conf/{file.name}; {hint}")
    told = {key: getattr(known[name], key) for key in GIVEN if getattr(known[name], key)}
    if "path" not in given:  # a path of the recipe's own is a file that nobody fetches
        told |= {"path": str(kept_at(name, cache, file)), "catalogue": name}
    return {**told, **given}


def kept_at(name: str, cache: Path, file: Path = FILE) -> Path:
    """Where an entry's file is kept."""
    return cache / "data" / name / load(file)[name].file


def hub_folder(entry: Mapping[str, Any], cache: Path) -> Path:
    """Where one split of a data set on the hub is kept, as .parquet."""
    owner = str(entry["id"]).replace("/", "--")
    parts = (entry.get("revision"), entry.get("subset") or "default", entry.get("split"))
    return cache.joinpath("data", "hub", owner, *(str(part or "none") for part in parts))


def _entry(data: Any, where: str) -> Entry:
    if not isinstance(data, dict):
        raise ValueError(f"{where}: expected a mapping, found {data!r}")
    places = data.get("places") or []
    if not isinstance(places, list):
        raise ValueError(f"{where}: places: expected a list, found {places!r}")
    made = [_record(Place, place, f"{where}: places[{k}]") for k, place in enumerate(places)]
    return _record(Entry, {**data, "places": tuple(made)}, where)


def _record(kind: type[Record], data: Any, where: str) -> Record:
    if not isinstance(data, dict):
        raise ValueError(f"{where}: expected a mapping, found {data!r}")
    known = {item.name: item for item in fields(kind)}  # type: ignore[arg-type]
    for key in data:
        if key not in known:
            raise ValueError(f"{where}: unknown key {key!r}; known are {', '.join(known)}")
    for key, item in known.items():
        if item.default is MISSING and item.default_factory is MISSING and not data.get(key):
            raise ValueError(f"{where}: {key}: missing")
    try:
        return kind(**data)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
