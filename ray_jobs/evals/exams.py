"""Files of multiple-choice examinations: MMLU, CMMLU and C-Eval as their publishers have them
(CSV), as hubs show them (columns), or as JSON lines. Every field is read as text: an option such as
`None` or `007` stays what it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ray_jobs import formats
from ray_jobs.files import suffix
from ray_jobs.prompts import CONF

LETTERS = "ABCD"
SUBJECTS = CONF / "evals" / "subjects.yaml"
MMLU_COLUMNS = 6
"""Its CSV files have no header: the question, four options, the letter."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One question."""

    question: str
    options: tuple[str, ...]
    answer: int
    """The right option's number, from 0."""

    @property
    def letter(self) -> str:
        """The right option's letter."""
        return LETTERS[self.answer]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What an examination calls a subject, and where it counts it."""

    name: str
    category: str


@cache
def subjects(exam: str) -> dict[str, Subject]:
    """The subjects of mmlu, cmmlu or ceval, in the file's order."""
    found = yaml.safe_load(SUBJECTS.read_text(encoding="utf-8"))[exam]
    return {
        key: Subject(name=name, category=category)
        for category, names in found.items()
        for key, name in names.items()
    }


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines or CSV file. ValueError, one line, where it is absent, cut or
    empty. A CSV of six columns without a header (MMLU's) gets the columns question, choices,
    answer.
    """
    if not file.is_file():
        raise ValueError(f"{file}: there is no such file")
    is_csv = suffix(str(file)) == ".csv"
    rows = [dict(row) for row in (_csv(file) if is_csv else formats.rows(str(file), {}))]
    if not rows:
        raise ValueError(f"{file}: it holds no question")
    return rows


def _csv(file: Path) -> Iterator[dict[str, Any]]:
    lines = [found for _, found in formats.cells(str(file))]
    if lines and len(lines[0]) == MMLU_COLUMNS and _place(lines[0][-1]) >= 0:
        header = ["question", *LETTERS, "answer"]
    else:
        header, lines = (lines[0], lines[1:]) if lines else ([], [])
    for number, line in enumerate(lines, 1):
        if len(line) != len(header):
            raise ValueError(
                f"{file}, row {number}: {len(line)} columns, expected {len(header)}; is it cut?"
            )
        row: dict[str, Any] = dict(zip(header, line, strict=True))
        if header[0] == "question" and len(header) == MMLU_COLUMNS:
            row = {
                "question": row["question"],
                "choices": [row[letter] for letter in LETTERS],
                "answer": _place(row["answer"]),
            }
        yield row


def item(row: formats.Row, where: str) -> Item:
    """A row of any of the three as a question. ValueError names what is wrong with it."""
    question = formats.text(row, "question" if "question" in row else "Question", where)
    answer = row.get("answer", row.get("Answer"))
    options = row.get("choices") or [row[letter] for letter in LETTERS if letter in row]
    if not isinstance(options, list) or not 2 <= len(options) <= len(LETTERS):
        num = len(options) if isinstance(options, list) else 0
        raise ValueError(f"{where}: expected 2 to {len(LETTERS)} options, found {num}")
    number = _place(answer) if isinstance(answer, str) else answer
    if type(number) is not int or not 0 <= number < len(options):
        raise ValueError(
            f"{where}: expected the answer among {LETTERS[: len(options)]}, found {answer!r:.40}"
        )
    return Item(
        question=question, options=tuple(_option(one, where) for one in options), answer=number
    )


def _place(letter: str) -> int:
    """A letter's option, from 0; -1 where it is none."""
    return LETTERS.find(letter) if len(letter) == 1 else -1


def _option(value: object, where: str) -> str:
    # A hub's reader takes a column of 1, 2, 3 for numbers.
    told = str(value) if type(value) in (int, float) else value
    return formats.as_text(told, f"{where}: options", may_be_blank=True)
