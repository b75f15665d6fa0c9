"""The rubric's questions, asked of any engine, and its answers read into scores."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ray_jobs import verdicts
from ray_jobs.engines.seam import Constraint, Engine, Reply, Request, Sampling
from ray_jobs.outcomes import NoAnswer, Outcome, Unparsed
from ray_jobs.prompts import Chat
from serve import api

DIGITS = tuple("0123456789")
TOKENS_PER_SCORE = 8  # "[0.5, " is six characters, and each may be a token


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the judge said to one question. Without scores unless `done`."""

    outcome: Outcome = "done"
    reason: str | None = None
    text: str | None = None
    scores: tuple[float, ...] = ()
    spread: tuple[float | None, ...] = ()
    prompt_tokens: int = 0
    output_tokens: int = 0

    def turned(self) -> Reading:
        """The same, with the scores last to first."""
        return replace(self, scores=self.scores[::-1], spread=self.spread[::-1])


class Rubric:
    """The questions, over any engine."""

    def __init__(self, engine: Engine, backend: str) -> None:
        self._engine = engine
        self._backend = backend

    async def score_responses(self, item: api.ResponsesItem) -> api.ScoredResponses:
        """Score all responses together, in both orders, since a judge favours a position."""
        asked = [self._score(item, item.responses)]
        if len(item.responses) > 1:
            asked.append(self._score(item, item.responses[::-1]))
        given, *others = await asyncio.gather(*asked)
        readings = [given, *(other.turned() for other in others)]
        worst = next((reading for reading in readings if reading.outcome != "done"), given)
        done = readings if worst.outcome == "done" else []
        return api.ScoredResponses(
            id=item.id,
            outcome=worst.outcome,
            scores=[_mean(k) for k in zip(*(r.scores for r in done), strict=True)] or None,
            spread=[_mean_if_known(k) for k in zip(*(r.spread for r in done), strict=True)] or None,
            orders=[
                api.Order(reversed=number > 0, text=r.text, scores=list(r.scores) or None)
                for number, r in enumerate(readings)
            ],
            backend=self._backend,
            usage=_usage(readings),
            reason=worst.reason,
        )

    async def score_prompt(self, item: api.PromptItem) -> api.ScoredPrompt:
        """Score the prompt itself."""
        reading = await self._ask(verdicts.render_prompt_score(item.prompt, item.language), 1)
        return api.ScoredPrompt(
            id=item.id,
            outcome=reading.outcome,
            score=reading.scores[0] if reading.scores else None,
            spread=reading.spread[0] if reading.spread else None,
            text=reading.text,
            backend=self._backend,
            usage=_usage([reading]),
            reason=reading.reason,
        )

    async def _score(self, item: api.ResponsesItem, responses: Sequence[str]) -> Reading:
        chat = verdicts.render_scores(item.prompt, responses, item.language)
        return await self._ask(chat, len(responses))

    async def _ask(self, chat: Chat, num_scores: int) -> Reading:
        request = Request(
            chat=chat,
            sampling=Sampling(max_tokens=TOKENS_PER_SCORE * (num_scores + 1)),
            seed=0,
            constraint=Constraint(regex=verdicts.scores_regex(num_scores)),
            logprobs_of=DIGITS,
        )
        try:
            # Shielded, or a client that goes away would cancel a future that the engine will set.
            reply = await asyncio.shield(asyncio.wrap_future(self._engine.submit(request)))
        except NoAnswer as no_answer:
            return Reading(outcome=no_answer.outcome, reason=str(no_answer))
        return read(reply, num_scores)


def read(reply: Reply, num_scores: int) -> Reading:
    """A reply's scores: the expected ones, or the written ones where no distribution is read."""
    said = Reading(
        text=reply.text, prompt_tokens=reply.prompt_tokens, output_tokens=reply.output_tokens
    )
    try:
        if reply.finish_reason == "length":
            raise Unparsed("the judge's list of scores was cut")
        written = verdicts.parse_scores(reply.text, num_scores)
    except Unparsed as unparsed:
        return replace(said, outcome="unparsed", reason=str(unparsed))
    expected = verdicts.expected_scores(reply.tokens, reply.logprobs, num_scores)
    if expected is None:
        return replace(said, scores=tuple(written), spread=(None,) * num_scores)
    return replace(said, scores=tuple(s for s, _ in expected), spread=tuple(d for _, d in expected))


def _usage(readings: Iterable[Reading]) -> api.Usage:
    pairs = [(reading.prompt_tokens, reading.output_tokens) for reading in readings]
    return api.Usage(prompt_tokens=sum(p for p, _ in pairs), output_tokens=sum(o for _, o in pairs))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _mean_if_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return _mean(known) if len(known) == len(values) else None
