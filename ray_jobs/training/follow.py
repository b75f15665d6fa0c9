"""Runs on the screen: a bar for each, with loss, speed, memory and the time it will take."""

from __future__ import annotations

import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from ray_jobs.training.curve import Point, diverged

if TYPE_CHECKING:
    from ray_jobs.training.runs import Run

POLL_S = 0.5
RECENT = 20
"""Steps that the speed is taken over."""
GIB = 1 << 30
log = logging.getLogger(__name__)

Start: TypeAlias = "Callable[[], tuple[Run, Callable[[Point], None]]]"
"""Starts a run; returns it, and who wants its points."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """Operations of a training, to say what share of its cards' best speed it reaches (MFU).

    What attention itself takes is left out: 2 to 3 of 100 at these lengths.
    """

    per_token: float
    per_target: float
    """More for each target token: only these meet the vocabulary."""
    peak: float
    """Operations a second of one worker's card at best; 0 where it is not known."""

    def share(self, points: Sequence[Point]) -> float | None:
        """The share over some steps, 0…1."""
        if not self.peak or not points:
            return None
        best = sum(one.seconds * one.num_workers for one in points) * self.peak
        done = sum(
            one.tokens * self.per_token + one.target_tokens * self.per_target for one in points
        )
        return done / best


def figures(points: Sequence[Point], work: Work | None) -> str:
    """The newest figures, for a bar."""
    if not points:
        return ""
    last, recent = points[-1], points[-RECENT:]
    seconds = sum(one.seconds for one in recent)
    said = [f"loss {last.loss:.3f}", f"{sum(one.tokens for one in recent) / seconds:,.0f} tok/s"]
    share = work.share(recent) if work else None
    if share is not None:
        said.append(f"MFU {100 * share:.0f}%")
    said.append(f"{last.memory_bytes / GIB:.1f} GiB")
    held_out = [one.validation_loss for one in points if one.validation_loss is not None]
    if held_out:
        said.append(f"held out {held_out[-1]:.3f}")
    return ", ".join(said)


def follow(starts: Sequence[Start], at_once: int, work: Work | None) -> list[Run]:
    """Start runs, at most `at_once` at a time, and follow them to their end; in their order.

    A first Ctrl-C lets them save after their step, and comes again when they have. One that has
    diverged is at its end; JobFailed where one cannot go on for another reason.
    """
    waiting = list(enumerate(starts))
    active: dict[int, _Bar] = {}
    ended: dict[int, Run] = {}
    with _told_to_stop() as is_told:
        while active or (waiting and not is_told()):
            while waiting and len(active) < at_once and not is_told():
                number, start = waiting.pop(0)
                active[number] = _Bar(*start(), number, work)
            time.sleep(POLL_S)
            for number, bar in list(active.items()):
                if bar.update():
                    ended[number] = active.pop(number).run
                elif is_told() and not bar.stop():
                    del active[number]
        if is_told():
            raise KeyboardInterrupt
    return [ended[number] for number in sorted(ended)]


@contextmanager
def _told_to_stop() -> Iterator[Callable[[], bool]]:
    """Whether a Ctrl-C or a SIGTERM has come. The first only says so: raised in the middle of an
    import, a write or a poll, it would leave that half done. The second does what it did before.
    """
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    is_told = False

    def tell(*_: object) -> None:
        nonlocal is_told
        is_told = True
        restore()

    def restore() -> None:
        for one, handler in before.items():
            signal.signal(one, handler)

    for one in before:
        signal.signal(one, tell)
    try:
        yield lambda: is_told
    finally:
        restore()


class _Bar:
    def __init__(
        self, run: Run, track: Callable[[Point], None], number: int, work: Work | None
    ) -> None:
        from tqdm import tqdm

        self.run, self._track, self._work = run, track, work
        self._tracked = len(run.curve)
        self._is_started = self._is_stopping = False
        self._bar: Any = tqdm(
            total=run.num_steps,
            initial=len(run.curve),
            desc=f"{run.name:>16}",
            unit="step",
            position=number,
            mininterval=1.0 if sys.stderr.isatty() else 30.0,
            dynamic_ncols=True,
        )

    def update(self) -> bool:
        """Show what is new; returns whether the run has ended. Raises what it ended with."""
        is_done = self.run.done.done()
        self.run.poll()
        points = self.run.curve
        if self.run.num_workers and not self._is_started:
            self._is_started = True
            self._bar.unpause()  # what they took to start is nothing that steps will take
        self._bar.set_postfix_str(self._figures(), refresh=False)
        self._bar.update(len(points) - self._bar.n)
        for point in points:
            if point.step > self._tracked:
                self._track(point)
                self._tracked = point.step
        if is_done:
            self.close()
            self.run.write_curve()
            if last := diverged(self.run.curve):
                log.warning("%s diverged at step %d: %s", self.run.name, last.step, last.fault)
            else:
                self.run.done.result()
        return is_done

    def stop(self) -> bool:
        """Let the run save and end after its step; returns whether there is that to wait for."""
        if self.run.num_workers and not self._is_stopping:
            self._is_stopping = True
            self.run.stop()
            log.info("stopping after this step; Ctrl-C again to stop at once")
        elif not self._is_stopping:
            self.close()
        return self._is_stopping

    def _figures(self) -> str:
        return figures(self.run.curve, self._work) if self._is_started else "workers are starting"

    def close(self) -> None:
        """Leave the bar on the screen as it is."""
        self._bar.close()
