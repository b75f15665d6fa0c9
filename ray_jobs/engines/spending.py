"""The ledger of what was spent: one line per question to a provider, in small Parquet parts. It
never holds a text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from ray_jobs.tables import Folder, to_table

STALE_S = 60.0
"""A client that has been silent so long is dead, and what it held may have been billed."""

LINES = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("time", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("purpose", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("num_questions", pa.int64(), nullable=False),
        pa.field("num_attempts", pa.int64(), nullable=False),
        pa.field("prompt_tokens", pa.int64()),
        pa.field("output_tokens", pa.int64()),
        pa.field("yuan", pa.float64(), nullable=False),
        pa.field("yuan_assumed", pa.float64(), nullable=False),
        pa.field("outcome", pa.string(), nullable=False),
    ]
)
"""The ledger's columns."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One question and what it cost."""

    id: str
    """<client>-<number>, counted from 1."""
    time: float
    """Seconds since 1970, when its outcome was known."""
    purpose: str
    """As the request says it."""
    model: str
    """As the provider names what answered."""
    num_questions: int = 1
    """More than 1 only in a line of outcome `lost`."""
    num_attempts: int
    """Requests sent, those included that got no answer."""
    prompt_tokens: int | None
    """As the provider counts; None where it said nothing."""
    output_tokens: int | None
    yuan: float
    yuan_assumed: float
    """The part of `yuan` that no answer confirms: attempts that broke off may have been billed."""
    outcome: str
    """The row's, or unusable, cancelled, lost (its client died while it was in flight)."""


@dataclass(frozen=True, kw_only=True)
class Held:
    """What a client has in flight, at most."""

    num: int = 0
    yuan: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What the owner says to a client."""

    num_granted: int
    """Of the questions that it wants to ask, in their order."""
    over: bool
    """The budget is spent."""
    yuan: float
    num_questions: int


class Book:
    """Everything spent and held. `now` is a clock in seconds since 1970."""

    def __init__(self, lines: Iterable[Line], now: Callable[[], float]) -> None:
        self._now = now
        self._yuan, self._num_questions = 0.0, 0
        self._last: Counter[str] = Counter()
        self._held: dict[str, tuple[Held, float]] = {}
        self.unsealed: list[Line] = []
        for line in lines:
            self._add(line)

    @property
    def idle(self) -> bool:
        """Nothing is in flight anywhere."""
        return not any(held.num for held, _ in self._held.values())

    def hear(self, client: str, lines: list[Line], held: Held) -> None:
        """Take a client's lines, once each, and what it holds now."""
        self._held[client] = held, self._now()
        for line in lines:
            if _number(line.id) > self._last[client]:
                self._add(line)
                self.unsealed.append(line)
        self._bury_the_dead()

    def grant(self, client: str, wants: list[float], budget_yuan: float) -> Standing:
        """Hold what may be asked. Near the end of a budget questions wait for those in flight, so
        that the last one alone can go over it.
        """
        held, seen = self._held[client]
        num_held = sum(one.num for one, _ in self._held.values())
        free = budget_yuan - self._yuan - sum(one.yuan for one, _ in self._held.values())
        over = 0 < budget_yuan <= self._yuan
        num = 0
        while num < len(wants) and not over:
            if budget_yuan and wants[num] > free and num_held + num:
                break
            free -= wants[num]
            num += 1
        taken = Held(num=held.num + num, yuan=held.yuan + sum(wants[:num]))
        self._held[client] = taken, seen
        return Standing(
            num_granted=num, over=over, yuan=self._yuan, num_questions=self._num_questions
        )

    def _add(self, line: Line) -> None:
        client = line.id.rpartition("-")[0]
        self._last[client] = max(self._last[client], _number(line.id))
        self._yuan += line.yuan
        self._num_questions += line.num_questions

    def _bury_the_dead(self) -> None:
        for client, (held, seen) in list(self._held.items()):
            if self._now() - seen <= STALE_S:
                continue
            del self._held[client]
            if held.num:
                # Not the client's own number: a machine that slept comes back with its lines.
                grave = f"{client}.lost"
                line = Line(
                    id=f"{grave}-{self._last[grave] + 1}",
                    time=self._now(),
                    purpose="",
                    model="",
                    num_questions=held.num,
                    num_attempts=held.num,
                    prompt_tokens=None,
                    output_tokens=None,
                    yuan=held.yuan,
                    yuan_assumed=held.yuan,
                    outcome="lost",
                )
                self._add(line)
                self.unsealed.append(line)


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What all questions of one purpose have cost."""

    num_questions: int
    num_attempts: int
    prompt_tokens: int
    output_tokens: int
    yuan: float
    yuan_assumed: float
    """The part of `yuan` that no answer confirms."""
    outcomes: dict[str, int]
    """Questions by outcome; they add up to `num_questions`."""


def spent(folder: Folder) -> dict[str, Spent]:
    """What the ledger in a folder adds up to, by purpose; empty where there is no ledger."""
    by_purpose: dict[str, list[Line]] = {}
    for line in read_lines(folder):
        by_purpose.setdefault(line.purpose, []).append(line)
    return {purpose: _sum(lines) for purpose, lines in sorted(by_purpose.items())}


def read_lines(folder: Folder) -> Iterator[Line]:
    """Every line of the ledger."""
    for name in folder.names():
        if name.endswith(".parquet"):
            for row in folder.read_shard(name).to_pylist():
                yield Line(**{**row, "time": row["time"].timestamp()})


def write_part(folder: Folder, name: str, lines: Iterable[Line]) -> None:
    """Write lines as one part, in the place of an earlier one of that name."""
    folder.write_shard(name, to_table([_row(line) for line in lines], LINES))


def _row(line: Line) -> dict[str, Any]:
    return {**asdict(line), "time": datetime.fromtimestamp(line.time, UTC)}


def _sum(lines: list[Line]) -> Spent:
    outcomes: Counter[str] = Counter()
    for line in lines:
        outcomes[line.outcome] += line.num_questions
    return Spent(
        num_questions=sum(line.num_questions for line in lines),
        num_attempts=sum(line.num_attempts for line in lines),
        prompt_tokens=sum(line.prompt_tokens or 0 for line in lines),
        output_tokens=sum(line.output_tokens or 0 for line in lines),
        yuan=sum(line.yuan for line in lines),
        yuan_assumed=sum(line.yuan_assumed for line in lines),
        outcomes=dict(outcomes),
    )


def _number(line_id: str) -> int:
    return int(line_id.rpartition("-")[2])
