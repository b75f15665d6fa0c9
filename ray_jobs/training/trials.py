"""Trials: the same training with several learning rates and batch sizes, and what became of each.

The paper chose 6e-7 so (section 3.8). A recipe without lists has one trial, the training itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

from ray_jobs.page import AMBER, BLUE, FAINT, INK, MARGIN, fitted
from ray_jobs.steps import JobFailed, deciding
from ray_jobs.tables import Folder
from ray_jobs.training.chart import WIDTH, Line, chart
from ray_jobs.training.curve import LOWER_IT, Point, diverged, last_validation
from ray_jobs.training.settings import Train

VERSION = 1
COLORS = (BLUE, AMBER, INK, FAINT)
HERE_ONLY = ("base", "revision", "data", "format")
"""Where these lie decides nothing: the base model and the samples have fingerprints."""
SHOWN = ("learning_rate", "batch_size", "held_out_loss", "loss", "steps")
COLUMNS = (*SHOWN, "seconds", "run", "diverged_at")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training, by all that decides its weights."""

    cfg: Train
    name: str
    """For the screen."""
    decides: Mapping[str, Any]

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits over all that decides the weights, but for rounding."""
        data = json.dumps(self.decides, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(data.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A trial that has been trained to its end, or until it diverged."""

    trial: Trial
    curve: Sequence[Point]

    @cached_property
    def diverged(self) -> Point | None:
        """The step at which it diverged, if it did."""
        return diverged(self.curve)

    @property
    def held_out_loss(self) -> float | None:
        return None if self.diverged else last_validation(self.curve)

    @property
    def seconds(self) -> float:
        """Of all steps; what was done twice after a crash counts once."""
        return sum(point.seconds for point in self.curve)


def trials(cfg: Train, *, base: str, samples: str, seed: int) -> list[Trial]:
    """All trials of a section; `base` and `samples` are fingerprints."""
    rates, sizes = cfg.learning_rates or (cfg.learning_rate,), cfg.batch_sizes or (cfg.batch_size,)
    found = []
    for rate, size in dict.fromkeys(product(rates, sizes)):
        one = replace(cfg, learning_rate=rate, batch_size=size)
        told = {
            "version": VERSION,
            "settings": {k: v for k, v in deciding(one).items() if k not in HERE_ONLY},
            "base": base,
            "samples": samples,
            "seed": seed,
        }
        decides = json.loads(json.dumps(told))
        name = "train" if len(rates) * len(sizes) == 1 else f"rate {rate:g} × {size}"
        found.append(Trial(cfg=one, name=name, decides=decides))
    return found


def best(ended: Sequence[Ended]) -> Ended:
    """The trial with the lowest loss on the samples held out; of one, that one. JobFailed where all
    have diverged.
    """
    sound = [one for one in ended if not one.diverged]
    if not sound:
        faults = [(one.trial.name, one.diverged) for one in ended]
        told = "; ".join(f"{name}: {at.fault} at step {at.step}" for name, at in faults if at)
        raise JobFailed(f"{told}: {LOWER_IT}")
    if len(sound) == 1:
        return sound[0]
    losses = {one.trial.fingerprint: one.held_out_loss for one in sound}
    assert None not in losses.values(), "trials without samples held out were refused"
    return min(sound, key=lambda one: losses[one.trial.fingerprint] or 0.0)


def write_trials(home: Folder, ended: Sequence[Ended]) -> None:
    """Write `trials.tsv` and `trials.svg`."""
    lines = ["\t".join(COLUMNS), *("\t".join(_cells(one)) for one in ended)]
    home.write("trials.tsv", ("\n".join(lines) + "\n").encode())
    home.write("trials.svg", trials_svg(ended))


def trials_svg(ended: Sequence[Ended]) -> bytes:
    """Held-out loss over learning rates, a line for each batch size."""
    lines = []
    sizes = dict.fromkeys(one.trial.cfg.batch_size for one in ended)
    for number, size in enumerate(sizes):
        places = sorted(
            (one.trial.cfg.learning_rate, one.held_out_loss)
            for one in ended
            if one.trial.cfg.batch_size == size and one.held_out_loss is not None
        )
        color = COLORS[number % len(COLORS)]
        if places:
            lines.append(Line(name=f"batch {size}", places=places, color=color, is_dotted=True))
    said = f"{len(ended)} trials, each on all samples; the lowest is kept"
    if lost := [f"{one.trial.name} (step {one.diverged.step})" for one in ended if one.diverged]:
        said += f"; diverged: {', '.join(lost)}"
    said = fitted(said, 9, WIDTH - 2 * MARGIN)
    return chart("Trials", said, lines, "learning rate", "held-out loss per token", is_log=True)


def table(ended: Sequence[Ended]) -> str:
    """The trials as a table of a card."""
    chosen = best(ended)
    rows = [SHOWN, ["---"] * len(SHOWN)]
    for one in ended:
        rate, size, held_out, loss, steps, *_ = _cells(one)
        if one.diverged:
            held_out = f"diverged at step {one.diverged.step}"
        mark = "**" if one is chosen else ""
        rows.append([f"{mark}{rate}{mark}", size, held_out, loss, steps])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cells(one: Ended) -> list[str]:
    cfg, held_out = one.trial.cfg, one.held_out_loss
    return [
        f"{cfg.learning_rate:g}",
        str(cfg.batch_size),
        "" if held_out is None else f"{held_out:.6f}",
        "" if one.diverged else f"{one.curve[-1].loss:.6f}",
        str(len(one.curve)),
        f"{one.seconds:.1f}",
        one.trial.fingerprint,
        str(one.diverged.step) if one.diverged else "",
    ]
