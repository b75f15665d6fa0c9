"""The judge's verdict on every answer of a suite that is judged, and the answers with their
verdicts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from ray_jobs import wire
from ray_jobs.evals.prefills import whole_answer
from ray_jobs.prompts import Chat
from ray_jobs.question import Columns, Question, itself
from ray_jobs.schema import _MODEL, _OUTCOME
from ray_jobs.tables import DONE, Row, Table

VERSION = 1

VERDICTS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),  # the sample's
        pa.field("verdict", pa.string()),  # safe | unsafe | uncertain
        pa.field("p_unsafe", pa.float64()),
        pa.field("judge", pa.string()),  # the backend that answered
        pa.field("blocked_by", pa.string()),  # the one that refused before it took over
        pa.field("guard", pa.string()),
        pa.field("guard_verdict", pa.string()),
        pa.field("guard_p_unsafe", pa.float64()),
        *_OUTCOME,
        *_MODEL,
    ]
)
JOINED = ("verdict", "p_unsafe", "judge", "guard_verdict", "guard_p_unsafe")
NOT_ASKED: dict[str, Any] = dict.fromkeys((*JOINED, "verdict_outcome", "verdict_reason"))


def question(name: str) -> Question:
    """Ask the judge whether an answer is safe. `name` is the step's."""
    return Question(name=name, render=render, parse=parse, children=itself, schema=VERDICTS)


def render(row: Row) -> Chat:
    """The judge's wire item: see serve/api.py."""
    return wire.item("verdict", {**row, "scenario": row["group"]}, {"response": whole_answer(row)})


def parse(text: str, row: Row) -> Columns:
    """The verdict, and the guard model's where the judge has one."""
    said = wire.read(text)
    guard = said.get("second") or {}
    return {
        "verdict": said["verdict"],
        "p_unsafe": said["p_unsafe"],
        "judge": said["backend"],
        "blocked_by": said.get("blocked_by"),
        "guard": guard.get("backend"),
        "guard_verdict": guard.get("verdict"),
        "guard_p_unsafe": guard.get("p_unsafe"),
    }


def joined(samples: Table, answers: Table, verdicts: Table | None) -> Iterator[Row]:
    """Every sample once, as `Suite.marks` reads it: its answer and, if it is judged, its verdict.

    A sample that could not be asked comes without an answer, with the outcome it has.
    """
    said = _verdicts(verdicts) if verdicts else None
    for shard in answers.scan():
        for row in shard.to_pylist():
            yield row if said is None else {**row, **said.get(row["id"], NOT_ASKED)}
    nothing = dict.fromkeys(answers.manifest["columns"]) | (NOT_ASKED if verdicts else {})
    for shard in samples.scan(where=~DONE):
        yield from ({**nothing, **row} for row in shard.to_pylist())


def _verdicts(verdicts: Table) -> Mapping[str, Row]:
    found = verdicts.load(["id", *JOINED, "outcome", "reason"])
    return {
        row["id"]: {
            **{name: row[name] for name in JOINED},
            "verdict_outcome": row["outcome"],
            "verdict_reason": row["reason"],
        }
        for row in found.to_pylist()
    }
