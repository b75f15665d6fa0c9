"""One judge's scores brought to another's scale: a rising curve, fitted on what both have scored.

Scores of two judges are never mixed without it (paper, section 3.7, takes one judge for all).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]

MIN_PAIRS = 20
NUM_FOLDS = 5


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A rising, piecewise linear map from one judge's scores to another's; flat beyond its ends."""

    points: tuple[tuple[float, float], ...]
    """The curve: the judge's score, and the score on the other's scale."""
    error: float
    """Mean absolute error, on pairs that were left out of the fit."""
    error_without: float
    """The same where scores are taken as they are."""
    error_of_constant: float
    """The same where the judge is not asked and the other's usual score is taken for every one."""
    num: int
    """Pairs that both have scored."""

    def apply(self, score: float) -> float:
        """A score on the other judge's scale."""
        said, meant = zip(*self.points, strict=True)
        return float(np.interp(score, said, meant))

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    def text(self) -> str:
        """For tables: the errors and what they are over."""
        return (
            f"mean absolute error {self.error:.3f} on pairs left out of the fit; "
            f"{self.error_without:.3f} without, of {self.num}"
        )


def read(data: Mapping[str, Any]) -> Calibration:
    """What `plain` gave."""
    points = tuple((float(said), float(meant)) for said, meant in data["points"])
    return Calibration(**{**data, "points": points})


def fit(
    scores: Sequence[float | None],
    wanted: Sequence[float | None],
    prompts: Sequence[Hashable] | None = None,
) -> Calibration | None:
    """The map from `scores` to `wanted`, over what both have scored: isotonic regression, or scores
    as they are where pairs that were left out of the fit say that these are nearer.

    `prompts` says what each pair is about: all of a prompt is left out together. None, which means
    not calibrated, under MIN_PAIRS pairs, and where the scores tell no more of the wanted ones than
    their median does.
    """
    about = range(len(scores)) if prompts is None else prompts
    known = [
        (score, want, name)
        for score, want, name in zip(scores, wanted, about, strict=True)
        if score is not None and want is not None
    ]
    if len(known) < MIN_PAIRS:
        return None
    x, y = (np.array([pair[k] for pair in known], np.float64) for k in (0, 1))
    fitted, constant = _errors(x, y, [name for *_, name in known])
    without = float(np.abs(x - y).mean())
    error = min(fitted, without)
    if not error < constant:
        return None
    curve = _curve(x, y) if fitted < without else ((0.0, 0.0), (1.0, 1.0))
    return Calibration(
        points=curve,
        error=error,
        error_without=without,
        error_of_constant=constant,
        num=len(known),
    )


def _errors(x: Floats, y: Floats, prompts: Sequence[Hashable]) -> tuple[float, float]:
    """Mean absolute errors of curve and median, each fold by what the others say."""
    turn = {name: number % NUM_FOLDS for number, name in enumerate(dict.fromkeys(prompts))}
    fold = np.array([turn[name] for name in prompts])
    curved, constant = np.empty(len(x)), np.empty(len(x))
    for number in set(turn.values()):
        out = fold == number
        if out.all():  # all pairs are of one prompt: nothing can be left out
            return float("inf"), 0.0
        said, meant = zip(*_curve(x[~out], y[~out]), strict=True)
        curved[out] = np.abs(np.interp(x[out], said, meant) - y[out])
        constant[out] = np.abs(np.median(y[~out]) - y[out])
    return float(curved.mean()), float(constant.mean())


def _curve(x: Floats, y: Floats) -> tuple[tuple[float, float], ...]:
    """The rising curve nearest to the pairs by squares; equal scores count as one, with weight."""
    from scipy.optimize import isotonic_regression

    said, which, weights = np.unique(x, return_inverse=True, return_counts=True)
    means = np.bincount(which, y) / weights
    meant = isotonic_regression(means, weights=weights).x
    return tuple(zip(said.tolist(), meant.tolist(), strict=True))
