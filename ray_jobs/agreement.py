"""How far two raters agree, and how sure that is: figures with 95 % intervals.

Every figure says over how many it is taken. One that the data cannot tell is None, never 0 or 1.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 5_000
BATCH_NUMBERS = 2_000_000
"""Resampled numbers that are in memory at once."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: float | None
    """None where it cannot be told: too few, or nothing varies."""
    low: float | None = None
    high: float | None = None
    """None where the value can be told and its interval cannot."""
    num: int
    """What it is taken over."""

    def text(self, digits: int = 3) -> str:
        """For tables: `0.842 [0.801, 0.880] of 120`."""
        if self.value is None:
            return f"cannot be told of {self.num}"
        if self.low is None or self.high is None:
            return f"{self.value:.{digits}f} of {self.num}"
        return (
            f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}] of {self.num}"
        )

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def kappa(first: Sequence[str | None], second: Sequence[str | None]) -> Estimate:
    """Cohen's kappa over what both have labelled, with the asymptotic interval of Fleiss, Cohen and
    Everitt (1969), which takes the pairs as independent.

    None where both gave one and the same label to all: then chance agrees as well as they do. No
    interval where they never disagree: its width would be 0 however few there are.
    """
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    labels = sorted({label for pair in pairs for label in pair})
    if len(labels) < 2:
        return Estimate(value=None, num=len(pairs))
    from statsmodels.stats.inter_rater import cohens_kappa

    table = np.zeros((len(labels), len(labels)))
    for a, b in pairs:
        table[labels.index(a), labels.index(b)] += 1
    with np.errstate(invalid="ignore", divide="ignore"):  # a test statistic that nobody reads
        found = cohens_kappa(table)
    value = float(found.kappa)
    if not found.std_kappa > 0:
        return Estimate(value=value, num=len(pairs))
    low, high = max(-1.0, float(found.kappa_low)), min(1.0, float(found.kappa_upp))
    return Estimate(value=value, low=low, high=high, num=len(pairs))


def spearman(first: Sequence[float | None], second: Sequence[float | None]) -> Estimate:
    """Spearman's rank correlation over what both have scored, with Fisher's interval by the
    variance of Bonett and Wright (2000), which takes the pairs as independent.

    None under three pairs, or where one of the two gave the same score to all.
    """
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    num = len(pairs)
    if num < 3 or any(len(set(scores)) < 2 for scores in zip(*pairs, strict=True)):
        return Estimate(value=None, num=num)
    from scipy.stats import norm, spearmanr

    value = float(spearmanr(*zip(*pairs, strict=True)).statistic)
    if num < 5 or abs(value) > 1 - 1e-9:
        return Estimate(value=value, num=num)
    middle, reach = math.atanh(value), float(norm.ppf((1 + CONFIDENCE) / 2))
    reach *= math.sqrt((1 + value**2 / 2) / (num - 3))
    return Estimate(
        value=value, low=math.tanh(middle - reach), high=math.tanh(middle + reach), num=num
    )


def share(num_hits: int, num: int) -> Estimate:
    """A share, with Wilson's interval. None of nothing."""
    assert 0 <= num_hits <= num, f"{num_hits} of {num} is no share"
    if not num:
        return Estimate(value=None, num=0)
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(num_hits, num, alpha=1 - CONFIDENCE, method="wilson")
    return Estimate(value=num_hits / num, low=float(low), high=float(high), num=num)


def mean(
    values: Sequence[float], clusters: Sequence[Hashable] | None = None, seed: int = 0
) -> Estimate:
    """A mean, with the percentile interval of a seeded bootstrap; where `clusters` are given, whole
    clusters are drawn, since what is of one prompt is not independent.

    None of nothing; no interval under two clusters, or where all have the same mean.
    """
    if not len(values):
        return Estimate(value=None, num=0)
    sums, sizes = _by_cluster(values, clusters)
    value = float(sums.sum() / sizes.sum())
    if len(sums) < 2 or not np.ptp(sums / sizes):
        return Estimate(value=value, num=len(values))
    from scipy.stats import bootstrap

    found = bootstrap(
        (sums, sizes),
        lambda total, size, axis: total.sum(axis) / size.sum(axis),
        paired=True,
        vectorized=True,
        confidence_level=CONFIDENCE,
        n_resamples=RESAMPLES,
        batch=max(1, BATCH_NUMBERS // len(sums)),
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(value=value, low=float(found.low), high=float(found.high), num=len(values))


def mean_difference(
    first: Sequence[float],
    second: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> Estimate:
    """The mean of first less second, pair by pair; its interval as in `mean`."""
    return mean([a - b for a, b in zip(first, second, strict=True)], clusters, seed)


def _by_cluster(
    values: Sequence[float], clusters: Sequence[Hashable] | None
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Each cluster's sum and size, in the order in which clusters first appear."""
    numbers = np.asarray(values, np.float64)
    if clusters is None:
        return numbers, np.ones(len(numbers))
    assert len(clusters) == len(numbers), "every value is of a cluster"
    place = {name: number for number, name in enumerate(dict.fromkeys(clusters))}
    of = [place[name] for name in clusters]
    return np.bincount(of, numbers), np.bincount(of).astype(np.float64)
