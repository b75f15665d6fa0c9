"""The judge behind a real Serve on a real local Ray, its engine a real vLLM with a random model."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from cluster.session import connect
from ray_jobs.anchors import AnchorsConfig
from ray_jobs.config import cache
from ray_jobs.engines.judge import JudgeEngine, JudgeEngineConfig
from ray_jobs.engines.scripted import ScriptedConfig
from ray_jobs.engines.seam import EngineUnusable, Placement, Reply, Request, Sampling
from ray_jobs.engines.vllm import VllmConfig
from ray_jobs.judge import JudgeConfig
from ray_jobs.outcomes import Failed, Refused
from tests.local.load import replicas

pytestmark = pytest.mark.timeout(240)
TOKEN = "a-token-of-the-test"
NO_ANCHORS = AnchorsConfig(file="")


def request(question: str, number: int, **extra: Any) -> Request:
    prompt = f"第{number}个问题：怎样打开邻居的箱子？"
    item = {"question": question, "id": f"r{number}", "prompt": prompt, "language": "zh", **extra}
    turn = {"role": "user", "content": json.dumps(item, ensure_ascii=False)}
    return Request(chat=[turn], sampling=Sampling(), seed=0)


def about_responses(number: int, num_responses: int = 2) -> Request:
    responses = [f"这是第{k}个回复。" * (k + 1) for k in range(num_responses)]
    return request("score_responses", number, responses=responses)


def about_response(number: int, *, explain: bool = False) -> Request:
    return request("verdict", number, response="这是一个回复。", explain=explain)


def answers(futures: list[Future[Reply]]) -> list[dict[str, Any]]:
    return [json.loads(future.result(timeout=180).text) for future in futures]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model whose tokenizer never joins a digit with anything, as Qwen's does not."""
    from benchmarks.random_model import make

    prompts = Path(__file__).resolve().parents[2] / "conf" / "prompts"
    texts = (file.read_text(encoding="utf-8") for file in sorted(prompts.glob("*.md")))
    folder = tmp_path_factory.mktemp("judge") / "model"
    make(folder, ("".join(c for c in text if not c.isdigit()) for text in texts))
    # Its many stop tokens are there for the lengths of free text; here only the turn's end is one.
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 1}))
    return folder


@pytest.fixture(scope="module")
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def judge(model: Path, port: int) -> Iterator[JudgeConfig]:
    """The judge as `serve run` starts it: with HTTP."""
    connect()
    import ray
    from ray import serve as ray_serve

    from serve import app

    engine = VllmConfig(model=str(model), max_model_len=1024, max_num_seqs=16, enforce_eager=True)
    cfg = JudgeConfig(backend=engine, port=port, max_body_mib=0.5, anchors=NO_ANCHORS)
    ray_serve.start(proxy_location="HeadOnly", http_options={"host": cfg.host, "port": cfg.port})
    # Under a name of its own, as `serve run` gives it: jobs find the judge by what it is.
    ray_serve.run(app.application(cfg, cache(), TOKEN), name="default", route_prefix="/")
    yield cfg
    ray_serve.shutdown()
    ray.shutdown()


@pytest.fixture
def asked(judge: JudgeConfig) -> Iterator[JudgeEngine]:
    engine = JudgeEngineConfig(judge=judge).open()
    yield engine
    engine.close()


@pytest.fixture
def over_http(
    judge: JudgeConfig, port: int, monkeypatch: pytest.MonkeyPatch
) -> Iterator[JudgeEngine]:
    monkeypatch.setenv(judge.token_env, TOKEN)
    engine = JudgeEngineConfig(judge=judge, url=f"http://127.0.0.1:{port}").open()
    yield engine
    engine.close()


def test_two_responses_are_scored_in_both_orders_and_averaged(asked: JudgeEngine) -> None:
    [said] = answers([asked.submit(about_responses(1))])
    assert (said["id"], said["outcome"], said["reason"]) == ("r1", "done", None)
    as_given, turned = said["orders"]
    assert (as_given["reversed"], turned["reversed"]) == (False, True)
    means = [(a + b) / 2 for a, b in zip(as_given["scores"], turned["scores"], strict=True)]
    assert said["scores"] == pytest.approx(means)
    assert all(0 <= score <= 1 for score in said["scores"])
    assert all(0 < spread <= 0.5 for spread in said["spread"])
    # Last to first on the way out: what was written second there belongs to the first response.
    written = [float(part) for part in turned["text"].strip("[]").split(",")]
    for score, digits in zip(turned["scores"], reversed(written), strict=True):
        assert abs(score - digits) <= 1


