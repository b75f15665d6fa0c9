"""ask() on a real local Ray: every row once, whatever dies."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest
from ray import cloudpickle
from ray.exceptions import RayTaskError

from ray_jobs.asking import ask
from ray_jobs.engines.seam import EngineUnusable, Placement, Reply, Request
from ray_jobs.ledger import LedgerConfig
from ray_jobs.outcomes import Blocked, Failed, Refused, Unparsed
from ray_jobs.question import Question, itself
from ray_jobs.schema import ANSWERED
from ray_jobs.tables import Folder, Table, write_shards

# The engine below is this file's own, so Ray's workers get its code with it.
cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = pytest.mark.usefixtures("ray_session")

SCHEMA = pa.schema([item for item in ANSWERED if item.name not in ("prompt_id", "analysis")])


@dataclass(frozen=True, kw_only=True)
class Obedient:
    """An engine that does what the prompt says: answer, refuse, or kill its own process."""

    log: str
    delay_s: float = 0.0
    placement: Placement = field(default_factory=lambda: Placement(cpus=0.1))
    title: str = "test:obedient"
    in_flight: int = 32

    def open(self) -> Obedient:
        return self

    def submit(self, request: Request) -> Future[Reply]:
        return _threads().submit(self._answer, request)

    def _answer(self, request: Request) -> Reply:
        prompt = request.chat[0]["content"]
        with Path(self.log).open("a") as log:
            log.write(f"{prompt}\n")
        time.sleep(self.delay_s)
        word = prompt.split()[0]
        if word == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if word == "die-once" and prompt_count(self.log, prompt) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        for name, error in (("refused", Refused), ("blocked", Blocked), ("failed", Failed)):
            if word == name:
                raise error(f"{name}, it said")
        finish = "length" if word == "long" else "stop"
        return Reply(text=prompt, prompt_tokens=1, output_tokens=2, finish_reason=finish)


@dataclass(frozen=True, kw_only=True)
class Unstartable(Obedient):
    """One that says why."""

    outlives_a_step: bool

    def open(self) -> Unstartable:
        raise EngineUnusable("engine x: there is no model")


@dataclass(frozen=True, kw_only=True)
class Lasting(Obedient):
    """One that is kept for the next step; it notes the process it was opened in."""

    opened: str
    outlives_a_step: bool = True

    def open(self) -> Lasting:
        with Path(self.opened).open("a") as opened:
            opened.write(f"{os.getpid()}\n")
        return self


KINDS = pytest.mark.parametrize("outlives_a_step", [False, True])


def engine_of(tmp_path: Path, outlives_a_step: bool, delay_s: float = 0.0) -> Obedient:
    log = str(tmp_path / "log")
    if outlives_a_step:
        return Lasting(log=log, delay_s=delay_s, opened=str(tmp_path / "opened"))
    return Obedient(log=log, delay_s=delay_s)


def _threads(held: list[ThreadPoolExecutor] = []) -> ThreadPoolExecutor:  # noqa: B006  one a process
    if not held:
        held.append(ThreadPoolExecutor(32))
    return held[0]


def prompt_count(log: str, prompt: str) -> int:
    return Path(log).read_text().splitlines().count(prompt)


def parse(text: str, row: dict[str, Any]) -> dict[str, Any]:
    if text.startswith("nonsense"):
        raise Unparsed("not an answer")
    return {"answer": text}


def question() -> Question:
    return Question(
        name="answered",
        render=lambda row: [{"role": "user", "content": row["prompt"]}],
        parse=parse,
        children=itself,
        schema=SCHEMA,
    )


def table_of(tmp_path: Path, prompts: list[str]) -> Table:
    rows = [{"id": f"{k:04d}", "prompt": text, "outcome": "done"} for k, text in enumerate(prompts)]
    folder = Folder(str(tmp_path / "prompts"))
    return Table(folder, {"shards": write_shards(folder, [pa.Table.from_pylist(rows)])})


def run(
    tmp_path: Path, prompts: list[str], engine: Obedient, shard_rows: int = 20
) -> tuple[list[dict[str, Any]], Any]:
    out = Folder(str(tmp_path / "answers"))
    ledger = LedgerConfig(shard_rows=shard_rows, shard_s=1)
    shards, asked = ask(
        table_of(tmp_path, prompts), engine, question(), folder=out, ledger=ledger, seed=1
    )
    return Table(out, {"shards": shards}).load().to_pylist(), asked


def test_every_row_gets_the_outcome_that_its_answer_earns(tmp_path: Path) -> None:
    words = ["fine", "nonsense", "refused", "blocked", "failed", "long"]
    rows, _ = run(
        tmp_path,
        [f"{word} {k}" for k in range(30) for word in words],
        Obedient(log=str(tmp_path / "log")),
    )
    found = Counter((row["outcome"], row["reason"]) for row in rows)
    assert found == {
        ("done", None): 30,
        ("unparsed", "not an answer"): 30,
        ("dropped", "refused, it said"): 30,
        ("blocked", "blocked, it said"): 30,
        ("failed", "failed, it said"): 30,
        ("unparsed", "cut at max_tokens 256"): 30,
    }
    by_id = {row["id"]: row for row in rows}
    assert len(by_id) == 180
    assert by_id["0001"]["raw"] == "nonsense 0"  # what could not be read is kept
    assert by_id["0001"]["answer"] is None
    assert by_id["0004"]["raw"] is None


def test_the_next_run_asks_exactly_the_failed_rows_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    prompts = [f"{'failed' if k % 10 == 0 else 'fine'} {k}" for k in range(100)]
    run(tmp_path, prompts, Obedient(log=str(log)))
    log.unlink()
    rows, asked = run(tmp_path, prompts, Obedient(log=str(log)))
    assert sorted(log.read_text().splitlines()) == sorted(
        text for text in prompts if text.startswith("failed")
    )
    assert (asked.num_kept, asked.num_asked) == (90, 10)
    assert Counter(row["outcome"] for row in rows) == {"done": 90, "failed": 10}


@KINDS
def test_an_engine_killed_once_loses_no_row_and_redoes_only_what_was_in_flight_or_unsealed(
    tmp_path: Path, outlives_a_step: bool
) -> None:
    log = tmp_path / "log"
    prompts = [f"fine {k}" for k in range(300)]
    prompts[150] = "die-once 150"
    rows, _ = run(tmp_path, prompts, engine_of(tmp_path, outlives_a_step, delay_s=0.02))
    redone = len(log.read_text().splitlines()) - len(prompts)
    print(f"{redone} rows redone")
    assert sorted(row["id"] for row in rows) == [f"{k:04d}" for k in range(300)]
    assert all(row["outcome"] == "done" for row in rows)
    assert redone <= 32 + 20  # in flight, and in the shard that was not yet sealed


@KINDS
def test_a_row_that_kills_its_engine_is_quarantined_and_its_neighbours_are_not(
    tmp_path: Path, outlives_a_step: bool
) -> None:
    prompts = [f"fine {k}" for k in range(200)]
    prompts[70] = "die 70"
    rows, _ = run(tmp_path, prompts, engine_of(tmp_path, outlives_a_step))
    bad = [row for row in rows if row["outcome"] != "done"]
    assert [(row["id"], row["outcome"]) for row in bad] == [("0070", "quarantined")]
    assert len(rows) == 200


def test_steps_that_name_one_engine_share_it_and_another_engine_ends_it(tmp_path: Path) -> None:
    words = ["fine", "refused", "blocked", "failed", "nonsense"]
    prompts = [f"{word} {k}" for k in range(10) for word in words]
    engine = engine_of(tmp_path, outlives_a_step=True)
    for step in ("first", "second"):
        (tmp_path / step).mkdir()
        rows, _ = run(tmp_path / step, prompts, engine)
        assert Counter(row["outcome"] for row in rows) == {
            "done": 10, "dropped": 10, "blocked": 10, "failed": 10, "unparsed": 10
        }  # fmt: skip
        assert {row["reason"] for row in rows if row["outcome"] == "dropped"} == {
            "refused, it said"
        }
    [kept] = pids(engine)
    assert psutil.pid_exists(kept)
    (tmp_path / "third").mkdir()
    other = replace(engine, delay_s=0.01)
    run(tmp_path / "third", prompts, other)
    assert pids(other)[0] == kept
    assert len(pids(other)) == 2
    _, alive = psutil.wait_procs([psutil.Process(kept)] if psutil.pid_exists(kept) else [], 10)
    assert not alive


def pids(engine: Obedient) -> list[int]:
    """The processes that a lasting engine was opened in."""
    assert isinstance(engine, Lasting)
    return [int(line) for line in Path(engine.opened).read_text().splitlines()]


@KINDS
def test_an_engine_that_cannot_start_ends_the_job_with_its_own_words(
    tmp_path: Path, outlives_a_step: bool
) -> None:
    engine = Unstartable(log="", outlives_a_step=outlives_a_step)
    with pytest.raises(EngineUnusable, match=r"^engine x: there is no model$"):
        run(tmp_path, ["fine 1"], engine)


def test_a_column_that_the_parser_forgot_ends_the_job_at_once(tmp_path: Path) -> None:
    broken = question().__class__(**{**question().__dict__, "parse": lambda text, row: {}})
    with pytest.raises(RayTaskError, match=r"KeyError: 'answer'"):
        ask(
            table_of(tmp_path, ["fine 1"]),
            Obedient(log=str(tmp_path / "log")),
            broken,
            folder=Folder(str(tmp_path / "answers")),
            ledger=LedgerConfig(),
            seed=1,
        )
