"""Kind `judge`: our Serve application, asked through its handle, or over HTTP at a `url`.

A request's last turn is an item of the judge's wire, as JSON: {"question", "id", "prompt", …}; the
reply's text is the wire's answer item. A replica that dies is waited for: Serve starts another. A
queue that is full is waited for too, and counts as no attempt.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal

from ray_jobs.engines.loop import LoopThread
from ray_jobs.engines.seam import NO_EFFECT_ON_ROWS, EngineUnusable, Placement, Reply, Request
from ray_jobs.judge import JudgeConfig
from ray_jobs.outcomes import Blocked, Failed, NoAnswer, Quarantined, Refused

ATTEMPTS = 5
FIRST_WAIT_S = 1.0
PATHS = {
    "score_responses": "/v1/score/responses",
    "score_prompt": "/v1/score/prompt",
    "verdict": "/v1/verdict",
}
NO_ANSWERS: dict[str, type[NoAnswer]] = {
    kind.outcome: kind for kind in (Refused, Blocked, Failed, Quarantined)
}
Item = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class JudgeEngineConfig:
    """Ask the judge."""

    kind: Literal["judge"] = "judge"
    judge: JudgeConfig | None = None
    """Filled in from the recipe's section `judge`."""
    url: str = field(default="", metadata=NO_EFFECT_ON_ROWS)
    """A judge that is served elsewhere, such as http://127.0.0.1:8000. Empty asks the job's own."""
    timeout_s: float = field(default=600.0, metadata=NO_EFFECT_ON_ROWS)
    """How long one attempt may take, a replica's start included."""
    placement: Placement = field(default_factory=lambda: Placement(cpus=0.1))

    def __post_init__(self) -> None:
        if not self.timeout_s > 0:
            raise ValueError(f"timeout_s: expected more than 0, found {self.timeout_s:g}")

    @property
    def asked(self) -> JudgeConfig:
        """The judge that is asked."""
        assert self.judge is not None, "the recipe's section `judge` was not filled in"
        return self.judge

    @property
    def title(self) -> str:
        """Kind and model, as rows and manifests name the engine."""
        return f"judge:{self.asked.title}"

    @property
    def in_flight(self) -> int:
        """What keeps every replica's engine full, and makes the judge grow where it may."""
        in_flight: int = self.asked.backend.in_flight * self.asked.backend.placement.max_actors
        return in_flight

    @property
    def constrains(self) -> bool:
        """Its answers have the wire's form."""
        return True

    def identity(self) -> dict[str, Any]:
        """The judge's. Where it is asked decides nothing."""
        return self.asked.identity()

    def check(self, name: str) -> None:
        """Refuse a URL that is none."""
        if self.url and not self.url.startswith(("http://", "https://")):
            raise ValueError(f"engines.{name}.url: expected http://host:port, found {self.url!r}")
        if not self.url:
            self.asked.check()

    def open(self) -> JudgeEngine:
        """Reach the judge. EngineUnusable where there is none."""
        return JudgeEngine(self)


class _Unreachable(Exception):
    """This attempt got no answer; another may."""


class _Busy(Exception):
    """The judge's queue is full."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(retry_after_s)
        self.retry_after_s = retry_after_s


class JudgeEngine:
    """Asks the judge, item by item."""

    def __init__(self, cfg: JudgeEngineConfig) -> None:
        self.num_asked_again = 0
        """Requests that were lost on their way, with a replica for one, and asked again."""
        self._patience_s = cfg.timeout_s
        self._loop = LoopThread("judge")
        try:
            self._wire = self._loop.submit(_open_wire(cfg)).result()
        except BaseException:
            self._loop.close()
            raise

    def submit(self, request: Request) -> Future[Reply]:
        """Ask. Outcomes of the wire other than `done` are the NoAnswer of that name."""
        item = json.loads(request.chat[-1]["content"])
        return self._loop.submit(self._answer(item.pop("question"), item))

    def close(self) -> None:
        """Let go of the judge; it goes on."""
        self._loop.submit(self._wire.close()).result(timeout=10)
        self._loop.close()

    async def _answer(self, question: str, item: Item) -> Reply:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return _reply(await self._admitted(question, item))
            except _Unreachable as error:
                reason = str(error)
                if attempt < ATTEMPTS:
                    self.num_asked_again += 1
                    await asyncio.sleep(FIRST_WAIT_S * 2 ** (attempt - 1))
        raise Failed(f"no answer from the judge in {ATTEMPTS} attempts: {reason}")

    async def _admitted(self, question: str, item: Item) -> Item:
        """The answer, once the judge's queue has room."""
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                return await self._wire.ask(question, item)
            except _Busy as busy:
                wait_s = busy.retry_after_s * random.uniform(0.5, 1.5)  # not all at once again
                if time.monotonic() + wait_s > deadline:
                    raise Failed(
                        f"the judge's queue stayed full for {self._patience_s:g} s"
                    ) from busy
                await asyncio.sleep(wait_s)


