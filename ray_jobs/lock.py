"""One run to a folder: a lock file with a heartbeat.

On one machine a dead holder is known at once; elsewhere (an object store, a shared disk) when its
heartbeat stops.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any

from ray_jobs.tables import Folder

NAME = "lock.json"
HEARTBEAT_S = 10.0
STALE_S = 60.0
log = logging.getLogger(__name__)
TOLD = ("run", "host", "pid", "started", "time")


class RunLock:
    """Holds a folder for the length of a `with`. ValueError where another run holds it."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._me = {"run": uuid.uuid4().hex, "host": socket.gethostname(), **_process(os.getpid())}
        self._released = threading.Event()

    def __enter__(self) -> RunLock:
        holder = self._holder()
        if holder and _alive(holder):
            raise ValueError(
                f"{self._folder.uri}: another run writes here (process {holder['pid']} on "
                f"{holder['host']}, last sign of life {time.time() - holder['time']:.0f} s ago); "
                "wait for it, or give another out="
            )
        self._beat()
        # Neither a shared disk nor an object store has a lock that all of them keep. Of two that
        # start together the later writer wins, and after a moment the other sees that it has lost.
        time.sleep(0.2)
        holder = self._holder()
        if not holder or holder["run"] != self._me["run"]:
            raise ValueError(
                f"{self._folder.uri}: another run has just begun to write here; give another out="
            )
        threading.Thread(target=self._keep_beating, name="lock", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._released.set()
        holder = self._holder()
        if holder and holder["run"] == self._me["run"]:
            self._folder.remove(NAME)

    def _holder(self) -> dict[str, Any] | None:
        try:
            return self._folder.read_json(NAME, TOLD)
        except ValueError as error:
            # Locks are written whole, so this is no run's; but it may be somebody's.
            if self._folder.age_s(NAME) >= STALE_S:
                return None
            raise ValueError(
                f"{self._folder.uri}/{NAME}: cannot be read as a run's lock; if no other run "
                f"writes here, remove it, or wait {STALE_S:g} s"
            ) from error

    def _beat(self) -> None:
        self._folder.write(NAME, json.dumps({**self._me, "time": time.time()}).encode())

    def _keep_beating(self) -> None:
        while not self._released.wait(HEARTBEAT_S):
            try:
                self._beat()
            except OSError as error:  # such as a disk that is full for a while
                log.warning("%s: no sign of life could be written: %s", self._folder.uri, error)


def _process(pid: int) -> dict[str, Any]:
    # A pid comes back after a restart; pid and start time together do not.
    try:
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except FileNotFoundError:
        started = ""
    return {"pid": pid, "started": started}


def _alive(holder: dict[str, Any]) -> bool:
    if holder["host"] == socket.gethostname() and holder["started"]:
        return bool(_process(holder["pid"])["started"] == holder["started"])
    return bool(time.time() - holder["time"] < STALE_S)
