"""Sources: which files prompts come from, what each is for, and how its rows are read.

A value is handed on as it was found, text or not: the stage that collects says what becomes of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from ray_jobs import files, formats
from ray_jobs.publishers import PUBLISHED, WITHOUT_RESPONSES, Found, joined
from ray_jobs.schema import Role

__all__ = ["Fields", "Found", "Source", "check", "decides", "fingerprint", "read"]

KEY = "build_data.sources"
VERSION = 2  # raise it where a reader would give other rows for the same file

ReaderName = Literal[
    "safety_prompts",
    "safetybench",
    "cvalues_comparison",
    "cvalues_responsibility",
    "s_eval",
    "alpaca",
    "sharegpt",
    "generic",
    "hub",
]
LANGUAGES = {"zh": "zh", "cn": "zh", "chinese": "zh", "中文": "zh", "en": "en", "english": "en"}
SourceLanguage = Literal["zh", "en", "auto"]


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Which field of a file holds what."""

    prompt: str | tuple[str, ...] = ("prompt",)
    """Field of the prompt; the texts of several are joined by line breaks, empty ones left out."""
    responses: str | tuple[str, ...] = ()
    """Fields of the responses that the file brings along, one response each."""
    label: str = ""
    """Field of the file's own label; empty where it has none."""
    language: str = ""
    """Field of a row's language (zh, en, zh-CN, …); empty where the source's holds for all."""

    def __post_init__(self) -> None:
        if not self.prompts or not all((*self.prompts, *self.replies)):
            raise ValueError(
                "fields: expected a field for the prompt, and no empty name among the fields"
            )

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompt's fields, also where one was given without brackets."""
        return (self.prompt,) if isinstance(self.prompt, str) else tuple(self.prompt)

    @property
    def replies(self) -> tuple[str, ...]:
        """The responses' fields, also where one was given without brackets."""
        return (self.responses,) if isinstance(self.responses, str) else tuple(self.responses)


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file of prompts, what it is for, and how to read it."""

    reader: ReaderName
    """generic: .json, .jsonl, .csv or .parquet by `fields`. hub: a folder of .parquet, by `fields`.
    The others know their fields."""
    path: str
    """The file, or the hub's folder, on a disk or as s3:// or gs://."""
    role: Role
    """train: exported. analyse: labelled only. evaluate: never trained on. general: plain skill."""
    language: SourceLanguage = "auto"
    """Language of its rows, where they do not say it; it chooses the prompts that models get. auto:
    zh for a prompt with a Chinese character in it, else en.
    """
    licence: str
    """Its licence's short name, such as Apache-2.0; it goes with every row into the data card."""
    fields: Fields = field(default_factory=Fields)
    """Which field holds what; for the readers generic and hub only."""
    catalogue: str = ""
    """Its name in conf/sources.yaml, where it comes from there; set by `from`."""
    id: str = ""
    """Reader hub: the data set owner/name on Hugging Face, which `fetch` brings as .parquet."""
    revision: str = ""
    """Reader hub: the commit, 40 hex digits, so that the rows stay the same."""
    subset: str = ""
    """Reader hub: the configuration of a data set that has several."""
    split: str = ""
    """Reader hub: the split, such as train."""


def read(name: str, source: Source) -> Iterator[Found]:
    """The rows of a source, one at a time. ValueError names the file and its line."""
    num_rows = 0
    for found in _rows(name, source):
        num_rows += 1
        yield found
    if not num_rows:
        raise ValueError(
            f"{source.path}: there are no rows; give a file with some, or set {KEY}.{name}=null"
        )


def check(sources: Mapping[str, Source], recipe: str = "<recipe>") -> None:
    """Refuse what can be refused before any work starts. ValueError names the key or the file.
    `recipe` is the file to name where something has not been fetched.
    """
    if not sources:
        raise ValueError(
            f"{KEY}: expected at least one source; add one, such as {KEY}.mine.path=FILE"
        )
    for name, source in sources.items():
        _check_keys(f"{KEY}.{name}", source)
    if absent := [name for name, source in sources.items() if _is_to_fetch(source)]:
        raise ValueError(
            f"{KEY}.{absent[0]}: {sources[absent[0]].path} is not here"
            + (f", nor what {', '.join(absent[1:])} read" if absent[1:] else "")
            + f": python -m ray_jobs fetch {recipe}"
        )
    for name, source in sources.items():
        # Up to the first whole row: where a field is misspelt there is none, and the end says so.
        for found in read(name, source):
            if found.prompt is not None and (found.responses or not source.fields.replies):
                break


