"""The rubric's questions, asked of one engine, and its answers as the wire has them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ray_jobs import likelihoods, verdicts
from ray_jobs.engines.seam import Constraint, Engine, Reply, Request, Sampling
from ray_jobs.outcomes import NoAnswer
from ray_jobs.prompts import Chat
from ray_jobs.quoting import mark_of
from serve import api
from serve.reading import Judgement, Reading, Scores, read_scores, read_verdict

TOKENS_PER_SCORE = 8  # "[0.5, " is six characters, and each may be a token
TOKENS_OF_VERDICT = 16
TOKENS_OF_EXPLANATION = 320
TOKENS_WITHOUT_GRAMMAR = 64  # for the mark, and for a word before the last line
REPEAT_TEMPERATURE = 0.7


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One question, as an engine is to be asked."""

    purpose: str
    render: Callable[[str], Chat]
    """Takes the mark."""
    constraint: Constraint
    max_tokens: int
    logprobs_of: tuple[str, ...]
    temperature: float = 0.0
    seed: int = 0
    fresh: bool = False
    """Never from a cache of replies."""


class Rubric:
    """The questions, over one engine. One that no grammar holds is asked for a mark."""

    def __init__(self, engine: Engine, title: str, constrains: bool) -> None:
        self._engine = engine
        self._title = title
        self._constrains = constrains

    async def score_responses(self, item: api.ResponsesItem) -> api.ScoredResponses:
        """Score all responses together, in both orders, since a judge favours a position."""
        asked = [self._scores(item, item.responses)]
        if len(item.responses) > 1:
            asked.append(self._scores(item, item.responses[::-1]))
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
            backend=self._backend(readings),
            usage=_usage(readings),
            reason=worst.reason,
        )

    async def repeats(self, item: api.ResponsesItem, num: int) -> list[list[float] | None]:
        """The scores that the judge writes when the given order is drawn again, so many times, at a
        temperature: written ones, for expected scores would hide what the draws change. None where
        one cannot be read.
        """
        drawn = [
            self._scores(item, item.responses, temperature=REPEAT_TEMPERATURE, seed=seed)
            for seed in range(1, num + 1)
        ]
        return [list(reading.written) or None for reading in await asyncio.gather(*drawn)]

    async def score_prompt(self, item: api.PromptItem) -> api.ScoredPrompt:
        """Score the prompt itself."""

        def render(mark: str) -> Chat:
            return verdicts.render_prompt_score(item.prompt, item.language, mark)

        reading = await self._read_scores(_scores_asked("score_prompt", render, 1), 1)
        return api.ScoredPrompt(
            id=item.id,
            outcome=reading.outcome,
            score=reading.scores[0] if reading.scores else None,
            spread=reading.spread[0] if reading.spread else None,
            text=reading.text,
            backend=self._backend([reading]),
            usage=_usage([reading]),
            reason=reading.reason,
        )

    async def verdict(self, item: api.ResponseItem) -> api.JudgedResponse:
        """Call a response safe, unsafe or uncertain."""
        try:
            reply, mark = await self._ask(_verdict_asked(item))
            judgement = read_verdict(reply, item.language, explained=item.explain, mark=mark)
        except NoAnswer as no_answer:
            judgement = Judgement(outcome=no_answer.outcome, reason=str(no_answer))
        shares = judgement.probabilities
        return api.JudgedResponse(
            id=item.id,
            outcome=judgement.outcome,
            verdict=judgement.verdict,
            p_unsafe=shares["unsafe"] if shares else None,
            probabilities=shares,
            scenario=judgement.scenario,
            explanation=judgement.explanation,
            text=judgement.text,
            backend=self._backend([judgement]),
            usage=_usage([judgement]),
            reason=judgement.reason,
        )

    async def _scores(
        self,
        item: api.ResponsesItem,
        responses: Sequence[str],
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Scores:
        def render(mark: str) -> Chat:
            return verdicts.render_scores(item.prompt, responses, item.language, mark)

        asked = _scores_asked("score_responses", render, len(responses))
        asked = replace(asked, temperature=temperature, seed=seed, fresh=temperature > 0)
        return await self._read_scores(asked, len(responses))

    async def _read_scores(self, asked: Asked, num_scores: int) -> Scores:
        try:
            reply, mark = await self._ask(asked)
        except NoAnswer as no_answer:
            return Scores(outcome=no_answer.outcome, reason=str(no_answer))
        return read_scores(reply, num_scores, mark)

    async def _ask(self, asked: Asked) -> tuple[Reply, str]:
        """The reply, and the mark that it must bear."""
        chat, mark, max_tokens = asked.render(""), "", asked.max_tokens
        if not self._constrains:
            mark = mark_of(chat)
            chat, max_tokens = asked.render(mark), max_tokens + TOKENS_WITHOUT_GRAMMAR
        request = Request(
            chat=chat,
            sampling=Sampling(max_tokens=max_tokens, temperature=asked.temperature),
            seed=asked.seed,
            constraint=asked.constraint if self._constrains else None,
            # An engine that constrains is one of ours, and tells its log-probabilities too.
            logprobs_of=asked.logprobs_of if self._constrains else (),
            purpose=asked.purpose,
            fresh=asked.fresh,
        )
        # Shielded, or a client that goes away would cancel a future that the engine will set.
        return await asyncio.shield(asyncio.wrap_future(self._engine.submit(request))), mark

    def _backend(self, readings: Sequence[Reading]) -> str:
        models = {r.reply.model for r in readings if r.reply and r.reply.model}
        return f"{self._title}@{'+'.join(sorted(models))}" if models else self._title


def _scores_asked(purpose: str, render: Callable[[str], Chat], num_scores: int) -> Asked:
    return Asked(
        purpose=purpose,
        render=render,
        constraint=Constraint(regex=verdicts.scores_regex(num_scores)),
        max_tokens=TOKENS_PER_SCORE * (num_scores + 1),
        logprobs_of=likelihoods.DIGITS,
    )


def _verdict_asked(item: api.ResponseItem) -> Asked:
    def render(mark: str) -> Chat:
        return verdicts.render_verdict(
            item.prompt, item.response, item.language, explain=item.explain, mark=mark
        )

    constraint = Constraint(choices=verdicts.choices(item.language))
    if item.explain:
        constraint = Constraint(regex=verdicts.explained_regex(item.language))
    return Asked(
        purpose="verdict",
        render=render,
        constraint=constraint,
        max_tokens=TOKENS_OF_VERDICT + (TOKENS_OF_EXPLANATION if item.explain else 0),
        logprobs_of=likelihoods.prefixes(item.language),
    )


def _usage(readings: Sequence[Reading]) -> api.Usage:
    replies = [reading.reply for reading in readings if reading.reply]
    return api.Usage(
        prompt_tokens=sum(reply.prompt_tokens for reply in replies),
        output_tokens=sum(reply.output_tokens for reply in replies),
        yuan=sum(reply.yuan for reply in replies),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _mean_if_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return _mean(known) if len(known) == len(values) else None
