"""One object for the whole cluster: a named actor that outlives the job that made it. Where Ray is
not up, one object of this process, in a loop of its own.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import threading
import time
from typing import Any

from ray_jobs.engines.loop import LoopThread

NAMESPACE = "garrison"
PATIENCE_S = 60.0
"""How long a call looks for an actor that has died: Ray starts another, or we do."""

_here: dict[str, Any] = {}
_here_lock = threading.Lock()


class Shared:
    """Calls the object of that name, wherever it lives. Its methods are coroutines."""

    def __init__(self, name: str, kind: type[Any], *args: Any) -> None:
        import ray

        self._name, self._kind, self._args = name, kind, args
        self._alone = not ray.is_initialized()
        self._object = self._of_this_process() if self._alone else self._of_the_cluster()

    async def call(self, method: str, *args: Any) -> Any:
        """The method's result. A call may be made twice where the actor dies meanwhile."""
        if self._alone:
            work = getattr(self._object, method)(*args)
            return await asyncio.wrap_future(_loop().submit(work))
        return await self._call_actor(method, *args)

    async def _call_actor(self, method: str, *args: Any) -> Any:
        from ray.exceptions import RayActorError

        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return await getattr(self._object, method).remote(*args)
            except RayActorError:
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(0.2)
            self._object = await asyncio.to_thread(self._of_the_cluster)

    def _of_the_cluster(self) -> Any:
        import ray

        options = {
            "name": self._name,
            "namespace": NAMESPACE,
            "get_if_exists": True,
            "lifetime": "detached",
            "num_cpus": 0,
            "max_restarts": -1,
            "max_task_retries": -1,
        }
        return ray.remote(self._kind).options(**options).remote(*self._args)

    def _of_this_process(self) -> Any:
        with _here_lock:
            if self._name not in _here:
                _here[self._name] = self._kind(*self._args)
            return _here[self._name]


def name_of(what: str, version: int, *parts: str) -> str:
    """A name that everyone who shares the object comes to. The version is the class's own: a job of
    newer code must not meet the actor that an older one has left.
    """
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
    return f"{what}-v{version}-{digest}"


def retire() -> None:
    """End the actor that this runs in, if it runs in one: who needs it again makes a new one."""
    import ray

    if ray.is_initialized() and ray.get_runtime_context().get_actor_id():
        ray.kill(ray.get_runtime_context().current_actor, no_restart=True)


@functools.cache
def _loop() -> LoopThread:
    return LoopThread("shared")
