"""The judge: the rubric's questions, asked of one engine, as a Serve deployment.

Judged text is never logged, and never sent back in an error.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from ray import serve as ray_serve
from starlette.exceptions import HTTPException

from ray_jobs import verdicts
from ray_jobs.engines.judge import JudgeConfig
from ray_jobs.engines.seam import Constraint, Engine, EngineStartError, Reply, Request, Sampling
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


class WatchedEngine:
    """An engine that says so at once when it is gone for good, instead of letting requests wait."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.failure: EngineStartError | None = None

    def submit(self, request: Request) -> Future[Reply]:
        """Ask, unless the engine is gone for good."""
        if self.failure is not None:
            raise self.failure
        future = self._engine.submit(request)
        future.add_done_callback(self._note)
        return future

    def close(self) -> None:
        """Stop it."""
        self._engine.close()

    def _note(self, future: Future[Reply]) -> None:
        error = future.exception()
        if isinstance(error, EngineStartError):
            self.failure = error


web = FastAPI(title="Garrison's judge", version="1")


# All of the web face stands above the class: Serve packs both when it decorates the class.
_TYPES = {404: "not_found", 422: "invalid_request", 500: "internal", 503: "not_ready"}


def _error(request: HttpRequest, status: int, message: str) -> JSONResponse:
    request_id = request.headers.get("x-request-id") or uuid.uuid4().hex
    kind = _TYPES.get(status, "http")
    body = {"error": {"type": kind, "message": message, "request_id": request_id}}
    return JSONResponse(body, status_code=status)


def _explain(errors: Iterable[Any]) -> str:
    """Where and what, without the text itself."""
    return "; ".join(f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in errors)


@web.exception_handler(RequestValidationError)
async def _invalid(request: HttpRequest, error: RequestValidationError) -> JSONResponse:
    return _error(request, 422, _explain(error.errors()))


@web.exception_handler(HTTPException)
async def _http(request: HttpRequest, error: HTTPException) -> JSONResponse:
    return _error(request, error.status_code, str(error.detail))


@web.exception_handler(Exception)
async def _internal(request: HttpRequest, error: Exception) -> JSONResponse:
    return _error(request, 500, type(error).__name__)


@ray_serve.deployment
@ray_serve.ingress(web)
class JudgeDeployment:
    """One replica: one engine."""

    def __init__(self, cfg: JudgeConfig) -> None:
        self._engine = WatchedEngine(cfg.backend.open())
        self._rubric = Rubric(self._engine, cfg.backend.title)

    async def answer(self, question: str, item: dict[str, Any]) -> dict[str, Any]:
        """One item, through the handle. An item that breaks the wire's limits is `dropped`."""
        answer: api.ScoredResponses | api.ScoredPrompt
        try:
            if question == "score_responses":
                answer = await self._rubric.score_responses(api.ResponsesItem.model_validate(item))
            else:
                assert question == "score_prompt", f"no such question: {question}"
                answer = await self._rubric.score_prompt(api.PromptItem.model_validate(item))
        except ValidationError as error:
            return {"outcome": "dropped", "reason": _explain(error.errors(include_input=False))}
        return answer.model_dump()

    @web.post("/v1/score/responses")
    async def score_responses(self, body: api.ScoreResponses) -> api.ResponsesScores:
        """Score the responses of each item together."""
        asked = map(self._rubric.score_responses, body.items)
        return api.ResponsesScores(items=await asyncio.gather(*asked))

    @web.post("/v1/score/prompt")
    async def score_prompts(self, body: api.ScorePrompts) -> api.PromptScores:
        """Score the prompt of each item."""
        asked = map(self._rubric.score_prompt, body.items)
        return api.PromptScores(items=await asyncio.gather(*asked))

    @web.get("/healthz")
    async def healthz(self) -> dict[str, str]:
        """The process lives."""
        return {"status": "ok"}

    @web.get("/readyz")
    async def readyz(self) -> dict[str, str]:
        """The engine can be asked."""
        if self._engine.failure is not None:
            raise HTTPException(503, str(self._engine.failure))
        return {"status": "ok"}

    def check_health(self) -> None:
        """Serve replaces a replica whose engine is gone for good."""
        if self._engine.failure is not None:
            raise self._engine.failure

    def __del__(self) -> None:
        if hasattr(self, "_engine"):  # absent where the engine did not start
            self._engine.close()
