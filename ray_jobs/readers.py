"""Sources: which files prompts come from, what each is for, and how its rows are read.

A value is handed on as it was found, text or not: the stage that collects says what becomes of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from ray_jobs import formats
from ray_jobs.schema import Language, Role

KEY = "build_data.sources"
SAFETY_PROMPTS = "key → list of {prompt, response, type}"

ReaderName = Literal["safety_prompts", "generic"]


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Which field of a file holds what."""

    prompt: str | tuple[str, ...] = ("prompt",)
    """Field of the prompt; the texts of several are joined by line breaks, empty ones left out."""
    responses: str | tuple[str, ...] = ()
    """Fields of the responses that the file brings along, one response each."""
    label: str = ""
    """Field of the file's own label; empty where it has none."""

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
    """safety_prompts: a JSON object, key → rows. generic: .json, .jsonl, .csv or .parquet."""
    path: str
    """The file, on a disk or as s3:// or gs://."""
    role: Role
    """train: exported. analyse: labelled only. evaluate: never trained on. general: plain skill."""
    language: Language = "zh"
    """Language of all its rows; it chooses the prompts that the models get."""
    licence: str
    """Its licence's short name, such as Apache-2.0; it goes with every row into the data card."""
    fields: Fields = field(default_factory=Fields)
    """Which field holds what; for the generic reader only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """One row of a file, as it was found."""

    source_row: int
    """Counted from 1 over the file."""
    prompt: object
    """None where the row has none."""
    responses: tuple[object, ...]
    """Those that are there."""
    label: str | None


def read(name: str, source: Source) -> Iterator[Found]:
    """The rows of a source, one at a time. ValueError names the file and its line."""
    num_rows = 0
    is_generic = source.reader == "generic"
    for found in _generic(name, source) if is_generic else _safety_prompts(source.path):
        num_rows += 1
        yield found
    if not num_rows:
        raise ValueError(
            f"{source.path}: there are no rows; give a file with some, or set {KEY}.{name}=null"
        )


def check(sources: Mapping[str, Source]) -> None:
    """Refuse what can be refused before any work starts. ValueError names the key or the file."""
    if not sources:
        raise ValueError(
            f"{KEY}: expected at least one source; add one, such as {KEY}.mine.path=FILE"
        )
    for name, source in sources.items():
        _check_keys(f"{KEY}.{name}", source)
        # Up to the first whole row: where a field is misspelt there is none, and the end says so.
        for found in read(name, source):
            if found.prompt is not None and (found.responses or not source.fields.replies):
                break


def fingerprint(source: Source) -> str:
    """The SHA-256 of the file's content: a file that moved is still the same."""
    return formats.content_hash(source.path)


def decides(name: str, source: Source) -> dict[str, Any]:
    """What decides the rows of a source: all but where its file lies."""
    return {
        "name": name,
        "content": fingerprint(source),
        "format": formats.suffix(source.path),
        "reader": source.reader,
        "role": source.role,
        "language": source.language,
        "licence": source.licence,
        "fields": {
            "prompt": list(source.fields.prompts),
            "responses": list(source.fields.replies),
            "label": source.fields.label,
        },
    }


def _check_keys(key: str, source: Source) -> None:
    values = (source.reader, source.role, source.language)
    for part, kind, value in zip(
        ("reader", "role", "language"), (ReaderName, Role, Language), values, strict=True
    ):
        if value not in get_args(kind):
            raise ValueError(
                f"{key}.{part}: expected {' | '.join(get_args(kind))}, found {value!r}"
            )
    if not source.licence.strip():
        raise ValueError(f"{key}.licence: expected a licence's short name, such as Apache-2.0")
    if source.reader == "safety_prompts":
        if source.fields != Fields():
            raise ValueError(f"{key}.fields: the reader safety_prompts has its own; remove them")
        return
    if source.role == "general" and not source.fields.replies:
        raise ValueError(
            f"{key}.fields.responses: role general needs its response's field, such as [output]"
        )
    if formats.suffix(source.path) not in formats.FORMATS:
        raise ValueError(
            f"{key}.path: expected a file {', '.join(formats.FORMATS)}, found {source.path!r}"
        )


def _safety_prompts(path: str) -> Iterator[Found]:
    """The files of thu-coai/Safety-Prompts. A row's `type` repeats the key it stands under."""
    number, has_prompt = 0, False
    for number, (key, row) in enumerate(_rows_by_key(path), start=1):
        has_prompt |= "prompt" in row
        response = row.get("response")
        yield Found(
            source_row=number,
            prompt=_cleaned(row.get("prompt")),
            responses=() if response is None else (_cleaned(response),),
            label=str(row.get("type") or key),
        )
    if number and not has_prompt:
        raise ValueError(f"{path}: no row has a prompt; expected {SAFETY_PROMPTS}")


def _rows_by_key(path: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    data = formats.load_json(path)
    if not isinstance(data, dict):
        found = formats.kind_of(data)
        raise ValueError(f"{path}: expected {SAFETY_PROMPTS}, found {found}; choose another reader")
    for key, rows in data.items():
        if not isinstance(rows, list):
            found = formats.kind_of(rows)
            raise ValueError(f"{path} key {key!r}: expected a list of rows, found {found}; mend it")
        for number, row in enumerate(rows, start=1):
            yield key, formats.as_object(row, f"{path} key {key!r} row {number}")


def _cleaned(value: object) -> object:
    """Without the stray line breaks, and halves of escaped ones, that begin some of its texts."""
    return value.strip().removeprefix("n\n").lstrip() if isinstance(value, str) else value


def _generic(name: str, source: Source) -> Iterator[Found]:
    fields, key = source.fields, f"{KEY}.{name}.fields"
    wanted = dict.fromkeys(fields.prompts, f"{key}.prompt") | dict.fromkeys(
        fields.replies, f"{key}.responses"
    )
    if fields.label:
        wanted[fields.label] = f"{key}.label"
    for number, row in enumerate(formats.rows(source.path, wanted), start=1):
        label = row.get(fields.label) if fields.label else None
        yield Found(
            source_row=number,
            prompt=_joined([row.get(part) for part in fields.prompts]),
            responses=tuple(row[part] for part in fields.replies if row.get(part) is not None),
            label=None if label is None else str(label),
        )


def _joined(values: list[object]) -> object:
    """The texts in one; None where there are none; where something else is among them, that."""
    texts: list[str] = []
    for value in values:
        if isinstance(value, str):
            texts.append(value)
        elif value is not None:
            return value
    return "\n".join(text for text in texts if text.strip()) if texts else None
