"""ask(): the one place where a model meets a data set.

Ray Data carries blocks of rows to a pool of actors, each with one engine, and brings back receipts
only: it drops and replays outputs by index when an actor dies, so a row's truth is the shard that
the actor itself wrote. Many small blocks are in one actor at once, so that no row waits for the
slowest of its block.
"""

from __future__ import annotations

import hashlib
import logging
import math
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, as_completed
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from ray_jobs.engines.seam import (
    Constraint,
    EngineConfig,
    EngineStartError,
    Reply,
    Request,
    Sampling,
)
from ray_jobs.ledger import Ledger, LedgerConfig, ShardWriter
from ray_jobs.outcomes import NoAnswer, Quarantined, Unparsed
from ray_jobs.prompts import Chat
from ray_jobs.tables import DONE, Folder, Row, Table

if TYPE_CHECKING:
    from ray.actor import ActorHandle

BLOCK_ROWS = 16
MAX_IDLE_PASSES = 2
ALONE_STARTS = 2
Columns = Mapping[str, Any]

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of each row, and what becomes of the answers."""

    name: str
    """The step's."""
    render: Callable[[Row], Chat]
    parse: Callable[[str, Row], Columns | list[Columns]] | None = None
    """Columns of the row's child, or of all its children in order. Absent for perplexity."""
    children: Callable[[Row], list[Columns]]
    """The columns that name each child row: `id`, and `parent` where it differs."""
    schema: pa.Schema
    parent: str = "id"
    """The column of a child that names the row that was asked."""
    num_answers: int = 1
    """With more than one, answer k is child k."""
    sampling: Sampling = field(default_factory=Sampling)
    constraint: Constraint | None = None
    perplexity: bool = False


