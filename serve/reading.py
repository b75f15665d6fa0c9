"""A judge's reply, read. What cannot be read is `unparsed`, never a number."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ray_jobs import likelihoods, verdicts
from ray_jobs.engines.seam import Reply
from ray_jobs.outcomes import Outcome, Unparsed
from ray_jobs.verdicts import Verdict


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the judge said to one question."""

    outcome: Outcome = "done"
    reason: str | None = None
    reply: Reply | None = None

    @property
    def text(self) -> str | None:
        """What it wrote, also where that cannot be read."""
        return self.reply.text if self.reply else None


@dataclass(frozen=True, kw_only=True)
class Scores(Reading):
    """Scores; none unless `done`."""

    scores: tuple[float, ...] = ()
    """The expected ones, or the written ones where no distribution is read."""
    written: tuple[float, ...] = ()
    spread: tuple[float | None, ...] = ()

    def turned(self) -> Scores:
        """The same, last to first."""
        return replace(
            self,
            scores=self.scores[::-1],
            written=self.written[::-1],
            spread=self.spread[::-1],
        )


@dataclass(frozen=True, kw_only=True)
class Judgement(Reading):
    """A verdict; none unless `done`."""

    verdict: Verdict | None = None
    probabilities: dict[Verdict, float] | None = None
    scenario: str | None = None
    explanation: str | None = None


def read_scores(reply: Reply, num_scores: int, mark: str = "") -> Scores:
    """A reply's scores."""
    try:
        _check_whole(reply)
        written = verdicts.parse_scores(reply.text, num_scores, mark)
    except Unparsed as unparsed:
        return Scores(reply=reply, outcome="unparsed", reason=str(unparsed))
    expected = likelihoods.expected_scores(reply.tokens, reply.logprobs, num_scores)
    if expected is None:
        unknown = (None,) * num_scores
        return Scores(reply=reply, scores=tuple(written), written=tuple(written), spread=unknown)
    means, deviations = zip(*expected, strict=True)
    return Scores(reply=reply, scores=means, written=tuple(written), spread=deviations)


def read_verdict(reply: Reply, language: str, *, explained: bool, mark: str = "") -> Judgement:
    """A reply's verdict, and how sure the judge was of it."""
    scenario, explanation = None, None
    try:
        _check_whole(reply)
        if explained:
            verdict, scenario, explanation = verdicts.parse_explained(reply.text, language, mark)
        else:
            verdict = verdicts.parse_verdict(reply.text, language, mark)
    except Unparsed as unparsed:
        return Judgement(reply=reply, outcome="unparsed", reason=str(unparsed))
    return Judgement(
        reply=reply,
        verdict=verdict,
        probabilities=likelihoods.verdict_probabilities(reply.tokens, reply.logprobs, language),
        scenario=scenario,
        explanation=explanation,
    )


def _check_whole(reply: Reply) -> None:
    if reply.finish_reason == "length":
        raise Unparsed("the judge's answer was cut")
