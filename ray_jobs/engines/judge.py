"""Kind `judge`: our Serve application, asked through its handle, or over HTTP at a `url`.

A request's last turn is an item of the judge's wire, as JSON: {"question", "id", "prompt",
"responses"?, "language"}; the reply's text is the wire's answer item. A replica that dies is waited
for: Serve starts another.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from ray_jobs.engines.loop import LoopThread
from ray_jobs.engines.seam import NO_EFFECT_ON_ROWS, EngineUnusable, Placement, Reply, Request
from ray_jobs.engines.vllm import VllmConfig
from ray_jobs.outcomes import Blocked, Failed, NoAnswer, Quarantined, Refused
from ray_jobs.prompts import fingerprint

VERSION = 1
"""Of how the judge asks and reads (serve/rubric.py, verdicts.py): what changes scores raises it."""
ATTEMPTS = 5
FIRST_WAIT_S = 1.0
PATHS = {"score_responses": "/v1/score/responses", "score_prompt": "/v1/score/prompt"}
NO_ANSWERS: dict[str, type[NoAnswer]] = {
    kind.outcome: kind for kind in (Refused, Blocked, Failed, Quarantined)
}
Item = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """The judge: who scores, and where it listens when it is served alone."""

    backend: VllmConfig
    """Who answers the rubric. Its placement is the replicas', of which there are `min_actors`."""
    backend_name: str = field(default="", metadata=NO_EFFECT_ON_ROWS)
    """The backend's name in `engines`, filled in from the recipe: for messages."""
    host: str = field(default="127.0.0.1", metadata=NO_EFFECT_ON_ROWS)
    """Where `serve run serve.app:build` listens: this machine only, without authentication."""
    port: int = field(default=8000, metadata=NO_EFFECT_ON_ROWS)
    """Port of `serve run serve.app:build`. Jobs use no port."""
    max_ongoing_requests: int = field(default=256, metadata=NO_EFFECT_ON_ROWS)
    """Requests that one replica works on at once; the others wait with those who ask."""
    ready_deadline_s: float = field(default=1200.0, metadata=NO_EFFECT_ON_ROWS)
    """A judge that is not up by then ends the job with the reason."""

    def __post_init__(self) -> None:
        if self.host not in ("127.0.0.1", "localhost", "::1"):
            raise ValueError(
                f"host: the judge has no authentication and answers on this machine only; "
                f"expected 127.0.0.1, found {self.host!r}"
            )
        if self.max_ongoing_requests < 1:
            raise ValueError(
                f"max_ongoing_requests: expected at least 1, found {self.max_ongoing_requests}"
            )

    @cached_property  # the identity reads files
    def app_name(self) -> str:
        """The Serve application's name, made of its identity: jobs with the same judge share it."""
        identity = json.dumps(self.identity(), sort_keys=True)
        return f"judge-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"

    def identity(self) -> dict[str, Any]:
        """What decides a score: the backend, the rubric's prompts, and how both are used."""
        return {
            "backend": self.backend.identity(),
            "prompts": {name: fingerprint(name) for name in sorted(PATHS)},
            "version": VERSION,
        }


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

    @property
    def asked(self) -> JudgeConfig:
        """The judge that is asked."""
        assert self.judge is not None, "the recipe's section `judge` was not filled in"
        return self.judge

    @property
    def title(self) -> str:
        """Kind and model, as rows and manifests name the engine."""
        return f"judge:{self.asked.backend.title}"

    @property
    def in_flight(self) -> int:
        """What keeps every replica's engine full."""
        return self.asked.backend.in_flight * self.asked.backend.placement.min_actors

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
            self.asked.backend.check(self.asked.backend_name)

    def open(self) -> JudgeEngine:
        """Reach the judge. EngineUnusable where there is none."""
        return JudgeEngine(self)


class _Unreachable(Exception):
    """This attempt got no answer; another may."""


class JudgeEngine:
    """Asks the judge, item by item."""

    def __init__(self, cfg: JudgeEngineConfig) -> None:
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
                return _reply(await self._wire.ask(question, item))
            except _Unreachable as error:
                reason = str(error)
                if attempt < ATTEMPTS:
                    await asyncio.sleep(FIRST_WAIT_S * 2 ** (attempt - 1))
        raise Failed(f"no answer from the judge in {ATTEMPTS} attempts: {reason}")


def _reply(answer: Item) -> Reply:
    if answer["outcome"] not in ("done", "unparsed"):  # who asked keeps the text of the latter
        raise NO_ANSWERS[answer["outcome"]](answer["reason"])
    return Reply(
        text=json.dumps(answer, ensure_ascii=False),
        prompt_tokens=answer["usage"]["prompt_tokens"],
        output_tokens=answer["usage"]["output_tokens"],
        finish_reason="stop",
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
        from ray import serve as ray_serve
        from ray.exceptions import RayActorError
        from ray.serve.exceptions import RayServeException

        self._timeout_s = cfg.timeout_s
        # A replica that died, that Serve is replacing, or whose engine did not come back.
        self._losses = (RayActorError, RayServeException, EngineUnusable)
        try:
            self._handle = ray_serve.get_app_handle(cfg.asked.app_name)
        except RayServeException as error:
            raise EngineUnusable(f"there is no judge {cfg.asked.app_name}: {error}") from error

    async def ask(self, question: str, item: Item) -> Item:
        response = self._handle.answer.remote(question, item)
        try:
            answer: Item = await asyncio.wait_for(_result(response), self._timeout_s)
        except TimeoutError as error:
            response.cancel()  # type: ignore[no-untyped-call]
            raise _Unreachable(f"not within {self._timeout_s:g} s") from error
        except self._losses as error:
            raise _Unreachable(type(error).__name__) from error
        return answer

    async def close(self) -> None:
        return None


async def _result(response: Any) -> Item:
    answer: Item = await response
    return answer


class _Http:
    """A judge elsewhere, over HTTP."""

    def __init__(self, cfg: JudgeEngineConfig) -> None:
        import httpx

        self._url = cfg.url.rstrip("/")
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=cfg.in_flight)
        self._client = httpx.AsyncClient(base_url=self._url, timeout=cfg.timeout_s, limits=limits)

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
        if response.status_code in (429, 500, 502, 503, 504):
            raise _Unreachable(f"HTTP {response.status_code}")
        if response.status_code == 422:
            raise Refused(response.json()["error"]["message"])
        raise EngineUnusable(
            f"the judge at {self._url} says {response.status_code} to {PATHS[question]}"
        )

    async def close(self) -> None:
        await self._client.aclose()
