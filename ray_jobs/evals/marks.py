"""Marks every answer, and keeps the marks of all suites and models in one table: the per-sample
store that all figures come from.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from ray_jobs.evals.human import SAFE
from ray_jobs.evals.judged import joined
from ray_jobs.evals.labels import REPLIES
from ray_jobs.evals.queue import NEED_CHECK
from ray_jobs.evals.suite import MARKS, Mark, Suite
from ray_jobs.tables import Folder, Row, Table, to_table

VERSION = 1

STORED = pa.schema(
    [
        *MARKS,
        # Of a mark that a person may change: the score that each label would make of it, as JSON.
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
    """Mark all answers, a shard for each suite and model; returns the shards. Those that an earlier
    run has finished are kept, since some answers are programs that take their time to run.
    """
    shards = [f"{one.suite.name}-{one.model}.parquet" for one in every]
    there = set(home.names())
    for shard, one in zip(shards, every, strict=True):
        if shard not in there:
            for name, data in _files(one).items():
                home.write(f"{one.suite.name}-{one.model}-{name}", data)
            home.write_shard(shard, to_table([*marked(one)], STORED))
    return shards


def _files(one: Answered) -> Mapping[str, bytes]:
    """What a platform wants handed in; it lies beside the marks."""
    if one.suite.files is None:
        return {}
    return one.suite.files(row for shard in one.answers.scan() for row in shard.to_pylist())


def marked(one: Answered) -> Iterator[Row]:
    """The rows of STORED that a suite makes of a model's answers."""
    for row in joined(one.samples, one.answers, one.verdicts):
        found = list(one.suite.marks(row))
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
    return mark.outcome == "undecided" or mark.said == NEED_CHECK


def _if_labelled(suite: Suite, row: Row) -> dict[str, dict[str, float]]:
    """Scores by measure, for each label that a person may give."""
    labels = SAFE if suite.is_judged else REPLIES
    return {label: _scores(suite.marks(as_labelled(row, label))) for label in labels}


def as_labelled(row: Row, label: str) -> Row:
    """A row with what a person says: as if the judge had said it, and in a column `label`."""
    said = {"verdict": label, "verdict_outcome": "done", "verdict_reason": None}
    return {**row, **said, "label": label}


def _scores(marks: Iterator[Mark]) -> dict[str, float]:
    return {mark.measure: mark.score for mark in marks if mark.score is not None}