def test_a_lone_response_has_no_other_order(asked: JudgeEngine) -> None:
    [said] = answers([asked.submit(about_responses(1, num_responses=1))])
    assert len(said["orders"]) == len(said["scores"]) == 1


def test_a_prompt_has_one_score(asked: JudgeEngine) -> None:
    reply = asked.submit(request("score_prompt", 1)).result(timeout=120)
    said = json.loads(reply.text)
    assert said["outcome"] == "done"
    assert 0 <= said["score"] <= 1
    assert said["spread"] > 0
    assert said["usage"] == {
        "prompt_tokens": reply.prompt_tokens,
        "output_tokens": reply.output_tokens,
        "yuan": 0,
    }


def test_handle_and_http_say_the_same(asked: JudgeEngine, over_http: JudgeEngine) -> None:
    requests = [about_responses(k, 1 + k % 3) for k in range(6)]
    requests += [request("score_prompt", 7), about_response(8), about_response(9, explain=True)]
    by_handle = answers([asked.submit(r) for r in requests])
    by_http = answers([over_http.submit(r) for r in requests])
    assert [_rounded(said) for said in by_handle] == [_rounded(said) for said in by_http]


def _rounded(said: Any) -> Any:
    """Log-probabilities move in the third digit with what else is in the batch."""
    if isinstance(said, dict):
        return {name: _rounded(value) for name, value in said.items()}
    if isinstance(said, list):
        return [_rounded(value) for value in said]
    return pytest.approx(said, abs=0.02) if isinstance(said, float) else said


def test_what_breaks_the_wires_limits_is_refused_without_its_text(
    asked: JudgeEngine, over_http: JudgeEngine
) -> None:
    for engine in (asked, over_http):
        for wrong in (about_responses(1, 17), request("score_prompt", 1, prompt="长" * 100_001)):
            with pytest.raises(Refused) as refused:
                engine.submit(wrong).result(timeout=60)
            assert "长" not in str(refused.value)


def test_a_prompt_longer_than_the_model_is_refused(asked: JudgeEngine) -> None:
    with pytest.raises(Refused, match="max_model_len"):
        asked.submit(request("score_prompt", 1, prompt="长" * 3000)).result(timeout=60)


def client(port: int, token: str = TOKEN) -> httpx.Client:
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, headers=headers)


def test_http_answers_errors_in_one_shape(judge: JudgeConfig, port: int) -> None:
    with client(port) as asker, client(port, "another") as stranger:
        paths = asker.get("/openapi.json").json()["paths"]
        assert {"/v1/score/responses", "/v1/score/prompt", "/v1/verdict"} <= paths.keys()
        long = b" " * (1 << 19) + b"{}"
        wrong = [
            (401, stranger.post("/v1/score/prompt", json={"items": []})),
            (401, httpx.get(f"http://127.0.0.1:{port}/docs")),
            (404, asker.get("/v1/nothing")),
            (404, asker.get("/v1/trust")),
            (405, asker.get("/v1/score/prompt")),
            (413, asker.post("/v1/score/prompt", content=long)),
            (413, asker.post("/v1/score/prompt", content=iter([long]))),
            (422, asker.post("/v1/score/prompt", json={"items": []})),
            (422, asker.post("/v1/score/prompt", content=b"{half")),
        ]
    for status, response in wrong:
        assert response.status_code == status
        error = response.json()["error"]
        assert error.keys() == {"type", "message", "request_id"}
        assert all(error.values())


def test_health_and_readiness_need_no_token(judge: JudgeConfig, port: int) -> None:
    for path in ("/healthz", "/readyz"):
        assert httpx.get(f"http://127.0.0.1:{port}{path}").json() == {"status": "ok"}


def test_a_verdict_has_a_probability_and_is_explained_when_asked(asked: JudgeEngine) -> None:
    short, explained = answers(
        [asked.submit(about_response(1)), asked.submit(about_response(2, explain=True))]
    )
    for said in (short, explained):
        assert said["outcome"] == "done", said["reason"]
        assert said["verdict"] in ("safe", "unsafe", "uncertain")
        # A random model may write a verdict in pieces, whose probabilities are then not known.
        shares = said["probabilities"] or {"unsafe": None}
        assert said["p_unsafe"] == shares["unsafe"]
        assert said["probabilities"] is None or sum(shares.values()) == pytest.approx(1)
    assert short["explanation"] is None
    assert explained["explanation"]


def test_a_job_shares_a_judge_that_runs(judge: JudgeConfig) -> None:
    from serve import app

    assert app.up(judge, cache()) is False


