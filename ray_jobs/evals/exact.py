"""Questions of one's own that have one exact answer: general skill that no public set asks for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ray_jobs import formats
from ray_jobs.engines.seam import Sampling
from ray_jobs.evals.suite import Mark, Suite, chat, content_of
from ray_jobs.prompts import LANGUAGES
from ray_jobs.tables import Row

VERSION = 1
MEASURE = "exact_match"
NAME = re.compile(r"[\w-]+", re.ASCII)
ENDS = " \t\n.。!！"


@dataclass(frozen=True, kw_only=True)
class Exact:
    """Files of questions with exact answers."""

    sets: dict[str, str] = field(default_factory=dict)
    """Files by the names that their figures bear: .jsonl, .json, .csv or .parquet with prompt and
    answer, and language and group where they are known.
    """
    max_tokens: int = 64
    """Of an answer."""

    def __post_init__(self) -> None:
        for name in self.sets:
            if not NAME.fullmatch(name):
                raise ValueError(f"sets.{name}: expected a name of letters, digits, - and _")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens: expected at least 1, found {self.max_tokens}")


def suites(cfg: Exact) -> list[Suite]:
    """A suite for each file."""
    return [_suite(name, Path(path), cfg.max_tokens) for name, path in cfg.sets.items()]


def _suite(name: str, file: Path, max_tokens: int) -> Suite:
    return Suite(
        name=f"exact-{name}",
        protocol=(
            f"zero-shot, chat template, greedy, {max_tokens} tokens; the whole answer is the right "
            "one, but for spaces and a full stop at its ends"
        ),
        decides={
            "version": VERSION,
            "file": content_of(file),
        },
        samples=partial(samples, file),
        marks=marks,
        sampling=Sampling(max_tokens=max_tokens),
    )


def samples(file: Path) -> Iterator[Row]:
    """The rows of SAMPLES. ValueError, one line, where the file is missing or a row is wrong."""
    wanted = dict.fromkeys(("prompt", "answer"), "give another file")
    number = 0
    for number, row in enumerate(formats.rows(str(file), wanted, ["language", "group"]), 1):
        where = f"{file} row {number}"
        prompt, answer = (formats.text(row, name, where) for name in wanted)
        yield {
            "id": str(number),
            "group": formats.text_or_none(row, "group", where),
            "cluster": str(number),
            "language": formats.one_of(row, "language", where, LANGUAGES, "zh"),
            "prompt": prompt,
            "asked": chat(("user", prompt)),
            "options": None,
            "gold": answer,
            "about": None,
            "outcome": "done",
            "reason": None,
        }
    if not number:
        raise ValueError(f"{file}: it holds no question")


def marks(row: Row) -> Iterator[Mark]:
    """Whether the answer is the right one."""
    if row["outcome"] != "done":
        yield Mark(measure=MEASURE, score=None, outcome=row["outcome"], reason=row["reason"])
        return
    is_right = row["answer"].strip(ENDS) == row["gold"].strip(ENDS)
    yield Mark(measure=MEASURE, score=float(is_right))
