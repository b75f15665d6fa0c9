"""Trials, trained to their end: those that are not yet, in their order, or several at once where
there are cards for them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray

from ray_jobs.steps import TOLD
from ray_jobs.tables import Folder
from ray_jobs.training.checkpoints import Saved, latest
from ray_jobs.training.curve import Point, diverged, from_tsv
from ray_jobs.training.examples import Samples
from ray_jobs.training.follow import Start, Work, follow
from ray_jobs.training.packing import Order
from ray_jobs.training.results import CHECKPOINTS, MANIFEST
from ray_jobs.training.runs import Run
from ray_jobs.training.settings import Train
from ray_jobs.training.trackers import trackers
from ray_jobs.training.trials import Ended, Trial


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Trials of one base model on the same samples."""

    home: Folder
    """Each trial has its folder in it."""
    base: str
    """The base model's fingerprint."""
    seed: int
    samples: Samples
    held_out: Samples | None
    work: Work | None
    """To say what share of the cards' speed is reached, if that is known."""

    def train(self, trials: Sequence[Trial]) -> list[Ended]:
        """Train all of them; on Ray, which must be connected. One that was trained and not chosen
        has no weights any more: it is trained again only where it is the only one, whose weights
        are wanted. One that diverges has ended there.

        JobFailed where one cannot go on, ValueError where a checkpoint is another model's.
        """
        is_compared = len(trials) > 1
        curves = {
            one.fingerprint: (is_compared and self._published(one)) or self._curve(one)
            for one in trials
        }
        waiting = [one for one in trials if not self._is_done(one, curves[one.fingerprint])]
        at_once = _at_once(waiting)
        with ExitStack() as stack:
            if waiting:
                refs = [ray.put(self.samples), self.held_out and ray.put(self.held_out)]
                starts = [self._start(one, refs, stack, alone=at_once == 1) for one in waiting]
                for one, run in zip(waiting, follow(starts, at_once, self.work), strict=True):
                    curves[one.fingerprint] = run.curve
        return [Ended(trial=one, curve=curves[one.fingerprint]) for one in trials]

    def saved(self, trial: Trial) -> Saved | None:
        """A trial's newest checkpoint."""
        return latest(self.home / trial.fingerprint / CHECKPOINTS, self._about(trial))

    def _curve(self, trial: Trial) -> list[Point]:
        """A trial's curve up to where it can go on."""
        saved = self.saved(trial)
        return [] if saved is None else saved.curve()

    def _published(self, trial: Trial) -> list[Point]:
        """The curve of a trial that came to its end, if it did."""
        home = self.home / trial.fingerprint
        if home.read(MANIFEST) is None:
            return []
        return from_tsv(home.read("curve.tsv") or b"")

    def num_steps(self, trial: Trial) -> int:
        """Optimiser steps of a trial."""
        return Order(
            num_samples=len(self.samples),
            batch_size=trial.cfg.batch_size,
            epochs=trial.cfg.epochs,
            seed=self.seed,
        ).num_steps

    def _about(self, trial: Trial) -> dict[str, str]:
        return {"model": self.base, "training": trial.fingerprint}

    def _is_done(self, trial: Trial, curve: Sequence[Point]) -> bool:
        return len(curve) == self.num_steps(trial) or diverged(curve) is not None

    def _start(self, trial: Trial, refs: list[Any], stack: ExitStack, *, alone: bool) -> Start:
        home = self.home / trial.fingerprint
        cfg = trial.cfg
        if not alone:  # else the first would take the cards of all
            cfg = replace(cfg, num_workers=(cfg.num_workers[0], cfg.num_workers[0]))

        def start() -> tuple[Run, Callable[[Point], None]]:
            home.write(TOLD, json.dumps(trial.decides, ensure_ascii=False, indent=1).encode())
            curve = self._curve(trial)
            track = trackers(
                cfg.logging,
                folder=Path(home.uri) / "tensorboard" if "://" not in home.uri else None,
                run=trial.fingerprint,
                settings=trial.decides["settings"],
                start_step=len(curve),
            )
            run = Run(
                name=trial.name,
                cfg=cfg,
                home=home,
                seed=self.seed,
                about=self._about(trial),
                samples=refs[0],
                validation=refs[1],
                num_steps=self.num_steps(trial),
                curve=curve,
            )
            return run, stack.enter_context(track)

        return start


def _at_once(trials: Sequence[Trial]) -> int:
    """Trials that the cluster has cards for; without cards one, since it has all cores."""
    if not trials:
        return 1
    cfg: Train = trials[0].cfg
    each = cfg.num_workers[0] * cfg.gpus_per_worker
    resources: Mapping[str, float] = ray.cluster_resources()
    return max(1, min(len(trials), int(resources.get("GPU", 0) / each))) if each else 1
