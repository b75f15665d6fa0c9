"""ask(): the one place where a model meets a data set.

Ray Data carries blocks of rows to a pool of actors, each with one engine, and brings back receipts
only: it drops and replays outputs by index when an actor dies, so a row's truth is the shard that
the actor itself wrote. Many small blocks are in one actor at once, so that no row waits for the
slowest of its block.
"""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from ray_jobs.asker import Asker, Attempts
from ray_jobs.engines.kept import KEEPER
from ray_jobs.engines.seam import EngineConfig, EngineUnusable
from ray_jobs.ledger import Ledger, LedgerConfig
from ray_jobs.question import Columns, Question, itself  # noqa: F401
from ray_jobs.tables import DONE, Folder, Table, to_table, write_shards

BLOCK_ROWS = 16
MAX_IDLE_PASSES = 2

log = logging.getLogger(__name__)


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
    passes in a row without a new answer end the job, and so does an engine that cannot start or
    may not go on (EngineUnusable); what it has answered by then is in the ledger.
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
    shards = book.shards() or write_shards(folder, [to_table([], question.schema)])
    return shards, Asked(num_kept=num_kept, num_asked=pool.num_asked, wall_s=pool.wall_s)


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

        self._engine = KEEPER.keep(args[0])
        self._args = (self._engine, *args[1:], ray.remote(num_cpus=0)(Attempts).remote())
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
        started, stopped = math.inf, ""
        try:
            for receipt in dataset.iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=0
            ):
                started = min(started, *receipt["engine_ready"].to_pylist())
                self.num_asked += pc.sum(receipt["num_asked"]).as_py()
                progress(pc.sum(receipt["num_rows"]).as_py())
                stopped = stopped or max(receipt["stopped"].to_pylist())
        except RayError as error:
            self.last_error = str(error).strip().splitlines()[-1]
            if EngineUnusable.__name__ in str(error):
                raise EngineUnusable(_start_error(str(error))) from None
            if isinstance(error, RayTaskError):
                raise  # our own code is wrong, no process died: asking again would change nothing
            log.warning(
                "%d rows: a pass was cut short (%s); asking again what is missing",
                num_rows,
                self.last_error,
            )
        self.wall_s += max(0.0, time.time() - started)
        if stopped:
            raise EngineUnusable(stopped)

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
    line = next(line for line in reversed(text.splitlines()) if EngineUnusable.__name__ in line)
    return line.split(f"{EngineUnusable.__name__}: ", 1)[-1].strip()