def _reply(answer: Item) -> Reply:
    if unusable := answer.get("unusable"):
        raise EngineUnusable(unusable)
    if answer["outcome"] not in ("done", "unparsed"):  # who asked keeps the text of the latter
        raise NO_ANSWERS[answer["outcome"]](answer["reason"])
    return Reply(
        text=json.dumps(answer, ensure_ascii=False),
        prompt_tokens=answer["usage"]["prompt_tokens"],
        output_tokens=answer["usage"]["output_tokens"],
        finish_reason="stop",
        yuan=answer["usage"]["yuan"],
    )


async def _open_wire(cfg: JudgeEngineConfig) -> _Handle | _Http:
    if not cfg.url:
        return _Handle(cfg)
    wire = _Http(cfg)
    await wire.check()
    return wire


class _Handle:
    """The judge in this cluster, through Serve's handle."""

    def __init__(self, cfg: JudgeEngineConfig) -> None:
        from ray.exceptions import RayActorError
        from ray.serve.exceptions import BackPressureError, RayServeException

        self._timeout_s = cfg.timeout_s
        self._full = BackPressureError
        # A replica that died, that Serve is replacing, or whose engine did not come back.
        self._losses = (RayActorError, RayServeException, EngineUnusable)
        self._handle = handle(cfg.asked)

    async def ask(self, question: str, item: Item) -> Item:
        response = self._handle.answer.remote(question, item)
        try:
            answer: Item = await asyncio.wait_for(_result(response), self._timeout_s)
        except TimeoutError as error:
            response.cancel()
            raise _Unreachable(f"not within {self._timeout_s:g} s") from error
        except self._full as error:
            raise _Busy(error.retry_after_s or FIRST_WAIT_S) from error
        except self._losses as error:
            raise _Unreachable(type(error).__name__) from error
        return answer

    async def close(self) -> None:
        return None


def handle(judge: JudgeConfig) -> Any:
    """Serve's handle of the running application with this judge, whoever started it.

    EngineUnusable where there is none.
    """
    from ray import serve as ray_serve

    for name, app in ray_serve.status().applications.items():
        if judge.app_name in app.deployments:
            return ray_serve.get_app_handle(name)
    raise EngineUnusable(f"there is no judge {judge.app_name} in this cluster")


async def _result(response: Any) -> Item:
    answer: Item = await response
    return answer


class _Http:
    """A judge elsewhere, over HTTP."""

    def __init__(self, cfg: JudgeEngineConfig) -> None:
        import httpx

        self._url = cfg.url.rstrip("/")
        token = os.environ.get(cfg.asked.token_env)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=cfg.in_flight)
        self._client = httpx.AsyncClient(
            base_url=self._url,
            timeout=cfg.timeout_s,
            limits=limits,
            headers={"Authorization": f"Bearer {token}"} if token else {},
        )

    async def check(self) -> None:
        """EngineUnusable where nothing is ready at the URL."""
        import httpx

        try:
            status = (await self._client.get("/readyz", timeout=30)).status_code
        except httpx.TransportError as error:
            raise EngineUnusable(f"no judge at {self._url}: {type(error).__name__}") from error
        if status != 200:
            raise EngineUnusable(f"the judge at {self._url} is not ready: /readyz says {status}")

    async def ask(self, question: str, item: Item) -> Item:
        import httpx

        try:
            response = await self._client.post(PATHS[question], json={"items": [item]})
            if response.status_code == 200:
                answer: Item = response.json()["items"][0]
                return answer
        except (httpx.TransportError, json.JSONDecodeError) as error:
            raise _Unreachable(type(error).__name__) from error
        if response.status_code == 429:
            raise _Busy(float(response.headers.get("Retry-After", FIRST_WAIT_S)))
        if response.status_code >= 500:
            raise _Unreachable(f"HTTP {response.status_code}")
        if response.status_code in (413, 422):
            raise Refused(response.json()["error"]["message"])
        if response.status_code == 424:
            raise EngineUnusable(response.json()["error"]["message"])
        raise EngineUnusable(
            f"the judge at {self._url} says {response.status_code} to {PATHS[question]}"
        )

    async def close(self) -> None:
        await self._client.aclose()
