"""The judge as a Serve deployment: the panel of backends, with HTTP and a handle.

Judged text is never logged unless asked for, and never sent back in an error.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import ValidationError
from ray import serve as ray_serve
from starlette.exceptions import HTTPException

from ray_jobs.engines.cached import CachedEngine
from ray_jobs.engines.seam import Engine, EngineConfig, EngineUnusable
from ray_jobs.engines.vllm import VllmConfig
from ray_jobs.judge import JudgeConfig
from serve import api, chat
from serve.anchors import examined
from serve.backends import RemoteEngine, WatchedEngine
from serve.guard import Guard
from serve.panel import Panel
from serve.rubric import Rubric
from serve.web import Limits, application, explain

log = logging.getLogger(__name__)
# All of the web face stands above the class: Serve packs both when it decorates the class.
web = application("Garrison's judge")


@ray_serve.deployment
@ray_serve.ingress(web)
class JudgeDeployment:
    """One replica: the first backend's engine, and handles to the others."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self,
        cfg: JudgeConfig,
        limits: Limits,
        cache: str,
        fallback: Any = None,
        guard: Any = None,
    ) -> None:
        self.limits = limits
        self._title, self._constrains = cfg.title, cfg.backend.constrains
        self._engine = cfg.backend.open()
        # A new replica can mend an engine of one's own. What a provider says (no key, no money) it
        # would not change.
        self._watched = WatchedEngine(self._engine) if isinstance(cfg.backend, VllmConfig) else None
        self._asked: Engine = self._watched or self._engine
        first = Rubric(self._asked, self._title, self._constrains)
        kept = CachedEngine(self._asked, *_place(cfg, cache)) if cfg.cache else None
        self._panel = Panel(
            Rubric(kept, self._title, self._constrains) if kept else first,
            None if fallback is None else _rubric(fallback, cfg.fallback),
            None if guard is None else _guard(guard, cfg),
            num_repeats=cfg.num_repeats,
            log_texts=cfg.log_texts,
        )
        # Past the cache: what was kept cannot have moved.
        self._trust = await examined(self._panel, cfg, cache, first)

    async def answer(self, question: str, item: dict[str, Any]) -> dict[str, Any]:
        """One item, through the handle. An item that breaks the wire's limits is `dropped`."""
        asked: dict[str, tuple[type[api.Item], Callable[[Any], Awaitable[api.Answer]]]] = {
            "score_responses": (api.ResponsesItem, self._panel.score_responses),
            "score_prompt": (api.PromptItem, self._panel.score_prompt),
            "verdict": (api.ResponseItem, self._panel.verdict),
        }
        kind, ask = asked[question]
        try:
            answer = await ask(kind.model_validate(item))
        except ValidationError as error:
            return {"outcome": "dropped", "reason": explain(error.errors(include_input=False))}
        except EngineUnusable as error:
            if self._failure is not None:
                raise  # another replica, or this one's successor, may answer
            return {"unusable": str(error)}
        return answer.model_dump()

    async def trust(self) -> dict[str, Any] | None:
        """What the anchors said at the start; None where there are none."""
        return self._trust

    @web.post("/v1/score/responses")
    async def score_responses(self, body: api.ScoreResponses) -> api.ResponsesScores:
        """Score the responses of each item together."""
        async with self._living():
            asked = map(self._panel.score_responses, body.items)
            return api.ResponsesScores(items=await asyncio.gather(*asked))

    @web.post("/v1/score/prompt")
    async def score_prompts(self, body: api.ScorePrompts) -> api.PromptScores:
        """Score the prompt of each item."""
        async with self._living():
            asked = map(self._panel.score_prompt, body.items)
            return api.PromptScores(items=await asyncio.gather(*asked))

    @web.post("/v1/verdict")
    async def verdicts(self, body: api.Verdicts) -> api.JudgedResponses:
        """Call the response of each item safe, unsafe or uncertain."""
        async with self._living():
            asked = map(self._panel.verdict, body.items)
            return api.JudgedResponses(items=await asyncio.gather(*asked))

    @web.post("/v1/chat/completions", response_model=None, openapi_extra=chat.OPENAPI)
    async def chat_completions(self, request: HttpRequest) -> JSONResponse | StreamingResponse:
        """The backend's model itself, for any client of OpenAI's chat protocol."""
        body = await request.body()
        async with self._living():
            return await chat.respond(self._asked, self._title, self._constrains, body)

    @web.get("/v1/models")
    async def models(self) -> dict[str, Any]:
        """The backend's model, as OpenAI's clients list it."""
        return chat.models(self._title)

    @web.get("/v1/trust")
    async def trust_page(self) -> dict[str, Any]:
        """What the anchors said when this replica started."""
        if self._trust is None:
            raise HTTPException(404, "this judge has no anchors (judge.anchors.file)")
        return self._trust

    @web.get("/healthz")
    async def healthz(self) -> dict[str, str]:
        """The process lives."""
        return {"status": "ok"}

    @web.get("/readyz")
    async def readyz(self) -> dict[str, str]:
        """The engine can be asked."""
        if self._failure is not None:
            raise HTTPException(503, str(self._failure))
        return {"status": "ok"}

    def check_health(self) -> None:
        """Serve replaces a replica whose engine is gone for good."""
        if self._failure is not None:
            raise self._failure

    @property
    def _failure(self) -> EngineUnusable | None:
        return self._watched.failure if self._watched else None

    @asynccontextmanager
    async def _living(self) -> AsyncIterator[None]:
        """An engine that is gone for good is this replica's fault (503), not the provider's."""
        try:
            yield
        except EngineUnusable as error:
            if self._failure is not None:
                raise HTTPException(503, str(error)) from error
            raise

    def __del__(self) -> None:
        if hasattr(self, "_engine"):  # absent where the engine did not start
            self._engine.close()


def _place(cfg: JudgeConfig, cache: str) -> tuple[Path, dict[str, Any]]:
    """Where the backend's replies are kept, and what they are kept under."""
    identity: dict[str, Any] = cfg.backend.identity()
    return Path(cache) / "judge" / f"{cfg.app_name}.sqlite", identity


def _rubric(handle: Any, cfg: EngineConfig) -> Rubric:
    return Rubric(RemoteEngine(handle), cfg.title, cfg.constrains)


def _guard(handle: Any, cfg: JudgeConfig) -> Guard:
    return Guard(RemoteEngine(handle), cfg.guard.title, cfg.guard.constrains, cfg.guard_grammar)