def itself(row: Row) -> list[Columns]:
    """The children of a row that becomes one row with the same id."""
    return [{"id": row["id"]}]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What one call of ask() did."""

    num_kept: int
    """Rows that an earlier run had answered."""
    num_asked: int
    """Rows asked now, counting a row again each time it was asked again."""
    wall_s: float
    """From the first engine that was ready to the last answer: starting engines is not in it."""


def ask(
    table: Table,
    engine: EngineConfig,
    question: Question,
    *,
    folder: Folder,
    ledger: LedgerConfig,
    seed: int,
    where: pads.Expression = DONE,
) -> tuple[list[str], Asked]:
    """Ask `engine` about every row of `table` that fits `where`; returns the shards written.

    Rows that the folder's ledger holds are left out. Passes go on until no row is missing; two
    passes in a row without a new answer end the job, and so does an engine that cannot start
    (EngineStartError).
    """
    book = Ledger(folder, question.parent)
    ids = table.load(["id"], where)["id"].combine_chunks()
    num_kept = len(pc.unique(book.answered()))
    pool = _Pool(engine, question, folder, ledger, seed, book.run)
    idle, missing = 0, len(ids) - num_kept
    with _progress(question.name, len(ids), num_kept) as bar:
        while missing:
            pool.run(_blocks(table, where, pc.unique(book.answered())), missing, bar.update)
            left = len(ids) - len(pc.unique(book.answered()))
            idle = idle + 1 if left == missing else 0
            if idle == MAX_IDLE_PASSES:
                why = f"{left} rows got no answer in {idle} passes: {pool.last_error}"
                raise RuntimeError(f"{question.name}: {why}")
            missing = left
    book.check(ids)
    return book.shards(), Asked(num_kept=num_kept, num_asked=pool.num_asked, wall_s=pool.wall_s)


def _progress(name: str, total: int, initial: int) -> Any:
    from tqdm import tqdm

    return tqdm(
        total=total,
        initial=initial,
        desc=f"{name:>16}",
        unit="row",
        mininterval=1.0,
        dynamic_ncols=True,
    )


def _blocks(table: Table, where: pads.Expression, answered: pa.Array) -> Iterator[pa.Table]:
    """The rows that are missing, in small blocks; within a shard the longest first, so that the
    tail is short rows.
    """
    for shard in table.scan(where=where):
        rows = shard.filter(pc.invert(pc.is_in(shard["id"], value_set=answered)))
        if "prompt" in rows.schema.names:
            rows = rows.take(
                pc.sort_indices(pc.utf8_length(rows["prompt"]), sort_keys=[("", "descending")])
            )
        for start in range(0, len(rows), BLOCK_ROWS):
            yield rows.slice(start, BLOCK_ROWS).combine_chunks()


class _Pool:
    """Passes of Ray Data over an actor pool, and what they added up to."""

    def __init__(self, *args: Any) -> None:
        import ray

        self._engine: EngineConfig = args[0]
        self._args = (*args, ray.remote(num_cpus=0)(Attempts).remote())
        self.num_asked = 0
        self.wall_s = 0.0
        self.last_error = "the engine's actors died"

    def run(
        self, blocks: Iterator[pa.Table], num_rows: int, progress: Callable[[int], Any]
    ) -> None:
        """One pass over the blocks. A pass that Ray gives up on is logged: what it answered is in
        the ledger.
        """
        import ray
        from ray.exceptions import RayError, RayTaskError

        refs = [ray.put(block) for block in blocks]
        dataset = self._mapped(refs)
        started = math.inf
        try:
            for receipt in dataset.iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=0
            ):
                started = min(started, *receipt["engine_ready"].to_pylist())
                self.num_asked += pc.sum(receipt["num_asked"]).as_py()
                progress(pc.sum(receipt["num_rows"]).as_py())
        except RayError as error:
            self.last_error = str(error).strip().splitlines()[-1]
            if EngineStartError.__name__ in str(error):
                raise EngineStartError(_start_error(str(error))) from None
            if isinstance(error, RayTaskError):
                raise  # our own code is wrong, no process died: asking again would change nothing
            log.warning(
                "%d rows: a pass was cut short (%s); asking again what is missing",
                num_rows,
                self.last_error,
            )
        self.wall_s += max(0.0, time.time() - started)

    def _mapped(self, refs: list[Any]) -> Any:
        import ray

        placement = self._engine.placement
        with warnings.catch_warnings():
            # Ray 2.60 warns of max_restarts and max_task_retries, but has no other way to give
            # them yet. Its default is to restart for ever, and a row that kills its engine would
            # loop with it.
            warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
            return ray.data.from_arrow_refs(refs).map_batches(
                Asker,
                batch_size=None,
                batch_format="pyarrow",
                zero_copy_batch=True,
                compute=self._pool_strategy(len(refs)),
                fn_constructor_args=self._args,
                num_cpus=placement.cpus,
                num_gpus=placement.gpus,
                max_restarts=placement.max_restarts,
                max_task_retries=placement.max_restarts,
            )

    def _pool_strategy(self, num_blocks: int) -> Any:
        import ray

        placement = self._engine.placement
        calls = max(1, math.ceil(self._engine.in_flight / BLOCK_ROWS))
        return ray.data.ActorPoolStrategy(
            min_size=min(placement.min_actors, num_blocks),
            max_size=min(placement.max_actors, num_blocks),
            max_concurrent_calls_per_actor=calls,
            max_tasks_in_flight_per_actor=calls
            + 2,  # the next blocks wait in the actor, not on the way to it
            enable_true_multi_threading=True,
        )


def _start_error(text: str) -> str:
    line = next(line for line in reversed(text.splitlines()) if EngineStartError.__name__ in line)
    return line.split(f"{EngineStartError.__name__}: ", 1)[-1].strip()


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
    once.
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

    def __call__(self, block: pa.Table) -> pa.Table:
        """Ask about the rows of a block; returns a receipt. They are sealed at the latest when the
        actor falls idle.
        """
        import ray

        with self._lock:
            self._num_blocks += 1
        rows = [row for row in block.to_pylist() if row["id"] not in self._answered]
        ids = [row["id"] for row in rows]
        suspects: list[bool] = ray.get(self._attempts.begin.remote(ids)) if rows else []
        self._ask_together(
            [row for row, suspect in zip(rows, suspects, strict=True) if not suspect]
        )
        for row in (row for row, suspect in zip(rows, suspects, strict=True) if suspect):
            self._ask_alone(row)
        self._attempts.end.remote(ids)
        with self._lock:
            self._num_blocks -= 1
            last = self._num_blocks == 0
        if last:
            self._writer.seal()
        return pa.table(
            {"num_rows": [len(block)], "num_asked": [len(rows)], "engine_ready": [self._ready]}
        )

    def _ask_together(self, rows: list[Row]) -> None:
        """Ask about all rows at once; each is written when its own answers are there, whatever the
        others do.
        """
        asked = [(row, self._submit(row)) for row in rows]
        row_of = {future: number for number, (_, futures) in enumerate(asked) for future in futures}
        num_open = [len(futures) for _, futures in asked]
        for future in as_completed(row_of):
            number = row_of[future]
            num_open[number] -= 1
            if num_open[number] == 0:
                self._writer.add(self._children(*asked[number]))

    def _ask_alone(self, row: Row) -> None:
        import ray

        with self._one_at_a_time:
            num_deaths: int = ray.get([self._attempts.begin_alone.remote(row["id"])])[0]
            if num_deaths < ALONE_STARTS:
                futures = self._submit(row)
            else:
                killer: Future[Reply] = Future()
                killer.set_exception(
                    Quarantined(f"an engine's actor died {ALONE_STARTS} times over it alone")
                )
                futures = [killer] * self._question.num_answers
            self._writer.add(self._children(row, futures))
        self._attempts.end.remote([row["id"]])

    def _submit(self, row: Row) -> list[Future[Reply]]:
        question = self._question
        chat = question.render(row)
        return [
            self._engine.submit(
                Request(
                    chat=chat,
                    sampling=question.sampling,
                    seed=request_seed(self._seed, f"{row['id']}/{k}"),
                    constraint=question.constraint,
                    perplexity=question.perplexity,
                )
            )
            for k in range(question.num_answers)
        ]

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
        return [
            fit(
                {**row, **child, **answer, **said},
                self._question.schema,
                row.keys() | child.keys(),
                outcome,
            )
            for child, answer in zip(children, answers, strict=True)
        ]

    def _read(self, reply: Reply, row: Row) -> list[Columns]:
        if self._question.parse is None:
            return [{"logprob_sum": reply.logprob_sum, "token_count": reply.token_count}]
        if reply.finish_reason == "length":
            raise Unparsed(f"cut at max_tokens {self._question.sampling.max_tokens}")
        columns = self._question.parse(reply.text, row)
        return columns if isinstance(columns, list) else [columns]


def fit(
    values: Mapping[str, Any], schema: pa.Schema, carried: set[str], outcome: str
) -> dict[str, Any]:
    """A row's values as the schema has them. Only a row without an answer may lack columns: they
    are null.
    """
    names = set(schema.names)
    foreign = values.keys() - names - carried
    assert not foreign, f"columns that the schema does not have: {sorted(foreign)}"
    if outcome == "done":
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
