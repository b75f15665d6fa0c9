"""Who keeps the ledger of spending: one owner for the whole cluster, and an engine's way to it.

The owner reads the ledger back when it starts, so that a job that goes on knows what it has already
cost.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import dataclass

from ray_jobs.engines.seam import EngineUnusable
from ray_jobs.engines.shared import Shared, name_of, retire
from ray_jobs.engines.spending import Book, Held, Line, Standing, read_lines, write_part
from ray_jobs.tables import Folder

VERSION = 1
"""Of Owner, which may outlive the job that made it."""
SEAL_S = 5.0
"""A crash of everything costs the account at most these seconds."""
PART_LINES = 1000
IDLE_S = 600.0
"""An owner whom nobody has told anything for so long ends: on a cluster that lives for months, each
run would leave one.
"""
BEAT_S = 5.0
"""How often a client with questions in flight shows that it lives."""
TAIL_S = 0.1
"""How often those who wait for the last of a budget ask again."""


class Owner:
    """The book as the cluster sees it, and its parts in the folder; none where `uri` is empty."""

    def __init__(self, uri: str) -> None:
        self._folder = Folder(uri) if uri else None
        self._run = uuid.uuid4().hex[:8]
        self._book = Book(read_lines(self._folder) if self._folder else (), time.time)
        self._part: list[Line] = []
        self._number = 0
        self._sealing = asyncio.Lock()
        self._timer: asyncio.Task[None] | None = None
        self._heard_at = time.monotonic()

    async def exchange(
        self, client: str, lines: list[Line], held: Held, wants: list[float], budget_yuan: float
    ) -> Standing:
        """A client's news for the book's. Where nothing stays in flight, its lines are safe on
        return.
        """
        if self._timer is None:
            self._timer = asyncio.create_task(self._seal_by_time())
        self._heard_at = time.monotonic()
        self._book.hear(client, lines, held)
        standing = self._book.grant(client, wants, budget_yuan)
        if self._book.idle:
            await self._seal()
        return standing

    async def _seal(self) -> None:
        async with self._sealing:
            lines, self._book.unsealed = self._book.unsealed, []
            if not lines or self._folder is None:
                return
            # The part is written whole each time, until it is full: no line is ever in two files,
            # and a long job does not leave thousands of them.
            self._part += lines
            name = f"part-{self._run}-{self._number:05d}.parquet"
            await asyncio.to_thread(write_part, self._folder, name, list(self._part))
            if len(self._part) >= PART_LINES:
                self._part, self._number = [], self._number + 1

    async def _seal_by_time(self) -> None:
        while True:
            await asyncio.sleep(SEAL_S)
            await self._seal()
            if self._folder and time.monotonic() - self._heard_at > IDLE_S:
                retire()


@dataclass(eq=False)
class _Want:
    yuan: float
    granted: bool = False


class SpendingClient:
    """One engine's way to the owner. Lives in one event loop."""

    def __init__(self, title: str, uri: str, budget_yuan: float, scope: str) -> None:
        self._title, self._uri, self._budget_yuan = title, uri, budget_yuan
        self._shared = Shared(name_of("spending", VERSION, uri or scope), Owner, uri)
        self._me = uuid.uuid4().hex[:8]
        self._num_lines = 0
        self._lines: list[Line] = []
        self._wants: list[_Want] = []
        self._num_held, self._yuan_held = 0, 0.0
        self._asking = asyncio.Lock()
        self._beat: asyncio.Task[None] | None = None
        self._next_try = 0.0

    async def reserve(self, yuan: float) -> None:
        """Returns when a question of at most so much may be asked. EngineUnusable where the budget
        is spent.
        """
        if self._beat is None:
            self._beat = asyncio.create_task(self._keep_beating())
        want = _Want(yuan)
        self._wants.append(want)
        try:
            while True:
                async with self._asking:
                    if not want.granted and time.monotonic() >= self._next_try:
                        standing = await self._exchange()
                        if standing.over and not want.granted:
                            raise EngineUnusable(self._over(standing))
                        if not want.granted:  # all who wait ask together
                            self._next_try = time.monotonic() + TAIL_S
                if want.granted:
                    return
                await asyncio.sleep(TAIL_S)
        finally:
            if not want.granted:
                self._wants.remove(want)

    async def record(
        self,
        *,
        reserved_yuan: float,
        purpose: str,
        model: str,
        num_attempts: int,
        tokens: tuple[int, int] | None,
        yuan: float,
        yuan_assumed: float,
        outcome: str,
    ) -> None:
        """A question that `reserve` let through has its outcome. The owner knows it on return."""
        self._num_lines += 1
        line = Line(
            id=f"{self._me}-{self._num_lines}",
            time=time.time(),
            purpose=purpose,
            model=model,
            num_attempts=num_attempts,
            prompt_tokens=tokens and tokens[0],
            output_tokens=tokens and tokens[1],
            yuan=yuan,
            yuan_assumed=yuan_assumed,
            outcome=outcome,
        )
        self._num_held -= 1
        self._yuan_held = self._yuan_held - reserved_yuan if self._num_held else 0.0
        self._lines.append(line)
        async with self._asking:
            if line in self._lines:
                await self._exchange()

    async def _exchange(self) -> Standing:
        lines, wants = list(self._lines), list(self._wants)
        held = Held(num=self._num_held, yuan=self._yuan_held)
        told = (self._me, lines, held, [want.yuan for want in wants], self._budget_yuan)
        standing: Standing = await self._shared.call("exchange", *told)
        del self._lines[: len(lines)]
        for want in wants[: standing.num_granted]:
            if want in self._wants:  # it may have been cancelled meanwhile
                want.granted = True
                self._wants.remove(want)
                self._num_held += 1
                self._yuan_held += want.yuan
        return standing

    async def _keep_beating(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            async with self._asking:
                if self._num_held:
                    await self._exchange()

    def _over(self, standing: Standing) -> str:
        name = self._uri.rstrip("/").rpartition("/")[2] or "<name>"
        return (
            f"{self._title}: the budget of {self._budget_yuan:.2f} yuan is spent "
            f"({standing.yuan:.3f} on {standing.num_questions:,} questions); raise "
            f"engines.{name}.budget_yuan and run the same command: what is answered is kept"
        )
