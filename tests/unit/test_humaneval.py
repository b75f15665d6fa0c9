"""HumanEval's marks: kept a few programs at a time, so that a kill costs at most those."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from ray_jobs.evals.humaneval import HumanEval
from ray_jobs.evals.marks import PROGRAMS_A_SHARD, Answered, write_marks
from ray_jobs.evals.suite import ANSWERS, SAMPLES, Mark, Suite
from ray_jobs.tables import Folder, Row, Table

NUM = 2 * PROGRAMS_A_SHARD + 1


class Programs:
    """Notes which rows are marked, and ends the run at one of them."""

    def __init__(self, ends_at: int) -> None:
        self.run: list[int] = []
        self.ends_at = ends_at
        self._lock = threading.Lock()

    def __call__(self, row: Row) -> Iterator[Mark]:
        with self._lock:
            self.run.append(int(row["id"]))
        if int(row["id"]) == self.ends_at:
            raise KeyboardInterrupt
        yield Mark(measure="pass@1", score=1.0)


def answered(home: Path, programs: Programs) -> Answered:
    folder = Folder(str(home))
    for name, schema in (("samples", SAMPLES), ("answers", ANSWERS)):
        texts = dict.fromkeys(("cluster", "language", "prompt", "asked", "engine"), "x")
        blank = dict.fromkeys(schema.names) | texts | {"outcome": "done"}
        rows = [{**blank, "id": str(number)} for number in range(NUM)]
        columns = {key: [row[key] for row in rows] for key in schema.names}
        folder.write_shard(name, pa.table(columns, schema=schema))
    return Answered(
        suite=Suite(
            name="humaneval",
            protocol="",
            decides={},
            samples=list,
            marks=programs,
            runs_programs=True,
        ),
        model="base",
        samples=Table(folder, {"shards": ["samples"], "columns": SAMPLES.names}),
        answers=Table(folder, {"shards": ["answers"], "columns": ANSWERS.names}),
        verdicts=None,
    )


def test_after_a_kill_only_the_programs_of_unfinished_shards_are_run_again(tmp_path: Path) -> None:
    marks = Folder(str(tmp_path / "marks"))
    killed, again = Programs(ends_at=PROGRAMS_A_SHARD + 3), Programs(ends_at=-1)

    with pytest.raises(KeyboardInterrupt):
        write_marks(marks, [answered(tmp_path, killed)])
    shards = write_marks(marks, [answered(tmp_path, again)])

    assert sorted(again.run) == list(range(PROGRAMS_A_SHARD, NUM))
    found = [row["id"] for shard in shards for row in marks.read_shard(shard).to_pylist()]
    assert found == [str(number) for number in range(NUM)]


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="seconds > 0"):
        HumanEval(path="HumanEval.jsonl", seconds=0)
