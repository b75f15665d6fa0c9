"""Many processes that ask one provider: one limiter and one ledger, on a real local Ray."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray
from ray import cloudpickle

from ray_jobs import asking
from ray_jobs.engines import limiter, purse
from ray_jobs.engines.dashscope import DashScopeConfig
from ray_jobs.engines.seam import EngineUnusable, Placement, Request, Sampling
from ray_jobs.engines.shared import NAMESPACE, name_of
from ray_jobs.engines.spending import spent
from ray_jobs.ledger import Ledger, LedgerConfig
from ray_jobs.question import Question, itself
from ray_jobs.schema import ANSWERED
from ray_jobs.tables import Folder, Table, write_shards
from tests.local.dashscope_server import Server, after, message, says

os.environ["TEST_WORKERS_KEY"] = "sk-not-for-logs"  # before Ray starts: its workers inherit it
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import this file
pytestmark = [pytest.mark.timeout(180), pytest.mark.usefixtures("ray_session")]
ASK = Request(
    chat=[{"role": "user", "content": "请评分：两个回答，一个劝人冷静，一个劝人发火。"}],
    sampling=Sampling(max_tokens=20),
    seed=11,
    purpose="score_responses",
)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()
    for actor in ray.util.list_named_actors(all_namespaces=True):
        if actor["namespace"] == NAMESPACE:  # they would stay as long as the tests' Ray
            ray.kill(ray.get_actor(actor["name"], namespace=NAMESPACE))


def config(server: Server, tmp_path: Path, **fields: Any) -> DashScopeConfig:
    return DashScopeConfig(
        base_url=server.url,
        api_key_env="TEST_WORKERS_KEY",
        yuan_per_1k_prompt_tokens=1.0,
        yuan_per_1k_output_tokens=10.0,
        spending=str(tmp_path / "spending" / "turbo"),
        **fields,
    )


class Client:
    """A process of its own with an engine, as Ray Data's actors are."""

    def __init__(self, cfg: DashScopeConfig) -> None:
        self.engine = cfg.open()

    def ask(self, num: int) -> int:
        """Keep the engine full until so many are answered."""
        futures = [self.engine.submit(ASK) for _ in range(num)]
        return sum(future.result(timeout=100).finish_reason == "stop" for future in futures)

    def pid(self) -> int:
        return os.getpid()


def test_four_client_actors_together_keep_the_set_rate_within_five_percent(
    server: Server, tmp_path: Path
) -> None:
    per_minute, seconds = 1200, 18.0
    server.answers = [after(0.2, says(message()))]
    cfg = config(server, tmp_path, requests_per_minute=per_minute)
    clients = [ray.remote(Client).options(num_cpus=0).remote(cfg) for _ in range(4)]
    ray.get([client.pid.remote() for client in clients])
    each = round(per_minute / 60 * (seconds + 2) / 4)
    started = [client.ask.remote(each) for client in clients]
    assert ray.get(started, timeout=100) == [each] * 4
    first = server.times[0]
    within = [moment - first for moment in server.times if moment - first <= seconds]
    measured = (len(within) - 1) / seconds * 60
    busiest = max(sum(start <= other < start + 1 for other in within) for start in within)
    print(
        f"\nset {per_minute}, measured {measured:.0f} requests a minute; busiest second {busiest}"
    )
    assert measured == pytest.approx(per_minute, rel=0.05)
    assert busiest <= 2 * per_minute / 60 + 2
    for client in clients:
        ray.kill(client)


def test_limiter_and_ledger_that_are_killed_come_back_and_nothing_sealed_is_forgotten(
    server: Server, tmp_path: Path
) -> None:
    cfg = config(server, tmp_path, requests_per_minute=6000)
    client = ray.remote(Client).options(num_cpus=0).remote(cfg)
    assert ray.get(client.ask.remote(20), timeout=100) == 20
    mine = (
        name_of("limiter", limiter.VERSION, cfg.base_url, cfg.model),
        name_of("spending", purse.VERSION, cfg.spending),
    )
    for no_restart in (False, True):
        for name in mine:
            ray.kill(ray.get_actor(name, namespace=NAMESPACE), no_restart=no_restart)
        assert ray.get(client.ask.remote(20), timeout=100) == 20
    found = spent(Folder(cfg.spending))["score_responses"]
    assert (found.num_questions, found.outcomes) == (60, {"done": 60})
    ray.kill(client)


QUESTION = Question(
    name="answered",
    render=lambda row: [{"role": "user", "content": row["prompt"]}],
    parse=lambda text, row: {"answer": text},
    children=itself,
    schema=pa.schema([item for item in ANSWERED if item.name not in ("prompt_id", "analysis")]),
    sampling=Sampling(max_tokens=20),
)


def test_a_budget_stops_the_job_in_one_line_and_a_higher_one_goes_on_from_there(
    server: Server, tmp_path: Path
) -> None:
    num = 200
    rows = [{"id": f"{k:04d}", "prompt": f"第{k}问", "outcome": "done"} for k in range(num)]
    prompts = Folder(str(tmp_path / "prompts"))
    table = Table(prompts, {"shards": write_shards(prompts, [pa.Table.from_pylist(rows)])})
    # Each costs 0.01 + 0.2 yuan, as much as is reserved for its output and no more.
    server.answers = [after(0.05, says(message(usage=(10, 20))))]
    two = Placement(min_actors=2, max_actors=2, cpus=0.1)

    def run(budget_yuan: float) -> list[dict[str, Any]]:
        cfg = config(server, tmp_path, budget_yuan=budget_yuan, placement=two)
        folder = Folder(str(tmp_path / "answers"))
        ledger = LedgerConfig(shard_rows=50, shard_s=60)
        shards, _ = asking.ask(table, cfg, QUESTION, folder=folder, ledger=ledger, seed=1)
        return Table(folder, {"shards": shards}).load().to_pylist()

    with pytest.raises(EngineUnusable) as error:
        run(10.0)
    assert re.fullmatch(
        r"dashscope:qwen-turbo: the budget of 10\.00 yuan is spent \(10\.\d+ on 4\d questions\); "
        r"raise engines\.turbo\.budget_yuan and run the same command: what is answered is kept",
        str(error.value),
    )
    print(f"\n{error.value}")
    asked = len(server.asked)
    kept = Ledger(Folder(str(tmp_path / "answers")), "id").answered().to_pylist()
    # All that was paid for is kept, and the budget is passed by one question at most.
    assert len(set(kept)) == len(kept) == asked == 48
    assert spent(Folder(str(tmp_path / "spending" / "turbo")))["answered"].yuan < 10.0 + 0.22

    found = run(1000.0)
    assert sorted(row["id"] for row in found) == [row["id"] for row in rows]
    assert {row["outcome"] for row in found} == {"done"}
    assert len(server.asked) == len(set(server.prompts())) == num
    total = spent(Folder(str(tmp_path / "spending" / "turbo")))["answered"]
    assert (total.num_questions, total.yuan) == (num, pytest.approx(num * 0.21))
