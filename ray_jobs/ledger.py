"""The ledger of a step: the shards already written, and the writer that adds to them.

A row counts as answered once its shard has its final name. Shards of rows that failed are kept
apart, and the next run removes them and asks those rows again.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ray_jobs.tables import Folder, to_table

PART, FAILED = "part-", "failed-"


@dataclass(frozen=True, kw_only=True)
class LedgerConfig:
    """How often answered rows are made safe, and how many may fail."""

    shard_rows: int = field(default=1024, metadata={"decides_rows": False})
    """Rows after which a shard is closed. A crash costs at most these, and what is in flight."""
    shard_s: float = field(default=30.0, metadata={"decides_rows": False})
    """Seconds after which a shard is closed."""
    max_failed: int = field(default=0, metadata={"decides_rows": False})
    """Failed rows that a step may end with. Above it the job fails and the same command retries
    them.
    """

    def __post_init__(self) -> None:
        if self.shard_rows < 1 or not self.shard_s > 0 or self.max_failed < 0:
            raise ValueError("ledger: expected shard_rows ≥ 1, shard_s > 0 and max_failed ≥ 0")


class Ledger:
    """What one step has answered so far, as one run sees it."""

    def __init__(self, folder: Folder, parent: str) -> None:
        self.folder = folder
        self.parent = parent
        """The column that names the row that was asked."""
        self.run = uuid.uuid4().hex[:8]
        for name in folder.names():
            if name.startswith(FAILED):
                folder.remove(name)
        # A run that was killed may still have an engine alive that writes one more shard: it is
        # not in this list, nor does it bear this run's name, so it is left out.
        self._earlier = [name for name in folder.names() if name.endswith(".parquet")]

    def shards(self) -> list[str]:
        """The shards of earlier runs that this one found, and its own."""
        return [
            name for name in self.folder.names() if name in self._earlier or f"-{self.run}-" in name
        ]

    def answered(self) -> pa.Array:
        """The ids of the rows that have been asked and have their outcome."""
        return self.column(self.parent)

    def column(self, name: str) -> pa.Array:
        """One column over all shards."""
        columns = [self.folder.read_shard(shard, [name])[name] for shard in self.shards()]
        return pa.chunked_array(columns, type=pa.string()).combine_chunks()

    def check(self, asked: pa.Array) -> None:
        """Every row that was asked is here, and no row is here twice. AssertionError else."""
        parents, ids = pc.unique(self.answered()), self.column("id")
        missing = pc.sum(pc.invert(pc.is_in(asked, value_set=parents))).as_py() or 0
        foreign = pc.sum(pc.invert(pc.is_in(parents, value_set=asked))).as_py() or 0
        doubled = len(ids) - len(pc.unique(ids))
        wrong = f"{missing} rows missing, {foreign} not asked, {doubled} twice"
        assert missing == foreign == doubled == 0, wrong


class ShardWriter:
    """Collects answered rows and writes them as shards. Safe among threads."""

    def __init__(self, folder: Folder, run: str, schema: pa.Schema, cfg: LedgerConfig) -> None:
        self._folder, self._schema, self._cfg = folder, schema, cfg
        self._name = f"{run}-{uuid.uuid4().hex[:8]}"
        self._rows: dict[str, list[Mapping[str, Any]]] = {PART: [], FAILED: []}
        self._oldest = 0.0
        self._number = 0
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        threading.Thread(target=self._seal_by_time, name="ledger", daemon=True).start()

    def add(self, rows: list[Mapping[str, Any]]) -> None:
        """Take all rows that one asked row has become: a shard holds all of them or none, and all
        failed if one has.
        """
        failed = any(row["outcome"] == "failed" for row in rows)
        with self._lock:
            if not self._num_held():
                self._oldest = time.monotonic()
            self._rows[FAILED if failed else PART].extend(rows)
            full = self._num_held() >= self._cfg.shard_rows
        if full:
            self.seal()

    def seal(self) -> None:
        """Write what has been collected. On return it is safe."""
        with self._writing:
            with self._lock:
                held, self._rows = self._rows, {PART: [], FAILED: []}
                self._number += 1
            for kind, rows in held.items():
                if rows:
                    name = f"{kind}{self._name}-{self._number:05d}.parquet"
                    self._folder.write_shard(name, to_table(rows, self._schema))

    def _num_held(self) -> int:
        return sum(map(len, self._rows.values()))

    def _seal_by_time(self) -> None:
        while True:
            time.sleep(min(1.0, self._cfg.shard_s / 4))
            with self._lock:
                due = self._num_held() > 0 and time.monotonic() - self._oldest >= self._cfg.shard_s
            if due:
                self.seal()
