"""A judge's trust as a table for people: at most 80 columns, and a screen long."""

from __future__ import annotations

from collections.abc import Iterator

from ray_jobs.agreement import Estimate
from ray_jobs.calibration import Calibration
from serve.trust import Drift, Standing, Trust

WIDTH = 34  # of the names


def table(trust: Trust) -> str:
    """Every figure with its interval and what it is over."""
    return "\n".join(_lines(trust))


def _lines(trust: Trust) -> Iterator[str]:
    num = trust.standings[0].num
    yield f"judge {trust.judge}: {trust.num_anchors} anchors with {num} responses"
    yield "means and shares with 95 % intervals, of how many"
    for one in trust.standings:
        yield from _of_backend(one)
    yield from _of_pairs(trust)
    if any(one.part == "fallback" for one in trust.standings):
        yield _line("calibration, scores of responses", _calibrated(trust.calibration))
        yield _line("calibration, scores of prompts", _calibrated(trust.prompt_calibration))
    if not trust.drifts:
        yield "this start's answers are what later starts are compared with"
    yield from map(_of_drift, trust.drifts)
    yield f"ALARM {trust.alarm}" if trust.alarm else "no alarm"


def _of_backend(one: Standing) -> Iterator[str]:
    yield f"{one.part}: {one.backend}"
    if one.num_unscored is not None:
        yield _line("  unscored", f"{one.num_unscored} of {one.num}")
    yield _line("  without a verdict", f"{one.num_without_verdict} of {one.num}")
    if one.num_unscored is not None:
        yield _figure("  score, order of the pair swapped", one.order_difference)
        if one.repeat_deviation.num:
            yield _figure("  score, deviation of repeats", one.repeat_deviation)
        yield _figure("  score with anchors, Spearman", one.score_correlation)
    yield _figure("  verdict with anchors, accuracy", one.verdict_accuracy)
    yield _figure("  verdict with anchors, kappa", one.verdict_kappa)


def _of_pairs(trust: Trust) -> Iterator[str]:
    pairs = {
        "first with fallback, Spearman": trust.first_and_fallback_scores,
        "first with fallback, kappa": trust.first_and_fallback_verdicts,
        "first with guard, kappa": trust.first_and_guard_verdicts,
    }
    yield from (_figure(name, one) for name, one in pairs.items() if one is not None)


def _of_drift(one: Drift) -> str:
    moved = "-" if one.score_difference is None else f"{one.score_difference:.3f}"
    scores = f"scores moved by {moved} of {one.num_scores}; " if one.part != "guard" else ""
    changed = f"{one.num_changed} of {one.num_verdicts} verdicts changed"
    return f"{one.part} since {one.since[:10]}: {scores}{changed}"


def _calibrated(found: Calibration | None) -> str:
    if found is None:
        return "not calibrated"
    return f"error {found.error:.3f} (was {found.error_without:.3f}) of {found.num}"


def _figure(name: str, one: Estimate) -> str:
    return _line(name, one.text())


def _line(name: str, value: str) -> str:
    return f"{name.ljust(WIDTH)}  {value}"
