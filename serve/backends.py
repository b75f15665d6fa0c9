"""The engines behind an endpoint: watched where a replica can be replaced, and reached through a
handle where they are deployments of their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from ray import serve as ray_serve

from ray_jobs.engines.seam import (
    Engine,
    EngineConfig,
    EngineUnusable,
    Heard,
    Reply,
    Request,
    listen,
)
from ray_jobs.outcomes import Blocked, Failed, NoAnswer, Quarantined, Refused, Unparsed

ATTEMPTS = 5
FIRST_WAIT_S = 1.0
NO_ANSWERS: dict[str, type[NoAnswer]] = {
    kind.outcome: kind for kind in (Refused, Unparsed, Blocked, Failed, Quarantined)
}


class WatchedEngine:
    """An engine that says so at once when it is gone for good, instead of letting requests wait."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.failure: EngineUnusable | None = None

    def submit(self, request: Request) -> Future[Reply]:
        """Ask, unless the engine is gone for good."""
        return self._watched(lambda: self._engine.submit(request))

    def listen(self, request: Request, heard: Heard) -> Future[Reply]:
        """Ask, and hand the text over as it comes."""
        return self._watched(lambda: listen(self._engine, request, heard))

    def _watched(self, ask: Callable[[], Future[Reply]]) -> Future[Reply]:
        if self.failure is not None:
            raise self.failure
        future = ask()
        future.add_done_callback(self._note)
        return future

    def close(self) -> None:
        """Stop it."""
        self._engine.close()

    def _note(self, future: Future[Reply]) -> None:
        error = None if future.cancelled() else future.exception()
        if isinstance(error, EngineUnusable):
            self.failure = error


@ray_serve.deployment
class EngineDeployment:
    """One replica: one engine, for the judge beside it."""

    def __init__(self, cfg: EngineConfig) -> None:
        self._engine = WatchedEngine(cfg.open())

    async def ask(self, request: Request) -> Reply | tuple[str, str]:
        """The reply, or outcome and reason where there is none."""
        try:
            return await asyncio.shield(asyncio.wrap_future(self._engine.submit(request)))
        except NoAnswer as no_answer:
            return no_answer.outcome, str(no_answer)

    def check_health(self) -> None:
        """Serve replaces a replica whose engine is gone for good."""
        if self._engine.failure is not None:
            raise self._engine.failure

    def __del__(self) -> None:
        if hasattr(self, "_engine"):  # absent where the engine did not start
            self._engine.close()


class RemoteEngine:
    """An EngineDeployment as an engine, inside the event loop of who asks it."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._asked: set[asyncio.Task[None]] = set()  # a task that nobody holds may vanish

    def submit(self, request: Request) -> Future[Reply]:
        """Ask."""
        future: Future[Reply] = Future()
        task = asyncio.get_running_loop().create_task(self._answer(request, future))
        self._asked.add(task)
        task.add_done_callback(self._asked.discard)
        return future

    def close(self) -> None:
        """Nothing is held: Serve stops the deployment."""

    async def _answer(self, request: Request, future: Future[Reply]) -> None:
        try:
            future.set_result(await self._reply(request))
        except Exception as error:  # noqa: BLE001  it is handed to who waits for the future
            future.set_exception(error)

    async def _reply(self, request: Request) -> Reply:
        from ray.exceptions import RayActorError
        from ray.serve.exceptions import RayServeException

        for attempt in range(1, ATTEMPTS + 1):
            try:
                answer = await self._handle.ask.remote(request)
            except (RayActorError, RayServeException, EngineUnusable) as error:
                reason = type(error).__name__
                await asyncio.sleep(FIRST_WAIT_S * 2 ** (attempt - 1))
                continue
            if isinstance(answer, Reply):
                return answer
            raise NO_ANSWERS[answer[0]](answer[1])
        raise Failed(f"no answer in {ATTEMPTS} attempts: {reason}")
