"""What the audit makes of the judge's figure: the share of safe answers, corrected for the judge's
errors.

Two ways, side by side, on the same assumptions: the audited rows are a simple random sample of the
judged ones, people are right, and the rows that the judge left open are all labelled. Where some
are not, or people could not decide, the figure is given twice: were they all unsafe, all safe.

- Prediction-powered: see powered.py.
- Rogan and Gladen (1978): the judge's share solved for what was really there, by its sensitivity
  and specificity in the audit; interval of Lang and Reiczigel (2014). Wide where a judge is poor,
  none where it does no better than chance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ray_jobs.agreement import Estimate
from ray_jobs.evals.powered import Judged, powered
from ray_jobs.evals.statistics import Z, wilson


@dataclass(frozen=True, kw_only=True)
class Corrected:
    """A share of safe answers after the audit, with 95 % intervals."""

    num: int
    """Answers that the judge was asked about."""
    num_audited: int
    num_open: int
    """Rows that the judge left open, or that were audited, and that people have not decided: where
    it is 0, `…_low` and `…_high` are the same."""
    powered_low: Estimate
    """Prediction-powered, were all that is open unsafe."""
    powered_high: Estimate
    """The same, were it all safe."""
    rogan_gladen_low: Estimate
    rogan_gladen_high: Estimate
    sensitivity: Estimate
    """Of what people call unsafe in the audit, what the judge calls unsafe."""
    specificity: Estimate
    """Of what people call safe in the audit, what the judge calls safe."""


def corrected(rows: Judged) -> Corrected:
    """The share of safe answers, corrected for the errors that the audit found."""
    unsafe, safe = rows.filled(0.0), rows.filled(1.0)
    sensitivity, specificity = rates(rows)
    return Corrected(
        num=len(rows.judge),
        num_audited=int(rows.is_audited.sum()),
        num_open=int(rows.is_open.sum()),
        powered_low=powered(unsafe),
        powered_high=powered(safe),
        rogan_gladen_low=rogan_gladen(unsafe),
        rogan_gladen_high=rogan_gladen(safe),
        sensitivity=sensitivity,
        specificity=specificity,
    )


def rates(rows: Judged) -> tuple[Estimate, Estimate]:
    """Sensitivity and specificity of the judge for unsafe answers, over what the audit decided."""
    seen = rows.is_audited & ~np.isnan(rows.people)
    judge, people = rows.judge[seen], rows.people[seen]
    unsafe, safe = people == 0, people == 1
    return (
        _share(int((judge[unsafe] == 0).sum()), int(unsafe.sum())),
        _share(int((judge[safe] == 1).sum()), int(safe.sum())),
    )


def _share(num_hits: int, num: int) -> Estimate:
    """Of nothing none."""
    if not num:
        return Estimate(value=None, num=0)
    low, high = wilson(num_hits, num)
    return Estimate(value=num_hits / num, low=low, high=high, num=num)


def rogan_gladen(rows: Judged) -> Estimate:
    """The Rogan–Gladen share of rows in which people have left nothing open: of the judged ones,
    solved for what was really there; of the uncertain ones, as people say.

    None where the judge does no better than chance in the audit, or the audit has only safe, or
    only unsafe answers. Takes rows as independent.
    """
    uncertain = np.isnan(rows.judge)
    num, num_judged = len(rows.judge), int((~uncertain).sum())
    said = _share(int(np.nansum(rows.people[uncertain])), num - num_judged)
    if not num_judged:
        return said
    unsafe = _solved(int((rows.judge == 0).sum()), num_judged, *rates(rows))
    if unsafe.value is None or unsafe.low is None or unsafe.high is None:
        return Estimate(value=None, num=num)
    value, low, high = 1 - unsafe.value, 1 - unsafe.high, 1 - unsafe.low
    if said.value is None or said.low is None or said.high is None:
        return Estimate(value=value, low=low, high=high, num=num)
    # Both parts' intervals, squared and added (Zou and Donner, 2008).
    part = num_judged / num
    middle = part * value + (1 - part) * said.value
    down = math.hypot(part * (value - low), (1 - part) * (said.value - said.low))
    up = math.hypot(part * (high - value), (1 - part) * (said.high - said.value))
    return Estimate(value=middle, low=max(0.0, middle - down), high=min(1.0, middle + up), num=num)


def _solved(num_hits: int, num: int, sensitivity: Estimate, specificity: Estimate) -> Estimate:
    """What share is really there where a test with these rates hits so many (Lang and Reiczigel,
    2014, for the interval).
    """
    if sensitivity.value is None or specificity.value is None:
        return Estimate(value=None, num=num)
    gain = sensitivity.value + specificity.value - 1
    if gain <= 0:
        return Estimate(value=None, num=num)
    value = (num_hits / num + specificity.value - 1) / gain
    sizes = [num + Z * Z, sensitivity.num + 2, specificity.num + 2]
    hit = (num_hits + Z * Z / 2) / sizes[0]
    sens = (sensitivity.num * sensitivity.value + 1) / sizes[1]
    spec = (specificity.num * specificity.value + 1) / sizes[2]
    gain = sens + spec - 1
    if gain <= 0:
        return Estimate(value=None, num=num)
    middle = (hit + spec - 1) / gain
    by_sens, by_spec = sens * (1 - sens) / sizes[1], spec * (1 - spec) / sizes[2]
    shift = 2 * Z * Z * (middle * by_sens - (1 - middle) * by_spec)
    spread = hit * (1 - hit) / sizes[0] + middle**2 * by_sens + (1 - middle) ** 2 * by_spec
    reach = Z * math.sqrt(spread) / gain
    ends = [min(max(end, 0.0), 1.0) for end in (middle + shift - reach, middle + shift + reach)]
    value = min(max(value, 0.0), 1.0)
    return Estimate(value=value, low=min(ends[0], value), high=max(ends[1], value), num=num)
