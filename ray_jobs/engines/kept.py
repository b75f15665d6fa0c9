"""An engine that outlives a step, in an actor of its own, for the next step that names it.

Ray Data ends its actors with every step. One of these asks the kept engine, and dies with it, so
that a death is counted, quarantined and made good as that of an engine in Ray Data's own actor.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ray_jobs.engines.seam import Engine, EngineConfig, Placement, Reply, Request
from ray_jobs.outcomes import Blocked, Failed, NoAnswer, Quarantined, Refused, Unparsed

AT_ONCE = 10_000
"""Calls that the actor takes at once: more than any engine is asked."""
NO_ANSWERS: dict[str, type[NoAnswer]] = {
    kind.outcome: kind for kind in (Refused, Unparsed, Blocked, Failed, Quarantined)
}


class Host:
    """The actor that the engine is in."""

    def __init__(self, cfg: EngineConfig) -> None:
        self._cfg = cfg
        self._engine: Engine | None = None
        self._opening = asyncio.Lock()

    async def open(self) -> None:
        """Start the engine if it is not up. EngineUnusable where it cannot run."""
        async with self._opening:
            if self._engine is None:
                self._engine = await asyncio.to_thread(self._cfg.open)

    async def ask(self, request: Request) -> Reply | tuple[str, str]:
        """The reply, or outcome and reason where there is none."""
        assert self._engine is not None, "open() comes first"
        try:
            return await asyncio.wrap_future(self._engine.submit(request))
        except NoAnswer as no_answer:
            return no_answer.outcome, str(no_answer)


@dataclass(frozen=True, kw_only=True)
class KeptConfig:
    """An engine that is kept, as the actors of one step have it."""

    cfg: Any
    """The engine's own."""
    host: Any
    """The handle of its Host."""

    @property
    def placement(self) -> Placement:
        """The host has the CPUs that the engine needs."""
        placement: Placement = replace(self.cfg.placement, cpus=0.1)
        return placement

    @property
    def title(self) -> str:
        """The engine's."""
        return str(self.cfg.title)

    @property
    def in_flight(self) -> int:
        """The engine's."""
        return int(self.cfg.in_flight)

    @property
    def constrains(self) -> bool:
        """As the engine does."""
        return bool(self.cfg.constrains)

    def identity(self) -> dict[str, Any]:
        """The engine's."""
        return dict(self.cfg.identity())

    def check(self, name: str) -> None:
        """The engine's."""
        self.cfg.check(name)

    def open(self) -> KeptEngine:
        """Wait until it is up. EngineUnusable where it cannot run."""
        import ray

        ray.get(self.host.open.options(max_task_retries=-1).remote())
        return KeptEngine(self.host)


class KeptEngine:
    """A Host, as an engine in another process."""

    def __init__(self, host: Any) -> None:
        self._host = host

    def submit(self, request: Request) -> Future[Reply]:
        """Ask."""
        future: Future[Reply] = Future()
        asked: Future[Reply | tuple[str, str]] = self._host.ask.remote(request).future()
        asked.add_done_callback(partial(_pass_on, future))
        return future

    def close(self) -> None:
        """The engine stays up."""


def _pass_on(future: Future[Reply], asked: Future[Reply | tuple[str, str]]) -> None:
    from ray.exceptions import RayActorError, RayTaskError

    error = asked.exception()
    if isinstance(error, RayActorError):
        # What is in flight in this actor has gone with the engine: Ray Data starts it again.
        os._exit(1)
    if isinstance(error, RayTaskError):
        error = error.cause
    if error is not None:
        future.set_exception(error)
        return
    answer = asked.result()
    if isinstance(answer, Reply):
        future.set_result(answer)
    else:
        outcome, reason = answer
        future.set_exception(NO_ANSWERS[outcome](reason))


class Keeper:
    """The engines that this process keeps: one at the most."""

    def __init__(self) -> None:
        self._kept: KeptConfig | None = None
        self._job = ""

    def keep(self, cfg: EngineConfig) -> EngineConfig:
        """The engine for one step: where it is worth keeping, the one that is up, or a new one. An
        engine of another config is ended first, and so gives its memory back.
        """
        import ray

        if not getattr(cfg, "outlives_a_step", False):
            return cfg
        job = ray.get_runtime_context().get_job_id()
        if self._kept is None or self._kept.cfg != cfg or self._job != job:
            self.end()
            # Ended with this process, as it is the owner. Ray's restarts need no limit: the engine
            # is opened again only by an actor whose own restarts have one.
            actor = ray.remote(num_cpus=cfg.placement.cpus, max_restarts=-1)(Host)
            host = actor.options(max_concurrency=AT_ONCE).remote(cfg)
            self._kept, self._job = KeptConfig(cfg=cfg, host=host), job
        return self._kept

    def end(self) -> None:
        """End the engine that is kept, if one is."""
        import ray

        if self._kept is not None and self._job == ray.get_runtime_context().get_job_id():
            ray.kill(self._kept.host)
        self._kept = None


KEEPER = Keeper()
