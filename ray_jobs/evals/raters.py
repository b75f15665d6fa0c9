"""How far those who label agree, beyond what chance would have them agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np

from ray_jobs.agreement import CONFIDENCE, RESAMPLES, Estimate, kappa
from ray_jobs.evals.labels import Key, Label, latest

Array: TypeAlias = np.ndarray[Any, Any]
MIN_ROWS = 10
"""With fewer no interval is honest."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Over the rows that several people labelled."""

    num_rows: int
    """Rows with at least two labels."""
    num_unanimous: int
    num_tied: int
    """Rows on which no label has more than half."""
    fleiss: Estimate
    """Fleiss' kappa over all of them."""
    pairs: Mapping[tuple[str, str], Estimate]
    """Cohen's kappa of every two annotators who have rows in common."""


def agreement(labels: Iterable[Label], seed: int = 0) -> Agreement:
    """Of the last label of each annotator on each row."""
    votes: dict[Key, dict[str, str]] = {}
    for label in latest(labels):
        assert label.label is not None
        votes.setdefault(label.key, {})[label.annotator] = label.label
    several = [row for row in votes.values() if len(row) > 1]
    most = [(max(Counter(row.values()).values()), len(row)) for row in several]
    annotators = sorted({name for row in several for name in row})
    pairs = {
        (first, second): kappa([row[first] for row in common], [row[second] for row in common])
        for first, second in combinations(annotators, 2)
        if (common := [row for row in several if first in row and second in row])
    }
    return Agreement(
        num_rows=len(several),
        num_unanimous=sum(top == num for top, num in most),
        num_tied=sum(2 * top <= num for top, num in most),
        fleiss=fleiss([list(row.values()) for row in several], seed),
        pairs=pairs,
    )


def fleiss(rows: list[list[str]], seed: int = 0) -> Estimate:
    """Fleiss' kappa (1971) over rows of two labels or more, with the percentile interval of a
    seeded bootstrap over rows. Rows may differ in their number of labels: each counts once in the
    agreement, each label once in what chance would do.

    None where all labels are one and the same: then chance agrees as well. No interval where all
    rows agree alike, as where nobody ever disagrees, or are few: its width would tell nothing.
    """
    assert all(len(row) > 1 for row in rows), "agreement takes two"
    names = sorted({label for row in rows for label in row})
    if len(names) < 2:
        return Estimate(value=None, num=len(rows))
    counts = np.array([[row.count(name) for name in names] for row in rows], np.float64)
    sizes = counts.sum(1)
    agreed = (counts * (counts - 1)).sum(1) / (sizes * (sizes - 1))
    value = float(_kappa(np.ones((1, len(rows))), agreed, counts)[0])
    if len(rows) < MIN_ROWS or not np.ptp(agreed):
        return Estimate(value=value, num=len(rows))
    kinds, kind_of = np.unique(counts, axis=0, return_inverse=True)
    of_kind = np.bincount(kind_of.ravel())
    first = [int(np.flatnonzero(kind_of.ravel() == kind)[0]) for kind in range(len(kinds))]
    times = np.random.default_rng(seed).multinomial(len(rows), of_kind / len(rows), size=RESAMPLES)
    drawn = _kappa(times.astype(np.float64), agreed[first], kinds)
    # A drawing of one label alone has no kappa; as in the figure itself, it is left out.
    low, high = np.nanquantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(value=value, low=float(low), high=float(high), num=len(rows))


def _kappa(times: Array, agreed: Array, counts: Array) -> Array:
    """Kappa of each drawing, in which each row stands so many `times`."""
    shares = times @ counts
    shares = shares / shares.sum(1, keepdims=True)
    chance = (shares**2).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Array = (times @ agreed / times.sum(1) - chance) / (1 - chance)
    return np.where(np.isfinite(found), found, np.nan)
