"""Files of multiple-choice examinations: MMLU, CMMLU and C-Eval as their publishers have them
(CSV), as hubs show them (columns), or as JSON lines. Every field is read as text: an option such as
`None` or `007` stays what it is.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

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
    try:
        rows = list(_csv(file) if file.suffix == ".csv" else _json_lines(file))
    except UnicodeDecodeError:
        raise ValueError(f"{file}: expected UTF-8 text") from None
    if not rows:
        raise ValueError(f"{file}: it holds no question")
    return rows


def _json_lines(file: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
        if not isinstance(row, dict):
            raise ValueError(f"{file}, line {number}: expected a JSON object; is it cut?")
        yield row


def _csv(file: Path) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8-sig", newline="") as stream:
        lines = [line for line in csv.reader(stream) if line]
    if lines and len(lines[0]) == MMLU_COLUMNS and lines[0][-1] in LETTERS:
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
                "answer": LETTERS.index(row["answer"]) if row["answer"] in LETTERS else -1,
            }
        yield row


def item(row: Mapping[str, Any], where: str) -> Item:
    """A row of any of the three as a question. ValueError names what is wrong with it."""
    question = row.get("question", row.get("Question"))
    answer = row.get("answer", row.get("Answer"))
    options = row.get("choices") or [row[letter] for letter in LETTERS if letter in row]
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"{where}: expected a question, found {question!r}")
    if not isinstance(options, list) or not 2 <= len(options) <= len(LETTERS):
        num = len(options) if isinstance(options, list) else 0
        raise ValueError(f"{where}: expected 2 to {len(LETTERS)} options, found {num}")
    number = LETTERS.find(answer) if isinstance(answer, str) and len(answer) == 1 else answer
    if not isinstance(number, int) or not 0 <= number < len(options):
        raise ValueError(
            f"{where}: expected the answer among {LETTERS[: len(options)]}, found {answer!r}"
        )
    return Item(question=question, options=tuple(map(str, options)), answer=number)
