"""Marks every answer, and keeps the marks of all suites and models in one table: the per-sample
store that all figures come from.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa

from ray_jobs.evals.human import SAFE
from ray_jobs.evals.judged import joined
from ray_jobs.evals.labels import OPEN, REPLIES
from ray_jobs.evals.queue import NEED_CHECK
from ray_jobs.evals.suite import MARKS, Mark, Suite
from ray_jobs.tables import Folder, Row, Table, to_table

VERSION = 2

PROGRAMS_A_SHARD = 20

STORED = pa.schema(
    [
        *MARKS,
        # Of a mark that a person may change: what each label would make of it, as JSON: its score,
        # or the outcome of one that has none, such as dropped.
        pa.field("if_labelled", pa.string()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One suite put to one model."""

    suite: Suite
    model: str
    samples: Table
    answers: Table
    verdicts: Table | None


def write_marks(home: Folder, every: Sequence[Answered]) -> list[str]:
    """Mark all answers; returns the shards. Those that an earlier run has finished are kept, since
    some answers are programs that take their time to run.
    """
    names = []
    there = set(home.names())
    for one in every:
        for name, rows in _shards(one):
            names.append(name)
            if name not in there:
                for file, data in _files(one).items():
                    home.write(f"{one.suite.name}-{one.model}-{file}", data)
                home.write_shard(name, to_table([*marked(one, rows)], STORED))
    return names


def _shards(one: Answered) -> Iterator[tuple[str, Iterable[Row]]]:
    """The shards of a suite and model, by name: one, or a few programs each."""
    name = f"{one.suite.name}-{one.model}"
    rows = joined(one.samples, one.answers, one.verdicts)
    if not one.suite.runs_programs:
        yield f"{name}.parquet", rows
        return
    for number, some in enumerate(iter(lambda: [*islice(rows, PROGRAMS_A_SHARD)], [])):
        yield f"{name}-{number:05d}.parquet", some


def _files(one: Answered) -> Mapping[str, bytes]:
    """What a platform wants handed in; it lies beside the marks."""
    if one.suite.files is None:
        return {}
    return one.suite.files(row for shard in one.answers.scan() for row in shard.to_pylist())


def _marks(suite: Suite, rows: Iterable[Row]) -> Iterator[tuple[Row, list[Mark]]]:
    """Every row with its marks; programs are run on all cores but one."""
    if not suite.runs_programs:
        yield from ((row, list(suite.marks(row))) for row in rows)
        return
    given = list(rows)
    with ThreadPoolExecutor(max(1, len(os.sched_getaffinity(0)) - 1)) as pool:
        yield from zip(given, pool.map(lambda row: list(suite.marks(row)), given), strict=True)


def marked(one: Answered, rows: Iterable[Row]) -> Iterator[Row]:
    """The rows of STORED that a suite makes of a model's answers."""
    for row, found in _marks(one.suite, rows):
        if_labelled = _if_labelled(one.suite, row) if any(map(_is_open, found)) else {}
        for mark in found:
            scores = {
                label: scored[mark.measure]
                for label, scored in if_labelled.items()
                if mark.measure in scored
            }
            yield {
                "model": one.model,
                "suite": one.suite.name,
                "measure": mark.measure,
                **{name: row[name] for name in ("id", "group", "cluster")},
                **{name: getattr(mark, name) for name in ("score", "said", "outcome", "reason")},
                "if_labelled": json.dumps(scores) if scores and _is_open(mark) else None,
            }


def _is_open(mark: Mark) -> bool:
    """Whether it waits for a person: also where a parser's failure counts as wrong until then."""
    return mark.outcome in OPEN or mark.said == NEED_CHECK


def _if_labelled(suite: Suite, row: Row) -> dict[str, dict[str, float | str]]:
    """Scores, or outcomes without one, by measure, for each label that a person may give."""
    labels = SAFE if suite.is_judged else REPLIES
    return {label: _settled(suite.marks(as_labelled(row, label))) for label in labels}


def as_labelled(row: Row, label: str) -> Row:
    """A row with what a person says: as if the judge had said it, and in a column `label`."""
    said = {"verdict": label, "verdict_outcome": "done", "verdict_reason": None}
    return {**row, **said, "label": label}


def _settled(marks: Iterator[Mark]) -> dict[str, float | str]:
    return {
        mark.measure: mark.outcome if mark.score is None else mark.score
        for mark in marks
        if not _is_open(mark)
    }
