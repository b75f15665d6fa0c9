"""What the driver gives to the workers of a run, and what it hears of them. Light: no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ray_jobs.training.curve import Point
from ray_jobs.training.settings import Train

if TYPE_CHECKING:
    from ray.actor import ActorHandle


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What the workers of one run are to do."""

    cfg: Train
    """With the base model's folder or hub id."""
    seed: int
    home: str
    """The run's folder."""
    about: Mapping[str, str]
    """What its checkpoints must be of."""
    samples: Any
    """A Samples in Ray's object store, which the workers of a machine share."""
    validation: Any
    """The same of those held out, or None."""
    board: ActorHandle[Any]


class Board:
    """An actor between the first worker, which adds points, and the driver, which asks for them."""

    def __init__(self) -> None:
        self._start = 0
        self._points: list[Point] = []
        self._num_workers = 0
        self._stopped = False

    def begin(self, curve: list[Point], num_workers: int) -> None:
        """Workers have started, with the curve of the checkpoint that they go on from."""
        self._start += 1
        self._points, self._num_workers = list(curve), num_workers

    def add(self, point: Point) -> bool:
        """Add a step; returns whether to stop after it."""
        self._points.append(point)
        return self._stopped

    def since(self, start: int, num: int) -> tuple[int, int, list[Point]]:
        """The number of this start, its workers, and the points after the first `num`; all of them
        where `start` is an earlier one.
        """
        return self._start, self._num_workers, self._points[num if start == self._start else 0 :]

    def stop(self) -> None:
        """Let the workers save and end after their step."""
        self._stopped = True
