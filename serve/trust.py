"""What the anchors say of a judge: how its backends stand to people, to one another and to their
own first answers. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, Literal, TypeAlias

from ray_jobs import agreement, calibration
from ray_jobs.agreement import Estimate
from ray_jobs.anchors import Anchor, fingerprint
from ray_jobs.calibration import Calibration

Part = Literal["first", "fallback", "guard"]
Scores: TypeAlias = Sequence[float | None]
Labels: TypeAlias = Sequence[str | None]


@dataclass(frozen=True, kw_only=True)
class Examined:
    """What one backend said to the anchors; scores and verdicts by response, anchor by anchor."""

    part: Part
    backend: str
    """As its answers name it, with a provider's snapshot where there is one."""
    verdicts: Labels
    scores: Scores = ()
    """Empty for a guard, which gives none."""
    order_differences: Scores = ()
    """Of the scores in the order given and in the other; null where there is none."""
    deviations: Scores = ()
    """Standard deviations of scores that were drawn again; empty where none were."""
    prompt_scores: Scores = ()
    """By anchor; empty where none were asked for."""


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What all backends said."""

    anchors: Sequence[Anchor]
    backends: Sequence[Examined]

    def part(self, name: Part) -> Examined | None:
        """One of them, if the judge has it."""
        return next((one for one in self.backends if one.part == name), None)

    @property
    def names(self) -> list[str]:
        """Of the responses."""
        return [f"{one.id}/{k}" for one in self.anchors for k in range(len(one.responses))]


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a backend stands to who settled the anchors, and to itself."""

    part: Part
    backend: str
    num: int
    """Responses."""
    num_unscored: int | None
    """None for a guard, which gives no scores."""
    num_without_verdict: int
    order_difference: Estimate
    """Mean absolute difference that the order of the responses makes."""
    repeat_deviation: Estimate
    """Mean standard deviation of scores that were drawn again."""
    score_correlation: Estimate
    """Spearman's, with the scores that were settled."""
    verdict_accuracy: Estimate
    """Share of its verdicts that are the settled ones."""
    verdict_kappa: Estimate
    """Cohen's, with the settled ones."""


@dataclass(frozen=True, kw_only=True)
class Drift:
    """How far a backend has moved since the judge's first start."""

    part: Part
    was: str
    """The backend as its answers named it then."""
    since: str
    """When that was."""
    num_scores: int
    """Responses that were scored then and now."""
    score_difference: float | None
    """Mean absolute difference; None of nothing."""
    num_lost: int
    """Responses that had a score or verdict then, and now lack it."""
    num_verdicts: int
    num_changed: int
    """Of these verdicts."""


@dataclass(frozen=True, kw_only=True)
class Trust:
    """What tells whether the judge may be trusted."""

    judge: str
    num_anchors: int
    standings: Sequence[Standing]
    first_and_fallback_scores: Estimate | None
    """Spearman's; None without a fallback."""
    first_and_fallback_verdicts: Estimate | None
    """Cohen's kappa."""
    first_and_guard_verdicts: Estimate | None
    """The same; None without a guard."""
    calibration: Calibration | None
    """From the fallback's scores of responses to the first backend's. None: not calibrated."""
    prompt_calibration: Calibration | None
    """The same for scores of prompts."""
    drifts: Sequence[Drift]
    """Empty at the judge's first start."""
    alarm: str | None
    """What a person must look at; None where nothing is amiss."""

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def report(
    judge: str, found: Examination, reference: Mapping[str, Any] | None, max_drift: float
) -> Trust:
    """All figures. `reference` is what `reference_of` gave at the first start, if that is past."""
    first, fallback, guard = found.part("first"), found.part("fallback"), found.part("guard")
    assert first is not None, "a judge has a first backend"
    drifts = _drifts(found, reference) if reference else []
    scores, prompt_scores = calibrations(found)
    return Trust(
        judge=judge,
        num_anchors=len(found.anchors),
        standings=[_standing(one, found.anchors) for one in found.backends],
        first_and_fallback_scores=agreement.spearman(first.scores, fallback.scores)
        if fallback
        else None,
        first_and_fallback_verdicts=agreement.kappa(first.verdicts, fallback.verdicts)
        if fallback
        else None,
        first_and_guard_verdicts=agreement.kappa(first.verdicts, guard.verdicts) if guard else None,
        calibration=scores,
        prompt_calibration=prompt_scores,
        drifts=drifts,
        alarm=_alarm(found, drifts, max_drift),
    )


