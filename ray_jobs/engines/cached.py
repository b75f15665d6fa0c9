"""Replies kept in one SQLite file, in front of any engine: what was asked before costs nothing.

Only replies are kept: what was blocked or failed is asked again. The file survives a kill -9, and
the replicas of one machine share it; it must lie on a local disk, as SQLite's log needs one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from ray_jobs.engines import seam
from ray_jobs.engines.seam import Engine, EngineUnusable, Heard, Reply, Request

VERSION = 1
"""Of the kept replies' form; raised when Reply changes its meaning."""
ASKED = ("chat", "sampling", "seed", "constraint", "stop", "logprobs_of")
"""The fields of a request that make it the same question. The seed is the sample's index."""
NOT_ASKED = ("perplexity", "purpose", "fresh", "raw", "min_tokens", "continuations", "cut_left")
KEPT = tuple(item.name for item in fields(Reply) if item.name != "continued")
BUSY_S = 30.0
MAX_BATCH = 256

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Question:
    key: bytes
    request: Request
    future: Future[Reply]


@dataclass(frozen=True)
class _Kept:
    key: bytes
    reply: Reply


class CachedEngine:
    """An engine that answers from its file where it can.

    What is asked for more than a chat's answer, and a `fresh` one, go to the engine and leave
    nothing behind.
    """

    def __init__(self, engine: Engine, path: Path, identity: dict[str, Any]) -> None:
        """`identity`: what decides the engine's answers, as its config says."""
        self.engine = engine
        self.num_hits = 0
        self.num_misses = 0
        self._identity = identity
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: sqlite3.Connection | None = _open(path)
        except (sqlite3.Error, OSError) as error:
            raise EngineUnusable(
                f"the cache of replies {path}: {error}; delete the file, or go without a cache"
            ) from error
        self._inbox: queue.SimpleQueue[_Question | _Kept | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="replies", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> Future[Reply]:
        """Answer from the file, or ask the engine."""
        if request.fresh or request.min_tokens or seam.beyond_chat(request):
            return self.engine.submit(request)
        assert self._thread.is_alive(), "the cache was closed"
        future: Future[Reply] = Future()
        self._inbox.put(_Question(key(self._identity, request), request, future))
        return future

    def listen(self, request: Request, heard: Heard) -> Future[Reply]:
        """Text that is heard while it is written comes from the engine."""
        return seam.listen(self.engine, request, heard)

    def close(self) -> None:
        """Write what there is, and stop the engine."""
        self._inbox.put(None)
        self._thread.join(timeout=BUSY_S)
        self.engine.close()

    def _work(self) -> None:
        """The one thread that has the file. What came together is kept in one transaction."""
        ended = False
        while not ended:
            batch = [self._inbox.get()]
            while len(batch) < MAX_BATCH and not self._inbox.empty():
                batch.append(self._inbox.get())
            self._keep([item for item in batch if isinstance(item, _Kept)])
            for item in batch:
                if isinstance(item, _Question):
                    self._answer(item)
            ended = None in batch
        if self._file is not None:
            self._file.close()

    def _keep(self, kept: Sequence[_Kept]) -> None:
        if not kept or self._file is None:
            return
        try:
            with self._file:
                self._file.executemany(
                    # The first reply stays, or two that asked at once would be told different ones.
                    "INSERT OR IGNORE INTO replies VALUES (?, ?)",
                    [(one.key, _written(one.reply)) for one in kept],
                )
        except sqlite3.Error as error:
            self._do_without(error)

    def _answer(self, question: _Question) -> None:
        if not question.future.set_running_or_notify_cancel():
            return  # whoever asked no longer waits
        if (reply := self._find(question.key)) is not None:
            self.num_hits += 1
            question.future.set_result(reply)
            return
        self.num_misses += 1
        try:
            asked = self.engine.submit(question.request)
        except Exception as error:  # noqa: BLE001  it is handed to who waits for the future
            question.future.set_exception(error)
            return
        asked.add_done_callback(partial(self._pass_on, question))

    def _find(self, key: bytes) -> Reply | None:
        if self._file is None:
            return None
        try:
            row = self._file.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            self._do_without(error)
            return None
        return None if row is None else _read(row[0])

    def _pass_on(self, question: _Question, asked: Future[Reply]) -> None:
        error = CancelledError() if asked.cancelled() else asked.exception()
        if error is not None:
            question.future.set_exception(error)
            return
        self._inbox.put(_Kept(question.key, asked.result()))
        question.future.set_result(asked.result())

    def _do_without(self, error: sqlite3.Error) -> None:
        """A full disk costs money and no answer: from now on the engine is asked everything."""
        log.warning("the cache of replies %s is no longer used: %s", self._path, error)
        assert self._file is not None
        self._file.close()
        self._file = None


def key(identity: dict[str, Any], request: Request) -> bytes:
    """What a kept reply is found by: model, rubric and text (both in the chat), sampling, form, and
    the sample's index.
    """
    asked = [VERSION, identity, {name: getattr(request, name) for name in ASKED}]
    return hashlib.sha256(json.dumps(asked, sort_keys=True, default=asdict).encode()).digest()


def _written(reply: Reply) -> str:
    return json.dumps({name: getattr(reply, name) for name in KEPT})


def _read(written: str) -> Reply:
    kept = json.loads(written)
    lists = {name: tuple(kept[name]) for name in ("tokens", "logprobs")}
    return Reply(**{**kept, **lists, "yuan": 0.0, "cached": True})


def _open(path: Path) -> sqlite3.Connection:
    deadline = time.monotonic() + BUSY_S
    while True:
        # Made here and used by the thread alone.
        file = sqlite3.connect(path, timeout=BUSY_S, check_same_thread=False)
        try:
            file.execute("PRAGMA journal_mode = WAL")
            file.execute("PRAGMA synchronous = NORMAL")  # a crash of the machine may lose the last
            with file:
                file.execute(
                    "CREATE TABLE IF NOT EXISTS replies (key BLOB PRIMARY KEY, reply TEXT NOT NULL)"
                )
            return file
        except sqlite3.OperationalError as error:
            file.close()
            # SQLite does not wait by itself while another process turns the log on.
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        except sqlite3.Error:
            file.close()
            raise
