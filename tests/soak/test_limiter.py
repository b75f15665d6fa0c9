"""Minutes of a provider that allows less than was set: the limiter finds what it takes."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import cloudpickle

from ray_jobs.engines.dashscope import DashScopeConfig
from ray_jobs.engines.seam import Request, Sampling
from ray_jobs.engines.shared import NAMESPACE
from ray_jobs.engines.spending import spent
from ray_jobs.tables import Folder
from tests.local.dashscope_server import Handler, Server, message, refuses, says

os.environ["TEST_WORKERS_KEY"] = "sk-not-for-logs"  # before Ray starts: its workers inherit it
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import this file
pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]
ASK = Request(
    chat=[{"role": "user", "content": "请评分"}],
    sampling=Sampling(max_tokens=20),
    seed=1,
    purpose="score_prompt",
)
PER_S = 10.0
QUESTIONS = 400


class Client:
    """A process of its own with an engine."""

    def __init__(self, cfg: DashScopeConfig) -> None:
        self.engine = cfg.open()

    def ask(self, num: int) -> int:
        """Returns how many got an answer."""
        futures = [self.engine.submit(ASK) for _ in range(num)]
        return sum(future.exception() is None for future in futures)


class Provider:
    """Allows so many requests a second, and answers the others 429."""

    def __init__(self) -> None:
        self.level, self.at, self.num_refused = PER_S, time.monotonic(), 0

    def __call__(self, handler: Handler, asked: dict[str, Any]) -> None:
        with handler.server.lock:
            now = time.monotonic()
            self.level, self.at = min(PER_S, self.level + (now - self.at) * PER_S), now
            allowed = self.level >= 1
            self.level -= allowed
            self.num_refused += not allowed
        answer = says(message()) if allowed else refuses(429, "Throttling.RateQuota")
        answer(handler, asked)


def test_a_provider_that_allows_a_third_of_what_was_set_answers_everything(tmp_path: Path) -> None:
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    server, provider = Server(), Provider()
    server.answers = [provider]
    cfg = DashScopeConfig(
        base_url=server.url,
        api_key_env="TEST_WORKERS_KEY",
        requests_per_minute=3 * 60 * PER_S,
        spending=str(tmp_path / "spending"),
    )
    clients = [ray.remote(Client).options(num_cpus=0).remote(cfg) for _ in range(3)]
    started = time.monotonic()
    answered = ray.get([client.ask.remote(QUESTIONS) for client in clients])
    wall_s = time.monotonic() - started
    share = provider.num_refused / len(server.asked)
    rate = len(server.asked) * (1 - share) / wall_s
    print(f"\n{rate:.1f} answers a second of {PER_S:g}; {share:.0%} of the requests refused")
    assert answered == [QUESTIONS] * 3
    assert rate > 0.6 * PER_S
    assert share < 0.4
    found = spent(Folder(cfg.spending))["score_prompt"]
    assert found.outcomes == {"done": 3 * QUESTIONS}
    assert found.num_attempts == len(server.asked)
    for actor in ray.util.list_named_actors(all_namespaces=True):
        assert actor["namespace"] == NAMESPACE
    server.stop()
    ray.shutdown()
