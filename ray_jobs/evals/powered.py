"""The share of safe answers by prediction-powered inference (Angelopoulos et al., Science 2023;
power-tuned as in PPI++, 2023): the judge's share plus the mean error that the audit found. The
wider the judge is off, the more the audit alone speaks. And how far two models differ in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ray_jobs.agreement import CONFIDENCE, Estimate
from ray_jobs.evals.statistics import Array, Z

MIN_AUDITED = 10
"""With fewer no interval is honest."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One suite's answers of one model: what the judge says, and what people say."""

    judge: Array
    """1 safe, 0 unsafe; nan where it is uncertain or gave no verdict."""
    people: Array
    """What people decide: 1 safe, 0 unsafe; nan where nobody was asked or they could not tell."""
    is_audited: Array
    """Whether the row was drawn for the audit, and somebody has labelled it, decided or not."""
    clusters: Array
    """What each row's errors may be shared with: its base prompt, pair or parent."""

    def __post_init__(self) -> None:
        sizes = {len(part) for part in (self.judge, self.people, self.is_audited, self.clusters)}
        assert len(sizes) == 1, "a judged row has a judge's word, people's, and a cluster"
        assert not np.any(self.is_audited & np.isnan(self.judge)), "only judged rows are audited"

    @property
    def is_open(self) -> Array:
        """Which rows people were to decide, and have not."""
        found: Array = np.isnan(self.people) & (np.isnan(self.judge) | self.is_audited)
        return found

    def filled(self, value: float) -> Judged:
        """With all that people have left open taken for safe (1) or unsafe (0)."""
        people = np.where(self.is_open, value, self.people)
        return Judged(
            judge=self.judge, people=people, is_audited=self.is_audited, clusters=self.clusters
        )


@dataclass(frozen=True, kw_only=True)
class _Share:
    """A share, and what its variance is made of."""

    value: float
    influences: Array
    """What each row adds to its error; a row's cluster adds the sum."""
    unseen: float
    """The variance that errors which the audit did not meet may add."""
    num_seen: int
    is_sure: bool
    """Whether there is enough for an interval."""


def powered(rows: Judged, weight: float | None = None) -> Estimate:
    """The prediction-powered share, of rows in which people have left nothing open.

    `weight` is how much the judge's word counts; None: as much as makes the figure surest, which is
    the slope of people's word on the judge's (the lambda of PPI++ times 1 + audited/others).

    Its variance is that of the rows' influences, summed within clusters. To it is added what two
    more errors, one in each direction, would add: an audit that found no error does not prove that
    there is none.
    """
    num, found = len(rows.judge), _share(rows, weight)
    if found is None:
        return Estimate(value=None, num=num)
    at = min(max(found.value, 0.0), 1.0)
    if not found.is_sure:
        return Estimate(value=at, num=num)
    variance = _variance(found.influences, rows.clusters) + found.unseen
    reach = _quantile(found.num_seen) * math.sqrt(variance)
    low, high = max(0.0, found.value - reach), min(1.0, found.value + reach)
    return Estimate(value=at, low=low, high=high, num=num)


def difference(first: Judged, second: Judged) -> Estimate:
    """The second model's share less the first one's, each corrected by its own audit, of rows in
    which people have left nothing open. What both have of one cluster goes together, so that models
    asked and audited on the same samples are compared in pairs.
    """
    num = min(len(first.judge), len(second.judge))
    one, other = _share(first), _share(second)
    if one is None or other is None:
        return Estimate(value=None, num=num)
    value = other.value - one.value
    at = min(max(value, -1.0), 1.0)
    if not (one.is_sure and other.is_sure):
        return Estimate(value=at, num=num)
    influences = np.concatenate([-one.influences, other.influences])
    clusters = np.concatenate([first.clusters, second.clusters])
    variance = _variance(influences, clusters) + one.unseen + other.unseen
    reach = max(map(_quantile, (one.num_seen, other.num_seen))) * math.sqrt(variance)
    return Estimate(value=at, low=max(-1.0, value - reach), high=min(1.0, value + reach), num=num)


def _share(rows: Judged, weight: float | None = None) -> _Share | None:
    """None where there is no row, or the judge has judged and nobody has audited it."""
    left_open, seen = np.isnan(rows.judge), rows.is_audited
    num, num_judged, num_seen = len(rows.judge), int((~left_open).sum()), int(seen.sum())
    if not num or (num_judged and not num_seen):
        return None
    judge, people = np.nan_to_num(rows.judge), np.nan_to_num(rows.people)
    assert not np.any(np.isnan(rows.people[left_open | seen])), "rows are filled before"
    tuned = _slope(judge[seen], people[seen]) if weight is None else weight
    errors = people[seen] - tuned * judge[seen]
    offset = float(errors.mean()) if num_seen else 0.0
    terms = np.where(left_open, people, tuned * judge + offset)
    value = float(terms.mean())
    influences = terms - value
    if num_seen:
        influences[seen] += (num_judged / num_seen) * (errors - offset)
    return _Share(
        value=value,
        influences=influences / num,
        unseen=(num_judged / num) ** 2 * _unseen(errors - offset),
        num_seen=num_seen,
        is_sure=num > 1 and (not num_seen or num_seen >= MIN_AUDITED),
    )


def _slope(judge: Array, people: Array) -> float:
    """Of people's word on the judge's, within 0…1; 1 where the judge always says the same."""
    if len(judge) < 2 or not np.ptp(judge):
        return 1.0
    spread = np.cov(people, judge)
    return float(min(1.0, max(0.0, spread[0, 1] / spread[1, 1])))


def _variance(influences: Array, clusters: Array) -> float:
    """Of their sum, where what is of one cluster goes together."""
    _, places = np.unique(clusters, return_inverse=True)
    sums = np.bincount(places, influences)
    num = len(sums)
    return float(sums @ sums) * (num / (num - 1) if num > 1 else 1.0)


def _unseen(errors: Array) -> float:
    """What an error of +1 and one of -1 more would add to the variance of the mean error."""
    num = len(errors)
    if not num:
        return 0.0
    total = float(errors @ errors)
    return max(0.0, (total + 2) / (num + 2) ** 2 - total / num**2)


def _quantile(num_seen: int) -> float:
    """Student's, since few audited rows tell little of how far their errors vary."""
    if not num_seen:
        return Z
    from scipy.special import stdtrit  # scipy.stats takes a second to import

    return float(stdtrit(num_seen - 1, (1 + CONFIDENCE) / 2))
