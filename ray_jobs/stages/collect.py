"""Collect the prompts of all sources. No row of a file is lost: dropped ones carry their reason."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeGuard, get_args

from ray_jobs.readers import Found, Source, read
from ray_jobs.schema import Role, row_id
from ray_jobs.tables import Row

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Collect:
    """Which rows are too long to be used."""

    max_prompt_chars: int = 8000
    """Rows with a longer prompt are dropped."""
    max_response_chars: int = 8000
    """Rows with a longer response of their own are dropped."""

    def __post_init__(self) -> None:
        if self.max_prompt_chars < 1 or self.max_response_chars < 1:
            raise ValueError("collect: expected max_prompt_chars ≥ 1 and max_response_chars ≥ 1")


def collect(sources: Mapping[str, Source], cfg: Collect) -> Iterator[Row]:
    """The rows of schema.COLLECTED: role by role, sources by name, whatever order the recipe has.

    Of equal prompts in one role the first is kept.
    """
    order = get_args(Role)
    first: dict[bytes, str] = {}
    for name, source in sorted(sources.items(), key=lambda one: (order.index(one[1].role), one[0])):
        for found in read(name, source):
            row = _row(name, source, found)
            reason = reason_to_drop(found, source.role, cfg) or _reason_duplicate(row, first)
            yield row if reason is None else _dropped(row, reason)


def reason_to_drop(found: Found, role: str, cfg: Collect) -> str | None:
    """Why a row cannot be used, whatever the other rows are; None where it can."""
    if found.prompt is None:
        return "no prompt"
    if not _is_text(found.prompt):
        return "prompt is not text"
    if not _is_visible(found.prompt):
        return "empty prompt"
    if len(found.prompt.strip()) > cfg.max_prompt_chars:
        return f"longer than {cfg.max_prompt_chars} characters"
    texts = [response for response in found.responses if _is_text(response)]
    if len(texts) < len(found.responses):
        return "response is not text"
    if any(len(text) > cfg.max_response_chars for text in texts):
        return f"response longer than {cfg.max_response_chars} characters"
    if role == "general" and not any(map(_is_visible, texts)):
        return "no response"
    return None


def _row(name: str, source: Source, found: Found) -> Row:
    prompt = found.prompt.strip() if _is_text(found.prompt) else ""
    responses = [text for text in found.responses if _is_text(text) and _is_visible(text)]
    label = None if found.label is None else found.label.encode(errors="replace").decode().strip()
    return {
        "id": row_id(name, prompt, responses),
        "source": name,
        "source_row": found.source_row,
        "role": source.role,
        "language": source.language,
        "licence": source.licence,
        "prompt": prompt,
        "source_label": label or None,
        "original_responses": responses,
        "parent": None,
        "outcome": "done",
        "reason": None,
    }


def _dropped(row: Row, reason: str) -> Row:
    # Dropped rows may be alike to the letter, so the id says which row of its file it is.
    name = f"{row['id']}/d{row['source_row']}"
    return {**row, "id": name, "outcome": "dropped", "reason": reason}


def _reason_duplicate(row: Row, first: dict[bytes, str]) -> str | None:
    """The reason where the prompt was there before; else None, and `first` has it from now on."""
    text = f"{row['role']}\n{unicodedata.normalize('NFC', row['prompt'])}"
    key = hashlib.blake2b(text.encode(), digest_size=16).digest()
    if key in first:
        return f"duplicate of {first[key]}"
    first[key] = row["id"]
    return None


def _is_text(value: object) -> TypeGuard[str]:
    """Whether it can be written as UTF-8: JSON may smuggle in half a character, such as \\ud83d."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_visible(text: str) -> bool:
    """Whether there is more than spaces, controls and zero-width characters."""
    return any(unicodedata.category(char)[0] not in "ZC" for char in text)
