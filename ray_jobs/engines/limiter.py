"""One limiter for the whole cluster: requests and tokens a minute, however many actors ask.

Who may go is decided by one named actor. A provider's 429 halves the rate, which then comes back
little by little; its Retry-After stops everyone.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ray_jobs.engines.shared import Shared, name_of

VERSION = 1
"""Of Turnstile, which may outlive the job that made it."""
BURST_S = 1.0
"""While someone waits, what could not be given out is kept this long: a machine that was busy
elsewhere catches up.
"""
LOT_S = 0.1
"""Permits are given out in lots of this length, so that a high rate costs few calls. No more is
kept where nobody waits: nobody may save up for a burst.
"""
WINDOW_S = 10.0
"""The rate is halved at most once in it: requests in flight together are refused together."""
RECOVERY_S = 120.0
"""From nothing to the whole rate, in even steps."""
LEAST = 1 / 32
"""The rate never falls below this part of what was set."""
MAX_LINE = 256
"""How many of those who wait one call tells of."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a provider allows. 0 is no limit."""

    requests_per_minute: float = 0.0
    tokens_per_minute: float = 0.0


class _Bucket:
    """What may be used now. Whoever comes while it is not in debt may go, and may put it there: so
    a request larger than the bucket still has its turn, and the rate is kept all the same.
    """

    def __init__(self) -> None:
        self.per_s = math.inf
        self._level = 0.0

    @property
    def open(self) -> bool:
        return self._level >= 0

    def fill(self, seconds: float, kept_s: float) -> None:
        if self.per_s == math.inf:
            self._level = 0.0
        else:
            self._level = min(self._level + seconds * self.per_s, kept_s * self.per_s)

    def take(self, amount: float) -> None:
        if self.per_s != math.inf:
            self._level -= amount

    def wait_s(self, amount: float) -> float:
        """Seconds until `amount` can be taken without debt."""
        return 0.0 if self.per_s == math.inf else max(0.0, (amount - self._level) / self.per_s)


