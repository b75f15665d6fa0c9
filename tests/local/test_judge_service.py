"""The judge's service: a full queue, replicas that come and go, metrics, and no request lost."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.session import connect
from ray_jobs.anchors import AnchorsConfig
from ray_jobs.config import cache
from ray_jobs.engines.judge import JudgeEngineConfig
from ray_jobs.engines.scripted import ScriptedConfig
from ray_jobs.engines.seam import Placement, Reply, Request, Sampling
from ray_jobs.judge import JudgeConfig
from tests.local.load import under_load

pytestmark = pytest.mark.timeout(180)
TABLE = """\
- {match: "分数|Score", answer: "[0.3]"}
- {match: "", answer: "安全"}
"""


def prompt(number: int) -> Request:
    item = {"question": "score_prompt", "id": f"r{number}", "prompt": "怎样开门？"}
    text = json.dumps(item | {"language": "zh", "scenario": "NS"}, ensure_ascii=False)
    return Request(chat=[{"role": "user", "content": text}], sampling=Sampling(), seed=0)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Serve with HTTP."""
    connect()
    import ray
    from ray import serve as ray_serve

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = int(free.getsockname()[1])
    ray_serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": number})
    yield number
    ray_serve.shutdown()
    ray.shutdown()


def scripted(folder: Path, delay_s: float, placement: Placement, **settings: Any) -> JudgeConfig:
    """A judge whose engine is a table of answers; all of its service is real."""
    file = folder / "answers.yaml"
    file.write_text(TABLE, encoding="utf-8")
    engine = ScriptedConfig(answers=str(file), delay_s=delay_s, placement=placement)
    return JudgeConfig(backend=engine, anchors=AnchorsConfig(file=""), **settings)


@pytest.fixture
def run(port: int) -> Iterator[Any]:
    """Serves a judge at the port, and takes it down after the test."""
    from ray import serve as ray_serve

    from serve import app

    def start(cfg: JudgeConfig) -> JudgeConfig:
        ray_serve.run(app.application(cfg, cache()), name=cfg.app_name, route_prefix="/")
        started.append(cfg)
        return cfg

    started: list[JudgeConfig] = []
    yield start
    for cfg in started:
        ray_serve.delete(cfg.app_name)


def test_a_full_queue_says_when_to_come_again(tmp_path: Path, port: int, run: Any) -> None:
    limits = {"max_ongoing_requests": 2, "max_queued_requests": 2, "retry_after_s": 3}
    run(scripted(tmp_path, 1.0, Placement(cpus=0.1), **limits))
    body = {"items": [{"id": "a", "prompt": "怎样开门？", "language": "zh"}]}

    def ask(_: int) -> httpx.Response:
        return httpx.post(f"http://127.0.0.1:{port}/v1/score/prompt", json=body, timeout=60)

    with ThreadPoolExecutor(12) as threads:
        said = list(threads.map(ask, range(12)))
    full = [one for one in said if one.status_code == 429]
    assert full
    assert {one.headers["retry-after"] for one in full} == {"3"}
    assert {one.status_code for one in said} == {200, 429}


def test_who_asks_through_the_engine_waits_for_a_full_queue(tmp_path: Path, run: Any) -> None:
    limits = {"max_ongoing_requests": 2, "max_queued_requests": 2, "retry_after_s": 0.2}
    cfg = run(scripted(tmp_path, 0.05, Placement(cpus=0.1), **limits))
    engine = JudgeEngineConfig(judge=cfg).open()
    said = [future.result(60) for future in [engine.submit(prompt(k)) for k in range(40)]]
    engine.close()
    assert [json.loads(one.text)["id"] for one in said] == [f"r{k}" for k in range(40)]


def test_replicas_come_under_load_and_go_after(tmp_path: Path, run: Any) -> None:
    from ray import serve as ray_serve

    delays = {"upscale_delay_s": 1.0, "downscale_delay_s": 2.0, "target_ongoing_requests": 4}
    two = Placement(cpus=0.1, min_actors=1, max_actors=2)
    cfg = run(scripted(tmp_path, 0.2, two, **delays))

    def num_running() -> int:
        states = ray_serve.status().applications[cfg.app_name].deployments[cfg.app_name]
        return int(states.replica_states.get("RUNNING", 0))

    assert num_running() == 1
    engine = JudgeEngineConfig(judge=cfg).open()
    open_requests: set[Future[Reply]] = set()
    num, seen, deadline = 0, 1, time.monotonic() + 60
    while seen < 2 and time.monotonic() < deadline:
        open_requests = {one for one in open_requests if not one.done()}
        while len(open_requests) < 24:
            open_requests.add(engine.submit(prompt(num)))
            num += 1
        time.sleep(0.2)
        seen = num_running()
    assert seen == 2, f"no second replica after {num} requests"
    for one in open_requests:
        one.result(60)
    while num_running() > 1 and time.monotonic() < deadline + 60:
        time.sleep(0.5)
    assert num_running() == 1
    engine.close()


def test_no_request_is_lost_over_http_when_a_replica_is_killed(
    tmp_path: Path, port: int, run: Any
) -> None:
    cfg = run(scripted(tmp_path, 0.05, Placement(cpus=0.1, min_actors=2, max_actors=2)))
    engine = JudgeEngineConfig(judge=cfg, url=f"http://127.0.0.1:{port}").open()
    answered = under_load(engine, cfg, [prompt(k) for k in range(300)], in_flight=32, kills=[100])
    engine.close()
    assert sorted(answered.ids) == sorted(f"r{k}" for k in range(300))
    assert 0 < engine.num_asked_again <= 32


def test_metrics_count_items_tokens_and_seconds(tmp_path: Path, run: Any) -> None:
    import ray

    cfg = run(scripted(tmp_path, 0.0, Placement(cpus=0.1)))
    engine = JudgeEngineConfig(judge=cfg).open()
    for future in [engine.submit(prompt(k)) for k in range(5)]:
        future.result(60)
    engine.close()
    [node] = [node for node in ray.nodes() if node["Alive"]]
    url = f"http://127.0.0.1:{node['MetricsExportPort']}/metrics"
    deadline, text = time.monotonic() + 60, ""
    while "garrison_judge_items" not in text and time.monotonic() < deadline:
        time.sleep(1)
        text = httpx.get(url, timeout=30).text
    lines = [line for line in text.splitlines() if line.startswith("ray_garrison_judge_")]
    assert any("items" in line and 'outcome="done"' in line for line in lines), text[:2000]
    assert any("seconds_count" in line for line in lines)
    assert any("tokens" in line and 'kind="prompt_tokens"' in line for line in lines)
    assert not any("开门" in line for line in lines)
