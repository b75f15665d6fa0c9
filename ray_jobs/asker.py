"""One engine among a step's rows: the callable that Ray Data's actors run, and the shards it
writes.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future, as_completed
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ray_jobs.engines.seam import EngineConfig, EngineUnusable, Reply, Request
from ray_jobs.ledger import Ledger, LedgerConfig, ShardWriter
from ray_jobs.outcomes import NoAnswer, Quarantined, Unparsed
from ray_jobs.question import Columns, Question
from ray_jobs.tables import Folder, Row

if TYPE_CHECKING:
    from ray.actor import ActorHandle

ALONE_STARTS = 2
"""Actors that may die over a row alone before it is quarantined."""


class Attempts:
    """Counts, outside the engines' actors, which rows were being asked when an actor died."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()
        self._alone: Counter[str] = Counter()

    def begin(self, ids: list[str]) -> list[bool]:
        """Note that these rows are asked now; says of each whether an actor died over it before."""
        suspects = [self._open[row] > 0 for row in ids]
        self._open.update(ids)
        return suspects

    def begin_alone(self, row: str) -> int:
        """Note that a row is asked alone; returns how often an actor has died over it alone."""
        self._alone[row] += 1
        return self._alone[row] - 1

    def end(self, ids: list[str]) -> None:
        """These rows have their outcome."""
        for row in ids:
            self._open.pop(row, None)
            self._alone.pop(row, None)