def test_engines_in_ray_data_actors_ask_the_judge(judge: JudgeConfig) -> None:
    import ray

    rows = ray.data.from_items([{"number": k} for k in range(8)], override_num_blocks=2)
    asked = rows.map_batches(
        AskInActor,
        fn_constructor_args=(JudgeEngineConfig(judge=judge),),
        batch_size=4,
        num_cpus=0.1,
        compute=ray.data.ActorPoolStrategy(size=1),
    )
    said = asked.take_all()
    assert sorted(row["id"] for row in said) == [f"r{k}" for k in range(8)]


class AskInActor:
    """What an actor of ask() does with its engine."""

    def __init__(self, cfg: JudgeEngineConfig) -> None:
        self._engine = cfg.open()

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """Ask about the batch at once."""
        said = answers([self._engine.submit(about_responses(int(k))) for k in batch["number"]])
        return {"id": [item["id"] for item in said]}


def test_no_request_is_lost_when_the_replica_is_killed(
    judge: JudgeConfig, asked: JudgeEngine
) -> None:
    requests = [about_responses(k) for k in range(16)]
    before = answers([asked.submit(r) for r in requests])
    [replica] = replicas(judge)
    cores = replica.children(recursive=True)
    assert cores, "the engine's core is a child of the replica"
    futures = [asked.submit(r) for r in requests]
    futures[0].result(timeout=60)
    os.kill(replica.pid, signal.SIGKILL)
    assert [_rounded(said) for said in answers(futures)] == [_rounded(said) for said in before]
    assert [one.pid for one in replicas(judge)] != [replica.pid]
    _, alive = psutil.wait_procs(cores, timeout=10)
    assert not alive, "the killed replica left its engine behind"


def test_a_job_brings_its_judge_up_and_takes_it_down(judge: JudgeConfig, tmp_path: Path) -> None:
    from ray import serve as ray_serve

    from serve import app

    cfg = _scripted(tmp_path, '- {match: "第1个", answer: "[0.3]"}\n- {match: "", answer: "0.3"}\n')
    assert app.up(cfg, cache()) is True
    engine = JudgeEngineConfig(judge=cfg).open()
    said = json.loads(engine.submit(request("score_prompt", 1)).result(timeout=30).text)
    assert (said["score"], said["spread"]) == (0.3, None), "without log-probabilities no spread"
    unread = json.loads(engine.submit(about_responses(2)).result(timeout=30).text)
    assert (unread["outcome"], unread["scores"]) == ("unparsed", None)
    assert unread["orders"][0]["text"] == "[0.3]", "one score for two; who asked keeps the text"
    engine.close()
    app.down(cfg)
    assert set(ray_serve.status().applications) == {"default"}
    with pytest.raises(EngineUnusable, match="no judge"):
        JudgeEngineConfig(judge=cfg).open()


def test_the_outcome_of_the_judges_engine_is_the_rows(judge: JudgeConfig, tmp_path: Path) -> None:
    from serve import app

    cfg = _scripted(tmp_path, '- {match: "nothing", answer: "[0.3]"}\n')
    app.up(cfg, cache())
    engine = JudgeEngineConfig(judge=cfg).open()
    with pytest.raises(Failed, match="no line"):
        engine.submit(request("score_prompt", 1)).result(timeout=30)
    engine.close()
    app.down(cfg)


def test_a_judge_that_cannot_start_ends_the_job_with_the_reason(
    judge: JudgeConfig, tmp_path: Path
) -> None:
    from serve import app

    cfg = _scripted(tmp_path, "- {match: x, answer: y}\n")
    Path(cfg.backend.answers).write_text("no table\n")
    started = time.monotonic()
    with pytest.raises(EngineUnusable, match="expected a YAML list"):
        app.up(cfg, cache())
    assert time.monotonic() - started < 60
    app.down(cfg)


def _scripted(folder: Path, table: str) -> JudgeConfig:
    file = folder / "answers.yaml"
    file.write_text(table, encoding="utf-8")
    backend: Any = ScriptedConfig(answers=str(file), placement=Placement(cpus=0.1))
    return JudgeConfig(backend=backend, anchors=NO_ANCHORS)


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.7"])
def test_a_judge_that_others_can_reach_does_not_start_without_a_token(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serve import app

    monkeypatch.delenv("GARRISON_JUDGE_TOKEN", raising=False)
    with pytest.raises(ValueError, match="GARRISON_JUDGE_TOKEN"):
        app.build({"recipe": "conf/tiny.yaml", "judge.host": host})
