"""Figures over scored samples with 95 % intervals, and two models compared on the same samples.

What is of one cluster (a base prompt, a pair, a parent) is not independent, so whole clusters are
drawn. Clusters with equal totals are of one kind: how often each kind is drawn has a multinomial
distribution, which is the same bootstrap as drawing clusters one by one, at a thousandth of its
cost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal, TypeAlias

import numpy as np

from ray_jobs.agreement import CONFIDENCE, Estimate
from ray_jobs.evals.significance import MAX_KINDS, sign_flip

Array: TypeAlias = np.ndarray[Any, Any]
Method = Literal[
    "wilson",  # each sample alone, scored 0 or 1
    "wilson, effective number",  # clusters, nearly all at one end
    "bootstrap",  # over clusters
    "adjusted",  # a difference, after Bonett and Price (2012): two clusters more, one each way
    "linearised",  # too many kinds of clusters for the bootstrap
    "no cluster differs",
    "nothing scored",
]
Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
RESAMPLES = 2_000
FEW = 5
"""With fewer clusters that are off an end, or that moved at all, a bootstrap is too sure."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A share or a mean, and how its interval was found."""

    estimate: Estimate
    num_clusters: int
    method: Method


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A second model less a first one, on the samples that are scored for both."""

    points: Estimate
    """The difference of the means, in the unit of the scores: .05 is five points of a share."""
    relative: Estimate
    """The same as a part of the first one's mean; None where that is 0."""
    p: float | None
    """Two-sided, before any correction, of the hypothesis that clusters favour neither model."""
    num_clusters: int
    method: Method


def figure(scores: Array, clusters: Array, seed: int) -> Figure:
    """The mean of scores in 0…1, with Wilson's interval where each sample is a cluster of its own
    and scored 0 or 1, else with that of a bootstrap over clusters.
    """
    return figures(scores[:, None], clusters, seed)[0]


def figures(scores: Array, clusters: Array, seed: int) -> list[Figure]:
    """The same of each column: several scores of the same samples."""
    num = len(scores)
    if not num:
        nothing = Estimate(value=None, num=0)
        return [Figure(estimate=nothing, num_clusters=0, method="nothing scored")] * scores.shape[1]
    totals, sizes = cluster_totals(scores, clusters)
    if len(sizes) == num and not np.any(scores * (1 - scores)):
        ends = [wilson(float(hits), num) for hits in totals.sum(0)]
        methods: list[Method] = ["wilson"] * len(ends)
    else:
        drawn = _draws(totals, sizes, seed)
        found = [_share_interval(sums, sizes, drawn, place) for place, sums in enumerate(totals.T)]
        ends, methods = [one[0] for one in found], [one[1] for one in found]
    means = scores.mean(axis=0)
    return [
        Figure(
            estimate=Estimate(value=float(value), low=low, high=high, num=num),
            num_clusters=len(sizes),
            method=method,
        )
        for value, (low, high), method in zip(means, ends, methods, strict=True)
    ]


def compare(first: Array, second: Array, clusters: Array, seed: int) -> Comparison:
    """The second model's scores less the first one's, sample by sample."""
    num = len(first)
    if not num:
        nothing = Estimate(value=None, num=0)
        return Comparison(
            points=nothing, relative=nothing, p=None, num_clusters=0, method="nothing scored"
        )
    totals, sizes = cluster_totals(np.stack([first, second], 1), clusters)
    changes = totals[:, 1] - totals[:, 0]
    value, before = float(second.mean() - first.mean()), float(first.mean())
    drawn = _draws(totals, sizes, seed)
    (low, high), method = _change_interval(changes, sizes, drawn)
    return Comparison(
        points=Estimate(value=value, low=low, high=high, num=num),
        relative=_relative(value, before, drawn, num),
        p=sign_flip(changes, seed),
        num_clusters=len(sizes),
        method=method,
    )


def _change_interval(
    changes: Array, sizes: Array, drawn: Array | None
) -> tuple[tuple[float, float], Method]:
    is_plain = not np.any(sizes != 1) and not np.any(changes * (changes**2 - 1))
    is_few = np.count_nonzero(changes) < FEW
    if (is_plain or is_few) and np.ptp(changes / sizes) > 1e-12:
        return _adjusted(changes, sizes), "adjusted"
    moved = drawn if drawn is None else np.stack([drawn[:, 1] - drawn[:, 0], drawn[:, 2]], 1)
    return _interval(changes, sizes, (-1.0, 1.0), moved, 0)


def _adjusted(changes: Array, sizes: Array) -> tuple[float, float]:
    """The interval of Bonett and Price, for clusters: as if two more of the mean size had been
    seen, one all for each model.
    """
    size = float(sizes.mean())
    more, larger = np.append(changes, [size, -size]), np.append(sizes, [size, size])
    value = float(more.sum() / larger.sum())
    off = more - value * larger
    error = math.sqrt(float(off @ off)) / float(larger.sum())
    return max(-1.0, value - Z * error), min(1.0, value + Z * error)