def calibrations(found: Examination) -> tuple[Calibration | None, Calibration | None]:
    """From the fallback's scale to the first backend's, for scores of responses and of prompts."""
    first, fallback = found.part("first"), found.part("fallback")
    if first is None or fallback is None:
        return None, None
    prompts = [one.id for one in found.anchors for _ in one.responses]
    return (
        calibration.fit(fallback.scores, first.scores, prompts),
        calibration.fit(fallback.prompt_scores, first.prompt_scores),
    )


def reference_of(found: Examination, when: str) -> dict[str, Any]:
    """What later starts are compared with, as JSON has it."""
    return {
        "anchors": fingerprint(list(found.anchors)),
        "since": when,
        "backends": {
            one.part: {
                "backend": one.backend,
                "scores": dict(zip(found.names, one.scores, strict=True)) if one.scores else {},
                "verdicts": dict(zip(found.names, one.verdicts, strict=True)),
            }
            for one in found.backends
        },
    }


def _standing(one: Examined, anchors: Sequence[Anchor]) -> Standing:
    about = [anchor.id for anchor in anchors for _ in anchor.responses]
    wanted = [verdict for anchor in anchors for verdict in anchor.verdicts]
    right = [said == want for said, want in zip(one.verdicts, wanted, strict=True) if said]
    settled = [score for anchor in anchors for score in anchor.scores]
    return Standing(
        part=one.part,
        backend=one.backend,
        num=len(wanted),
        num_unscored=sum(score is None for score in one.scores) if one.scores else None,
        num_without_verdict=sum(verdict is None for verdict in one.verdicts),
        order_difference=_mean(one.order_differences, about),
        repeat_deviation=_mean(one.deviations, about),
        score_correlation=agreement.spearman(one.scores, settled)
        if one.scores
        else Estimate(value=None, num=0),
        verdict_accuracy=agreement.share(sum(right), len(right)),
        verdict_kappa=agreement.kappa(one.verdicts, wanted),
    )


def _mean(values: Scores, about: Sequence[str]) -> Estimate:
    """Over the values there are, those about one anchor together."""
    pairs = zip(values, about, strict=True) if values else ()
    known = [(value, name) for value, name in pairs if value is not None]
    return agreement.mean([value for value, _ in known], [name for _, name in known])


def _drifts(found: Examination, reference: Mapping[str, Any]) -> list[Drift]:
    then, since, names = reference["backends"], reference["since"], found.names
    return [_drift(one, names, then[one.part], since) for one in found.backends if one.part in then]


def _drift(one: Examined, names: list[str], then: Mapping[str, Any], since: str) -> Drift:
    old = [then["scores"].get(name) for name in names] if one.scores else []
    scores = list(zip(old, one.scores, strict=True))
    verdicts = list(zip(map(then["verdicts"].get, names), one.verdicts, strict=True))
    moved = [abs(a - b) for a, b in scores if a is not None and b is not None]
    changed = [a != b for a, b in verdicts if a is not None and b is not None]
    return Drift(
        part=one.part,
        was=then["backend"],
        since=since,
        num_scores=len(moved),
        score_difference=fmean(moved) if moved else None,
        num_lost=sum(a is not None and b is None for a, b in (*scores, *verdicts)),
        num_verdicts=len(changed),
        num_changed=sum(changed),
    )


def _alarm(found: Examination, drifts: Sequence[Drift], max_drift: float) -> str | None:
    said = [
        f"{one.part} {one.backend}: none of {len(one.scores)} anchors' responses got a score"
        for one in found.backends
        if one.scores and all(score is None for score in one.scores)
    ]
    for one in drifts:
        if (one.score_difference or 0) > max_drift:
            said.append(
                f"{one.part}: scores of {one.num_scores} anchors' responses moved by "
                f"{one.score_difference:.3f} on average since {one.since}"
            )
        if one.num_changed > max_drift * one.num_verdicts:
            said.append(
                f"{one.part}: {one.num_changed} of {one.num_verdicts} verdicts on anchors changed "
                f"since {one.since}"
            )
        if one.num_lost > max_drift * (one.num_scores + one.num_verdicts + one.num_lost):
            said.append(
                f"{one.part}: {one.num_lost} scores or verdicts on anchors are missing that there "
                f"were on {one.since}"
            )
    return "; ".join(said) or None
