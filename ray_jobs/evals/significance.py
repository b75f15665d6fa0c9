"""P-values of differences between two models, and their correction for many comparisons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, Any]
MAX_KINDS = 500
"""With more kinds of clusters a normal distribution takes the place of drawing: by then it differs
in the third digit.
"""
FLIPS = 20_000
FEW_FLIPS = 10
"""With fewer draws as extreme as what was seen, a p-value is read from the normal tail."""
MIN_FOR_NORMAL = 50


def sign_flip(changes: Array, seed: int) -> float:
    """The two-sided p-value of clusters' changes, where each might as well have gone the other way.

    With changes of one size alone (a share, each sample a cluster of its own) it is McNemar's exact
    test.
    """
    moved = changes[np.abs(changes) > 1e-9]
    if not len(moved):
        return 1.0
    sizes, counts = np.unique(np.round(np.abs(moved), 9), return_counts=True)
    if len(sizes) == 1:
        return _mcnemar(int((moved > 0).sum()), len(moved))
    seen, spread = abs(float(moved.sum())), math.sqrt(float(moved @ moved))
    normal = math.erfc(seen / spread / math.sqrt(2))
    if len(sizes) > MAX_KINDS:
        return normal
    ups = np.random.default_rng(seed).binomial(counts, 0.5, size=(FLIPS, len(counts)))
    num = int((np.abs((2 * ups - counts) @ sizes) >= seen - 1e-9).sum())
    if num < FEW_FLIPS and len(moved) >= MIN_FOR_NORMAL:
        return normal
    return (num + 1) / (FLIPS + 1)


def _mcnemar(num_up: int, num: int) -> float:
    fewer = min(num_up, num - num_up)
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, num + 1)))])
    places = np.arange(fewer + 1)
    tail = np.exp(logs[num] - logs[places] - logs[num - places] - num * math.log(2)).sum()
    return min(1.0, 2 * float(tail))


def holm(values: Sequence[float | None]) -> list[float | None]:
    """P-values corrected for their number after Holm, in their order. None stays None and does not
    count.
    """
    known = sorted((value, place) for place, value in enumerate(values) if value is not None)
    corrected: list[float | None] = [None] * len(values)
    highest = 0.0
    for rank, (value, place) in enumerate(known):
        highest = max(highest, min(1.0, value * (len(known) - rank)))
        corrected[place] = highest
    return corrected