def change(first: Array, second: Array, clusters: Array) -> Estimate:
    """The difference alone, with the adjusted interval: what bounds take, at no cost."""
    totals, sizes = cluster_totals((second - first)[:, None], clusters)
    low, high = _adjusted(totals[:, 0], sizes)
    return Estimate(value=float(second.mean() - first.mean()), low=low, high=high, num=len(first))


def p_of_change(first: Array, second: Array, clusters: Array, seed: int) -> float:
    """The difference's p-value alone, as `compare` has it."""
    totals, _ = cluster_totals((second - first)[:, None], clusters)
    return sign_flip(totals[:, 0], seed)


def cluster_totals(scores: Array, clusters: Array) -> tuple[Array, Array]:
    """Each cluster's sums, a column for each of the columns of `scores`, and its size."""
    _, places, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    sums = [np.bincount(places, column) for column in scores.T]
    return np.stack(sums, 1), sizes.astype(np.float64)


def wilson(num_hits: float, num: float) -> tuple[float, float]:
    """Wilson's interval of a share, which does not shrink to nothing at 0 and 1."""
    share, spread = num_hits / num, Z * Z / num
    middle = share + spread / 2
    reach = Z * math.sqrt(share * (1 - share) / num + spread / (4 * num))
    low, high = (middle - reach) / (1 + spread), (middle + reach) / (1 + spread)
    return (0.0 if num_hits == 0 else max(0.0, low)), (1.0 if num_hits == num else min(1.0, high))


def _share_interval(
    sums: Array, sizes: Array, drawn: Array | None, place: int
) -> tuple[tuple[float, float], Method]:
    ratios = sums / sizes
    num_off_ends = min((ratios > 0).sum(), (ratios < 1).sum())
    if 0 < num_off_ends < FEW and np.ptp(ratios) > 1e-12:
        value = float(sums.sum() / sizes.sum())
        error = _error(sums, sizes, value)
        num = min(float(sizes.sum()), value * (1 - value) / error**2)
        return wilson(value * num, num), "wilson, effective number"
    return _interval(sums, sizes, (0.0, 1.0), drawn, place)


def _error(sums: Array, sizes: Array, value: float) -> float:
    """The standard error of a ratio of totals, clusters being drawn."""
    off = sums - value * sizes
    return math.sqrt(len(sums) / (len(sums) - 1) * float(off @ off)) / float(sizes.sum())


def _interval(
    sums: Array, sizes: Array, ends: tuple[float, float], drawn: Array | None, place: int
) -> tuple[tuple[float, float], Method]:
    value = float(sums.sum() / sizes.sum())
    if np.ptp(sums / sizes) < 1e-12:
        # No bootstrap can tell what was never seen. Of so many clusters at most this share differ
        # (Wilson's bound of none), and each differs at most as far as a score can go.
        most = wilson(0, len(sums))[1]
        low, high = value - most * (value - ends[0]), value + most * (ends[1] - value)
        return (low, high), "no cluster differs"
    if drawn is None:
        reach = Z * _error(sums, sizes, value)
        low, high = value - reach, value + reach
        return (max(ends[0], low), min(ends[1], high)), "linearised"
    return _middle(drawn[:, place] / drawn[:, -1]), "bootstrap"


def _relative(value: float, before: float, drawn: Array | None, num: int) -> Estimate:
    if before <= 0:
        return Estimate(value=None, num=num)
    if drawn is None or np.any(drawn[:, 0] <= 0) or not np.ptp(drawn[:, 1] / drawn[:, 0]):
        return Estimate(value=value / before, num=num)
    low, high = _middle(drawn[:, 1] / drawn[:, 0] - 1)
    return Estimate(value=value / before, low=low, high=high, num=num)


def _draws(totals: Array, sizes: Array, seed: int) -> Array | None:
    """The totals and, last, the sizes, summed over clusters drawn with replacement: a line for each
    drawing. None where there are too many kinds of clusters.
    """
    columns = np.column_stack([np.round(totals, 9), sizes])
    codes = np.zeros(len(columns), np.int64)
    for column in columns.T:
        values, places = np.unique(column, return_inverse=True)
        codes = codes * len(values) + places
    _, first, counts = np.unique(codes, return_index=True, return_counts=True)
    if len(counts) > MAX_KINDS:
        return None
    num = int(counts.sum())
    times = np.random.default_rng(seed).multinomial(num, counts / num, size=RESAMPLES)
    found: Array = times @ columns[first]
    return found


def _middle(values: Array) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