class Asker:
    """One engine and the shards it writes: the callable that Ray Data's actors run, many blocks at
    once. An engine that may not go on is asked nothing more; what it has answered is written.
    """

    def __init__(
        self,
        engine: EngineConfig,
        question: Question,
        folder: Folder,
        ledger: LedgerConfig,
        seed: int,
        run: str,
        attempts: ActorHandle[Any],
    ) -> None:
        self._engine_name = engine.title
        self._question, self._seed, self._attempts = question, seed, attempts
        # After a death Ray sends the actor's blocks again, with rows in them that are already in a
        # shard.
        self._answered = (
            set(Ledger(folder, question.parent).answered().to_pylist())
            if _was_restarted()
            else set()
        )
        self._engine = engine.open()
        self._writer = ShardWriter(folder, run, question.schema, ledger)
        self._ready = time.time()
        self._one_at_a_time = threading.Lock()
        self._lock = threading.Lock()
        self._num_blocks = 0
        self._stopped = ""

    def __call__(self, block: pa.Table) -> pa.Table:
        """Ask about the rows of a block; returns a receipt. They are sealed at the latest when the
        actor falls idle. Where the engine may not go on, the receipt says so in `stopped`: to raise
        would end the pass, and with it the actors that still wait for answers.
        """
        import ray

        with self._lock:
            self._num_blocks += 1
        rows = [row for row in block.to_pylist() if row["id"] not in self._answered]
        ids = [row["id"] for row in rows]
        suspects: list[bool] = ray.get(self._attempts.begin.remote(ids)) if rows else []
        marked = list(zip(rows, suspects, strict=True))
        num_done = self._ask_together([row for row, suspect in marked if not suspect])
        num_done += sum(self._ask_alone(row) for row, suspect in marked if suspect)
        self._attempts.end.remote(ids)
        with self._lock:
            self._num_blocks -= 1
            last = self._num_blocks == 0
        if last:
            self._writer.seal()
        num_rows = len(block) - len(rows) + num_done
        counts = {"num_rows": num_rows, "num_asked": num_done, "engine_ready": self._ready}
        return pa.Table.from_pylist([{**counts, "stopped": self._stopped}])

    def _ask_together(self, rows: list[Row]) -> int:
        """Ask about all rows at once; each is written when its own answers are there, whatever the
        others do. Returns how many were written.
        """
        asked = [(row, self._submit(row)) for row in rows if not self._stopped]
        row_of = {future: number for number, (_, futures) in enumerate(asked) for future in futures}
        num_open = [len(futures) for _, futures in asked]
        num_done = 0
        for future in as_completed(row_of):
            number = row_of[future]
            num_open[number] -= 1
            if num_open[number] == 0:
                num_done += self._write(*asked[number])
        return num_done

    def _ask_alone(self, row: Row) -> int:
        import ray

        with self._one_at_a_time:
            if self._stopped:
                return 0
            num_deaths: int = ray.get([self._attempts.begin_alone.remote(row["id"])])[0]
            if num_deaths < ALONE_STARTS:
                futures = self._submit(row)
            else:
                killer: Future[Reply] = Future()
                why = f"an engine's actor died {ALONE_STARTS} times over it alone"
                killer.set_exception(Quarantined(why))
                futures = [killer] * self._question.num_answers
            num_done = self._write(row, futures)
        self._attempts.end.remote([row["id"]])
        return num_done

    def _write(self, row: Row, futures: list[Future[Reply]]) -> int:
        """Write what a row has become; returns 1, or 0 where the engine would not answer it."""
        try:
            children = self._children(row, futures)
        except EngineUnusable as error:
            self._stopped = self._stopped or str(error)
            return 0
        self._writer.add(children)
        return 1

    def _submit(self, row: Row) -> list[Future[Reply]]:
        question = self._question
        request = Request(
            chat=question.render(row),
            sampling=question.sampling,
            seed=0,
            constraint=question.constraint,
            stop=question.stop,
            perplexity=question.perplexity,
            purpose=question.name,
        )
        if question.shape:
            request = question.shape(row, request)
        seeds = [request_seed(self._seed, f"{row['id']}/{k}") for k in range(question.num_answers)]
        return [self._engine.submit(replace(request, seed=seed)) for seed in seeds]

    def _children(self, row: Row, futures: list[Future[Reply]]) -> list[Mapping[str, Any]]:
        children = self._question.children(row)
        if len(futures) == 1:
            return self._answer(row, children, futures[0])
        return [
            child
            for identity, future in zip(children, futures, strict=True)
            for child in self._answer(row, [identity], future)
        ]

    def _answer(
        self, row: Row, children: list[Columns], future: Future[Reply]
    ) -> list[Mapping[str, Any]]:
        """The child rows that one reply gives, or that lack it."""
        reply: Reply | None = None
        answers: list[Columns] = [{}] * len(children)
        outcome, reason = "done", None
        try:
            reply = future.result()
            answers = self._read(reply, row)
        except NoAnswer as no_answer:
            outcome, reason = no_answer.outcome, str(no_answer)
        except Exception as error:
            error.add_note(f"step {self._question.name}, row {row['id']}")
            raise
        said = {
            "raw": reply and reply.text,
            "prompt_tokens": reply and reply.prompt_tokens,
            "output_tokens": reply and reply.output_tokens,
            "finish_reason": reply and reply.finish_reason,
            "engine": self._engine_name,
            "outcome": outcome,
            "reason": reason,
        }
        found = [
            {**row, **child, **said, **answer}
            for child, answer in zip(children, answers, strict=True)
        ]
        carried = [row.keys() | child.keys() for child in children]
        return [
            fit(values, self._question.schema, known)
            for values, known in zip(found, carried, strict=True)
        ]

    def _read(self, reply: Reply, row: Row) -> list[Columns]:
        if self._question.read is not None:
            return [self._question.read(reply, row)]
        if self._question.parse is None:
            return [{"logprob_sum": reply.logprob_sum, "token_count": reply.token_count}]
        if reply.finish_reason == "length":
            raise Unparsed(f"cut at max_tokens {self._question.sampling.max_tokens}")
        columns = self._question.parse(reply.text, row)
        return columns if isinstance(columns, list) else [columns]


def fit(values: Mapping[str, Any], schema: pa.Schema, carried: set[str]) -> dict[str, Any]:
    """A row's values as the schema has them. Only a row without an answer may lack columns: they
    are null.
    """
    names = set(schema.names)
    foreign = values.keys() - names - carried
    assert not foreign, f"columns that the schema does not have: {sorted(foreign)}"
    if values["outcome"] == "done":
        return {name: values[name] for name in schema.names}
    return {name: values.get(name) for name in schema.names}


def request_seed(step_seed: int, child: str) -> int:
    """A request's own seed, so that an answer does not depend on what else is asked, or when."""
    return (
        int.from_bytes(hashlib.sha256(f"{step_seed}:{child}".encode()).digest()[:4], "big")
        & 0x7FFFFFFF
    )


def _was_restarted() -> bool:
    import ray

    return bool(ray.get_runtime_context().was_current_actor_reconstructed)
