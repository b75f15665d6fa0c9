"""The judge: the rubric over one engine, as a Serve deployment with HTTP and a handle.

Judged text is never logged, and never sent back in an error.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable
from concurrent.futures import Future
from typing import Any

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from ray import serve as ray_serve
from starlette.exceptions import HTTPException

from ray_jobs.engines.judge import JudgeConfig
from ray_jobs.engines.seam import Engine, EngineUnusable, Reply, Request
from serve import api
from serve.rubric import Rubric


class WatchedEngine:
    """An engine that says so at once when it is gone for good, instead of letting requests wait."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.failure: EngineUnusable | None = None

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
        if isinstance(error, EngineUnusable):
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
