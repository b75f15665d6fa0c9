"""The curve of a run: one point a step, as a table of tabs and as a picture (paper, figure 5-2)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields

from ray_jobs.page import AMBER, BLUE, GREY
from ray_jobs.training.chart import Line, chart

NUM_DRAWN = 600
"""Points of a picture; of more, neighbours become their mean."""
SMOOTHED = 30
"""The smooth line is a running mean over this part (1/30) of the run."""
LOWER_IT = (
    "lower train.learning_rate, or give train.precision=fp32; the checkpoints before are sound"
)


@dataclass(frozen=True, kw_only=True)
class Point:
    """What is known of one optimiser step, over all workers."""

    step: int
    """Steps done, this one included."""
    epoch: float
    """How often the samples have been passed, such as 1.5."""
    loss: float
    """Mean cross-entropy per target token, before the update."""
    validation_loss: float | None
    """The same of the samples held out, after the update, where it was measured."""
    learning_rate: float
    grad_norm: float
    """Before clipping."""
    target_tokens: int
    tokens: int
    seconds: float
    """Wall time of the step alone."""
    num_workers: int
    memory_bytes: int
    """The first worker's peak so far: of tensors on its card, or of the process without one."""

    @property
    def fault(self) -> str | None:
        """How it shows that the training has diverged; None where it has not."""
        return fault(self.loss, self.grad_norm, self.validation_loss)


NAMES = tuple(item.name for item in fields(Point))
WHOLE = {"step", "target_tokens", "tokens", "num_workers", "memory_bytes"}


def fault(loss: float, grad_norm: float, validation_loss: float | None) -> str | None:
    """Which of a step's figures is none, such as `the loss is nan`; None where all are sound.

    A norm below 0 is what parts of DeepSpeed make of one that is not finite.
    """
    told = {"loss": loss, "gradient's norm": grad_norm, "held-out loss": validation_loss or 0.0}
    if grad_norm < 0:
        told["gradient's norm"] = math.nan
    bad = [f"the {name} is {figure}" for name, figure in told.items() if not math.isfinite(figure)]
    return bad[0] if bad else None


def diverged(points: Sequence[Point]) -> Point | None:
    """The step at which a training diverged, if it did."""
    return next((one for one in points if one.fault), None)


def to_tsv(points: Sequence[Point]) -> bytes:
    """One line a point; figures keep all their digits, for a resumed run continues this table."""
    rows = [NAMES, *(tuple(asdict(point).values()) for point in points)]
    lines = ("\t".join("" if cell is None else str(cell) for cell in row) for row in rows)
    return ("\n".join(lines) + "\n").encode()


def from_tsv(data: bytes) -> list[Point]:
    """The points of a table that `to_tsv` wrote."""
    head, *lines = data.decode().splitlines()
    assert tuple(head.split("\t")) == NAMES, f"a curve of other columns: {head}"
    return [_point(dict(zip(NAMES, line.split("\t"), strict=True))) for line in lines]


def _point(cells: Mapping[str, str]) -> Point:
    def read(name: str) -> int | float | None:
        if name in WHOLE:
            return int(cells[name])
        return float(cells[name]) if cells[name] else None

    return Point(**{name: read(name) for name in NAMES})  # type: ignore[arg-type]


def last_validation(points: Sequence[Point]) -> float | None:
    """The validation loss of the run's end; None where none was measured."""
    measured = [one.validation_loss for one in points if one.validation_loss is not None]
    return measured[-1] if measured else None


def to_svg(points: Sequence[Point], title: str) -> bytes:
    """Loss over steps: as it was, smoothed, and on the samples held out. Up to where it diverged,
    if it did.
    """
    points = [one for one in points if not one.fault]
    drawn = [(one.step, one.loss) for one in points]
    held_out = [
        (one.step, one.validation_loss) for one in points if one.validation_loss is not None
    ]
    lines = [
        Line(name="loss", places=_thinned(drawn), color=GREY),
        Line(name="smoothed", places=_thinned(_smoothed(drawn)), color=BLUE, width=1.8),
        Line(name="held out", places=held_out, color=AMBER, width=1.8, is_dotted=True),
    ]
    said = f"{len(points):,} steps, {sum(one.target_tokens for one in points):,} target tokens"
    return chart(title, said, [line for line in lines if line.places], "step", "loss per token")


def _smoothed(places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    reach = max(1, len(places) // SMOOTHED)
    means = []
    for index, (step, _) in enumerate(places):
        near = places[max(0, index - reach) : index + reach + 1]
        means.append((step, math.fsum(loss for _, loss in near) / len(near)))
    return means


def _thinned(places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    size = max(1, math.ceil(len(places) / NUM_DRAWN))
    found = []
    for first in range(0, len(places), size):
        near = places[first : first + size]
        found.append((near[-1][0], math.fsum(loss for _, loss in near) / len(near)))
    return found