def fingerprint(source: Source) -> str:
    """The SHA-256 of the content that is read: a file that moved is still the same."""
    return files.content_hash(*_paths(source))


def decides(name: str, source: Source) -> dict[str, Any]:
    """What decides the rows of a source: all but where its file lies, or came from."""
    return {
        "name": name,
        "content": fingerprint(source),
        "version": VERSION,
        "format": "folder" if source.reader == "hub" else files.suffix(source.path),
        "reader": source.reader,
        "role": source.role,
        "language": source.language,
        "licence": source.licence,
        "fields": {
            "prompt": list(source.fields.prompts),
            "responses": list(source.fields.replies),
            "label": source.fields.label,
            "language": source.fields.language,
        },
    }


def _check_keys(key: str, source: Source) -> None:
    values = (source.reader, source.role, source.language)
    for part, kind, value in zip(
        ("reader", "role", "language"), (ReaderName, Role, SourceLanguage), values, strict=True
    ):
        if value not in get_args(kind):
            raise ValueError(
                f"{key}.{part}: expected {' | '.join(get_args(kind))}, found {value!r}"
            )
    if not source.licence.strip():
        raise ValueError(f"{key}.licence: expected a licence's short name, such as Apache-2.0")
    if source.reader in PUBLISHED and source.fields != Fields():
        raise ValueError(f"{key}.fields: the reader {source.reader} has its own; remove them")
    if source.reader == "s_eval" and source.role != "evaluate":
        raise ValueError(f"{key}.role: S-Eval's licence forbids derived data; expected evaluate")
    mapped = source.reader not in PUBLISHED
    if source.role == "general" and source.reader in WITHOUT_RESPONSES:
        raise ValueError(
            f"{key}.role: role general needs responses, and {source.reader} files have none"
        )
    if source.role == "general" and mapped and not source.fields.replies:
        raise ValueError(
            f"{key}.fields.responses: role general needs its response's field, such as [output]"
        )
    if source.reader == "hub":
        _check_hub(key, source)
        return
    if source.id or source.revision or source.subset or source.split:
        raise ValueError(f"{key}: id, revision, subset and split are for reader hub; remove them")
    if files.suffix(source.path) not in formats.FORMATS:
        raise ValueError(
            f"{key}.path: expected a file {', '.join(formats.FORMATS)}, found {source.path!r}"
        )


def _check_hub(key: str, source: Source) -> None:
    if source.id and not re.fullmatch(r"[\w.-]+/[\w.-]+", source.id):
        raise ValueError(f"{key}.id: expected owner/name, found {source.id!r}")
    if source.id and not re.fullmatch(r"[0-9a-f]{40}", source.revision):
        raise ValueError(
            f"{key}.revision: expected the commit, 40 hex digits, so that the rows stay the same, "
            f"found {source.revision!r}"
        )
    if source.id and not source.split:
        raise ValueError(f"{key}.split: missing; name the split, such as train")


def _is_to_fetch(source: Source) -> bool:
    return bool(source.catalogue or source.id) and not files.is_there(source.path)


def _rows(name: str, source: Source) -> Iterator[Found]:
    published = PUBLISHED.get(source.reader)
    return published(source.path) if published else _mapped(name, source)


def _paths(source: Source) -> list[str]:
    if source.reader != "hub":
        return [source.path]
    # A folder that `fetch` has made holds nothing but the one split.
    parts = () if source.id else filter(None, (source.subset, source.split))
    return files.parquet_files(source.path, tuple(parts))


def _mapped(name: str, source: Source) -> Iterator[Found]:
    """Rows by the recipe's `fields`."""
    fields, key = source.fields, f"mend {KEY}.{name}.fields"
    wanted = dict.fromkeys(fields.prompts, f"{key}.prompt") | dict.fromkeys(
        fields.replies, f"{key}.responses"
    )
    if fields.label:
        wanted[fields.label] = f"{key}.label"
    if fields.language:
        wanted[fields.language] = f"{key}.language"
    rows = (row for path in _paths(source) for row in formats.rows(path, wanted))
    for number, row in enumerate(rows, start=1):
        label = row.get(fields.label) if fields.label else None
        yield Found(
            source_row=number,
            prompt=joined([row.get(part) for part in fields.prompts]),
            responses=tuple(row[part] for part in fields.replies if row.get(part) is not None),
            label=None if label is None else str(label),
            language=_language(row.get(fields.language)) if fields.language else None,
        )


def _language(value: object) -> str | None:
    """zh or en, also where zh-CN or English stands there; another language as it stands there."""
    if value is None or not str(value).strip():
        return None
    told = str(value).strip()
    return LANGUAGES.get(re.split(r"[-_]", told.lower())[0], told)
