"""One local Ray for the tests that call our code, and a started head for jobs run as processes."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

os.environ["RAY_AUTH_MODE"] = "token"  # read when ray is imported, which some test files do

ROOT = Path(__file__).resolve().parents[2]
ANSWERS = """\
- {match: "安全主题标签|safety-theme", answer: "网络安全\\n直接提问"}
- {match: "先从安全角度|puts safety first", answer: "【分析】有风险\\n【回答】不可以这样做。"}
- match: '"question": "score_responses"'
  answer: >-
    {"outcome": "done", "orders": [{"scores": [0.2, 0.9]}, {"scores": [0.4, 0.7]}], "scores": [0.3,
    0.8], "spread": [0.1, 0.1], "backend": "scripted"}
- {match: '"question": "score_prompt"', answer: '{"outcome": "done", "score": 0.2,
  "spread": 0.1, "backend": "scripted"}'}
- {match: "", logprobs: [-30.5, 12]}
"""


@pytest.fixture(scope="module", autouse=True)
def own_environment() -> Iterator[None]:
    """What an engine in this process sets, such as being offline, is not for the next file."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """A connected Ray."""
    from cluster.session import connect

    connect()
    yield
    import ray

    ray.shutdown()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Where Serve listens, on a Ray of this file's own."""
    from cluster.session import connect

    connect()
    import ray
    from ray import serve as ray_serve

    number = free_port()
    ray_serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": number})
    yield number
    ray_serve.shutdown()
    ray.shutdown()


@dataclass(frozen=True)
class Head:
    """A Ray head with authentication, as `ray start --head` makes it."""

    env: Mapping[str, str]
    dashboard: str


@pytest.fixture(scope="session")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """Started once; its address and token are in the environment that jobs get."""
    ports = [free_port() for _ in range(3)]
    # The path is short because Ray puts sockets under it.
    folder = Path("/tmp") / f"ray-{secrets.token_hex(3)}"
    env = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    ray = str(Path(sys.executable).parent / "ray")
    start = [ray, "start", "--head", f"--port={ports[0]}", f"--dashboard-port={ports[1]}"]
    start += [f"--dashboard-agent-listen-port={ports[2]}"]  # another Ray here may have the default
    start += ["--num-cpus=8", "--disable-usage-stats", f"--temp-dir={folder}", "--block"]
    process = subprocess.Popen(start, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"127.0.0.1:{ports[0]}"
    try:
        status = [ray, "status", f"--address={address}"]
        _wait_for(lambda: subprocess.run(status, env=env, capture_output=True).returncode == 0, 90)
        _wait_for(lambda: _answers(ports[2]), 90)  # jobs are started by the agent
        yield Head(env | {"RAY_ADDRESS": address}, f"http://127.0.0.1:{ports[1]}")
    finally:
        # Not `ray stop`, which ends every Ray of this machine.
        for one in [*psutil.Process(process.pid).children(recursive=True), process]:
            one.kill()
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    """One that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


@dataclass(frozen=True)
class Job:
    """build_data on a recipe of the test's own, run as the README's command is."""

    head: Head
    tree: Path
    recipe: Path
    out: Path

    def command(self, *keys: str) -> list[str]:
        return [sys.executable, "-m", "ray_jobs", "build_data", str(self.recipe), *keys]

    def run(self, *keys: str) -> subprocess.CompletedProcess[str]:
        """Run to the end."""
        return subprocess.run(
            self.command(*keys),
            cwd=self.tree,
            env=self.head.env,
            capture_output=True,
            text=True,
            timeout=280,
        )

    def start(self, *keys: str) -> subprocess.Popen[str]:
        """Run in the background."""
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(self.command(*keys), cwd=self.tree, env=self.head.env, **quiet)

    def manifest(self, step: str) -> dict[str, Any]:
        """What is published of a step."""
        return json.loads((self.out / step / "manifest.json").read_text(encoding="utf-8"))

    def rows(self, step: str) -> list[dict[str, Any]]:
        """A published table's rows."""
        shards = [self.out / step / shard for shard in self.manifest(step)["shards"]]
        return pa.concat_tables([pq.read_table(shard) for shard in shards]).to_pylist()

    def num_sealed(self, step: str) -> int:
        """Rows that are safe so far."""
        found = [pq.read_metadata(file).num_rows for file in (self.out / step).glob("*/*.parquet")]
        return sum(found)

    def wait_for_rows(self, step: str, num: int) -> None:
        """Until so many rows of a step are safe."""
        _wait_for(lambda: self.num_sealed(step) >= num, 120)


def make_job(head: Head, folder: Path) -> Job:
    """A job whose engine is a table of answers: everything but the models is real."""
    (folder / "answers.yaml").write_text(ANSWERS, encoding="utf-8")
    samples = {"role": "train", "language": "zh", "licence": "Apache-2.0"}
    general = {"reader": "generic", "role": "general", "licence": "Apache-2.0"}
    fields = {"prompt": ["instruction", "input"], "responses": ["output"]}
    recipe = {
        "name": "test",
        "out": str(folder / "out"),
        "seed": 7,
        "ledger": {"shard_rows": 20, "shard_s": 1},
        "engines": {
            "table": {
                "kind": "scripted",
                "answers": str(folder / "answers.yaml"),
                "log": str(folder / "asked.log"),
            }
        },
        "build_data": {
            "sources": {
                "samples": {
                    "reader": "safety_prompts",
                    "path": "conf/samples/safety_prompts.json",
                    **samples,
                },
                "general": {"path": "conf/samples/general.jsonl", "fields": fields, **general},
            },
            **{
                stage: {"engine": "table"}
                for stage in ("intents", "answers", "perplexity", "rewards")
            },
            "audit": {"num": 30},
        },
    }
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe, allow_unicode=True), encoding="utf-8")
    return Job(head, ROOT, file, folder / "out")


@pytest.fixture
def job(head: Head, tmp_path: Path) -> Job:
    """A job in a folder of its own."""
    return make_job(head, tmp_path)


@pytest.fixture
def own_tree(job: Job, tmp_path: Path) -> Job:
    """The same job in a copy of the code, whose files the test may change."""
    tree = tmp_path / "tree"
    for name in ("ray_jobs", "serve", "cluster", "conf"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    return Job(job.head, tree, job.recipe, job.out)
