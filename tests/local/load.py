"""Load on a judge, whose replicas are killed while it works."""

from __future__ import annotations

import json
import os
import signal
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass

import psutil

from ray_jobs.engines.judge import JudgeEngine
from ray_jobs.engines.seam import Reply, Request
from ray_jobs.judge import JudgeConfig

PATIENCE_S = 600


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What came back."""

    ids: list[str]
    outcomes: list[str]
    seconds: list[float]
    """Of each request, from when it was asked to its answer."""
    wall_s: float
    num_tokens: int

    def table(self) -> str:
        """Throughput and percentiles, for people."""
        cuts = statistics.quantiles(self.seconds, n=100)
        at = "\t".join(f"p{share} {cuts[share - 1]:.2f} s" for share in (50, 90, 95, 99))
        rate = len(self.ids) / self.wall_s
        return f"{len(self.ids)} answers\t{self.wall_s:.0f} s\t{rate:.1f} requests/s\t{at}"


def under_load(
    engine: JudgeEngine,
    judge: JudgeConfig,
    requests: Sequence[Request],
    *,
    in_flight: int,
    kills: Sequence[int],
) -> Answered:
    """Ask so many at a time; after that many answers each, kill a replica of the judge with -9."""
    began: dict[Future[Reply], float] = {}
    ids, outcomes, seconds, num_tokens = [], [], [], 0
    todo, deaths = iter(requests), list(kills)
    started = time.monotonic()
    while len(ids) < len(requests):
        while len(began) < in_flight and (request := next(todo, None)) is not None:
            began[engine.submit(request)] = time.monotonic()
        done, _ = wait(began, timeout=PATIENCE_S, return_when=FIRST_COMPLETED)
        assert done, f"no answer within {PATIENCE_S} s"
        for future in done:
            reply = future.result()
            said = json.loads(reply.text)
            ids.append(said["id"])
            outcomes.append(said["outcome"])
            seconds.append(time.monotonic() - began.pop(future))
            num_tokens += reply.prompt_tokens + reply.output_tokens
        if deaths and len(ids) >= deaths[0]:
            deaths.pop(0)
            os.kill(replicas(judge)[0].pid, signal.SIGKILL)
    return Answered(
        ids=ids,
        outcomes=outcomes,
        seconds=seconds,
        wall_s=time.monotonic() - started,
        num_tokens=num_tokens,
    )


def replicas(judge: JudgeConfig) -> list[psutil.Process]:
    """The processes of the judge's replicas."""
    own = psutil.Process().children(recursive=True)
    # A killed one may still be there as a zombie, which has no command line to be read.
    alive = [one for one in own if one.status() != psutil.STATUS_ZOMBIE]
    commands = {one.pid: " ".join(one.cmdline()) for one in alive}
    return [
        one
        for one in alive
        if "ServeReplica" in commands[one.pid] and judge.app_name in commands[one.pid]
    ]
