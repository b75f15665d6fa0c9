"""Requests a second at concurrency 1: the engine alone, the judge through its handle, and over
HTTP. What the judge adds to a request is the engine's rate over its own, less one.

python -m benchmarks.judge_latency [runs]
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from benchmarks import sides
from benchmarks.judge import judge, pairs
from cluster.session import connect
from ray_jobs import likelihoods, verdicts
from ray_jobs.engines.judge import JudgeEngineConfig
from ray_jobs.engines.seam import Constraint, Engine, Request, Sampling
from serve.rubric import TOKENS_PER_SCORE

NUM, NUM_BEFORE = 100, 10
PORT = 8124


def _timed(engine: Engine, request: Callable[[int], Request]) -> dict[str, float]:
    """One request after another, the first few unclocked."""
    for number in range(NUM_BEFORE):
        engine.submit(request(number)).result(timeout=120)
    started = time.perf_counter()
    for number in range(NUM_BEFORE, NUM_BEFORE + NUM):
        engine.submit(request(number)).result(timeout=120)
    return {"num": NUM, "wall_s": time.perf_counter() - started}


def engine() -> dict[str, float]:
    """The engine in this process."""
    rows = pairs()

    def request(number: int) -> Request:
        return Request(
            chat=verdicts.render_prompt_score(rows[number]["prompt"], "zh"),
            sampling=Sampling(max_tokens=2 * TOKENS_PER_SCORE),
            seed=0,
            constraint=Constraint(regex=verdicts.scores_regex(1)),
            logprobs_of=likelihoods.DIGITS,
        )

    opened = sides.engine().open()
    found = _timed(opened, request)
    opened.close()
    return found


def handle() -> dict[str, float]:
    """The judge through Serve's handle."""
    from serve import app

    connect()
    cfg = judge()
    app.up(cfg, sides.CACHE)
    return _timed(JudgeEngineConfig(judge=cfg).open(), _item)


def http() -> dict[str, float]:
    """The judge over HTTP."""
    from ray import serve as ray_serve

    from serve import app

    connect()
    cfg = judge()
    ray_serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    ray_serve.run(app.application(cfg, sides.CACHE), route_prefix="/")
    return _timed(JudgeEngineConfig(judge=cfg, url=f"http://127.0.0.1:{PORT}").open(), _item)


def _item(number: int) -> Request:
    row = pairs()[number]
    item = {"question": "score_prompt", **{k: row[k] for k in ("id", "prompt", "language")}}
    return Request(
        chat=[{"role": "user", "content": json.dumps(item)}], sampling=Sampling(), seed=0
    )


if __name__ == "__main__":
    sides.main(
        "benchmarks.judge_latency", {"engine": engine, "handle": handle, "http": http}, "requests"
    )
