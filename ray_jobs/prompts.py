"""Prompt files: `conf/prompts/<name>.<zh|en>.md`, the system turn above a line `---`, the user
turn below.

A gap that nobody fills raises, and so does a value that no gap asks for: both are slips that would
go unseen for 100,000 rows.
"""

from __future__ import annotations

import hashlib
import string
from functools import cache
from pathlib import Path
from typing import TypeAlias

Chat: TypeAlias = list[dict[str, str]]

CONF = Path(__file__).resolve().parent.parent / "conf"
LANGUAGES = ("zh", "en")
CHAT_DATE = "26 Jul 2024"
"""What Llama's template prints where it knows no date. With today's no two runs would be alike, nor
would a model be asked as it was trained.
"""


@cache
def read_prompt(name: str, language: str) -> tuple[string.Template, string.Template]:
    """The system and the user template of a prompt file. ValueError when it is absent or has not
    two parts.
    """
    file = prompt_file(name, language)
    if not file.is_file():
        raise ValueError(
            f"{file}: no such prompt file; prompts are named <name>.<{'|'.join(LANGUAGES)}>.md"
        )
    system, found, user = file.read_text(encoding="utf-8").partition("\n---\n")
    if not found:
        raise ValueError(
            f"{file}: expected a system turn, a line '---' and a user turn; '---' is missing"
        )
    return string.Template(system.strip()), string.Template(user.strip("\n"))


def fill(name: str, language: str, **values: str) -> Chat:
    """The chat turns of a prompt with every gap filled. ValueError names the file and the gap that
    was missed.
    """
    system, user = read_prompt(name, language)
    check_gaps(name, language, frozenset(values))
    return [
        {"role": "system", "content": system.substitute(values)},
        {"role": "user", "content": user.substitute(values)},
    ]


@cache
def check_gaps(name: str, language: str, offered: frozenset[str]) -> None:
    """Refuse a template whose gaps are not exactly what the stage offers."""
    file = prompt_file(name, language)
    asked: set[str] = set()
    for template in read_prompt(name, language):
        if not template.is_valid():
            raise ValueError(f"{file}: a '$' that begins no gap; write '$$' for a dollar sign")
        asked |= set(template.get_identifiers())
    if unknown := sorted(asked - offered):
        raise ValueError(
            f"{file}: nothing fills the gap ${unknown[0]}; this prompt may use {_list(offered)}"
        )
    if unused := sorted(offered - asked):
        raise ValueError(
            f"{file}: the gap ${unused[0]} is missing; this prompt must use {_list(offered)}"
        )


def check(name: str, *offered: str) -> None:
    """Refuse a prompt that lacks a language, or whose gaps are not exactly these."""
    for language in LANGUAGES:
        check_gaps(name, language, frozenset(offered))


def prompt_file(name: str, language: str) -> Path:
    """Where the prompt of that name and language lies."""
    return CONF / "prompts" / f"{name}.{language}.md"


def fingerprint(name: str) -> str:
    """A hash of the prompt's files, for the fingerprint of the step that uses it."""
    digest = hashlib.sha256()
    for language in LANGUAGES:
        file = prompt_file(name, language)
        if not file.is_file():
            raise ValueError(
                f"{file}: no such prompt file; every prompt has {' and '.join(LANGUAGES)} versions"
            )
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _list(names: frozenset[str]) -> str:
    return ", ".join(f"${name}" for name in sorted(names))