class Limiter:
    """Who may go, and when. `now` is a clock in seconds. Nothing here waits."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._limits = Limits()
        self._requests, self._tokens = _Bucket(), _Bucket()
        self._filled_at = self._cut_at = now()
        self._closed_until = -math.inf
        self._share = 1.0
        self._found_per_s = math.inf
        self._line_waits = False
        self._granted: deque[tuple[float, int]] = deque()

    @property
    def share(self) -> float:
        """The part of the set rate that is given out now."""
        self._fill()
        return self._share

    def set(self, limits: Limits) -> None:
        """Keep to these limits from now on."""
        self._fill()
        self._limits = limits
        self._apply()

    def grant(self, wants: Sequence[int]) -> tuple[int, float]:
        """How many of those in line may go now; where nobody may, after how many seconds to ask
        again. `wants` are the tokens that each is thought to need.
        """
        self._fill()
        if self._now() < self._closed_until:
            return 0, self._closed_until - self._now()
        before_last = self._lot(wants) - 1
        wait_s = max(
            self._requests.wait_s(before_last), self._tokens.wait_s(sum(wants[:before_last]))
        )
        if wait_s > 0:
            self._line_waits = True
            return 0, wait_s
        num = 0
        while num < len(wants) and self._requests.open and self._tokens.open:
            self._requests.take(1)
            self._tokens.take(wants[num])
            num += 1
        self._line_waits = num < len(wants)
        self._granted.append((self._now(), num))
        return num, 0.0

    def correct(self, num_requests: int, num_tokens: int) -> None:
        """So many more were used than had been granted; negative: fewer."""
        self._requests.take(num_requests)
        self._tokens.take(num_tokens)

    def slow_down(self, retry_after_s: float | None) -> None:
        """The provider has said 429."""
        self._fill()
        if retry_after_s is not None:
            self._closed_until = max(self._closed_until, self._now() + retry_after_s)
            self._line_waits = False
        if self._share < 1.0 and self._now() - self._cut_at < WINDOW_S:
            return
        if not self._limits.requests_per_minute and self._found_per_s == math.inf:
            # Nothing was set: what has just been too much is the limit until the rate has come back
            # to it. At the start of a job it would be next to nothing.
            self._found_per_s = max(1.0, sum(num for _, num in self._granted) / WINDOW_S)
        self._cut_at = self._now()
        self._share = max(LEAST, self._share / 2)
        self._apply()

    def _lot(self, wants: Sequence[int]) -> int:
        """How many of the line go together, where it moves fast."""
        tokens, lot = 0, 1
        for number, want in enumerate(wants[:-1], 1):
            tokens += want
            if number > self._requests.per_s * LOT_S or tokens > self._tokens.per_s * LOT_S:
                break
            lot = number + 1
        return lot

    def _fill(self) -> None:
        now = self._now()
        seconds, self._filled_at = now - self._filled_at, now
        kept_s = BURST_S if self._line_waits else LOT_S
        self._requests.fill(seconds, kept_s)
        self._tokens.fill(seconds, kept_s)
        while self._granted and self._granted[0][0] < now - WINDOW_S:
            self._granted.popleft()
        if self._share < 1.0:
            self._share = min(1.0, self._share + seconds / RECOVERY_S)
            if self._share == 1.0:
                self._found_per_s = math.inf
            self._apply()

    def _apply(self) -> None:
        requests = self._limits.requests_per_minute / 60 or self._found_per_s
        self._requests.per_s = requests * self._share
        self._tokens.per_s = (self._limits.tokens_per_minute / 60 or math.inf) * self._share


class Turnstile:
    """The limiter as the cluster sees it: clients stand in line, one call each."""

    def __init__(self) -> None:
        self._limiter = Limiter(time.monotonic)
        self._turn = asyncio.Lock()

    async def take(
        self, limits: Limits, wants: list[int], num_requests: int, num_tokens: int
    ) -> int:
        """Waits until at least one of `wants` may go; returns how many, in their order. The last
        two are what the client has used beyond its grants since it last said so.
        """
        self._limiter.correct(num_requests, num_tokens)
        async with self._turn:
            while True:
                self._limiter.set(limits)
                num, wait_s = self._limiter.grant(wants)
                if num:
                    return num
                await asyncio.sleep(min(max(wait_s, 0.001), 1.0))

    async def slow_down(self, retry_after_s: float | None) -> None:
        """The provider has said 429."""
        self._limiter.slow_down(retry_after_s)


@dataclass(eq=False)
class _Ticket:
    tokens: int
    granted: bool = False


class LimiterClient:
    """One engine's way to the limiter of its provider's model. Lives in one event loop."""

    def __init__(self, base_url: str, model: str, limits: Limits) -> None:
        self._limits = limits
        self._shared = Shared(name_of("limiter", VERSION, base_url, model), Turnstile)
        self._line: deque[_Ticket] = deque()
        self._asking = asyncio.Lock()
        self._more = [0, 0]

    async def permit(self, tokens: int) -> None:
        """Returns when a request of about so many tokens may go."""
        ticket = _Ticket(tokens)
        self._line.append(ticket)
        try:
            # Whoever is first in line asks for all; most find themselves served when it is their
            # turn to ask.
            async with self._asking:
                while not ticket.granted:
                    await self._take()
        finally:
            if not ticket.granted:
                self._line.remove(ticket)

    def correct(self, num_requests: int, num_tokens: int) -> None:
        """So many more were used than had been granted; negative: fewer. Told with the next call"""
        self._more[0] += num_requests
        self._more[1] += num_tokens

    async def slow_down(self, retry_after_s: float | None) -> None:
        """The provider has said 429, and perhaps when to come again."""
        await self._shared.call("slow_down", retry_after_s)

    async def _take(self) -> None:
        wants = [ticket.tokens for ticket in self._line][:MAX_LINE]
        more, self._more = self._more, [0, 0]
        num = await self._shared.call("take", self._limits, wants, *more)
        for _ in range(min(num, len(self._line))):
            self._line.popleft().granted = True
