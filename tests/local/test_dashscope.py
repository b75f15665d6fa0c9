"""The engine of kind `dashscope`: the real SDK against a real server that speaks the provider's
protocol.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ray_jobs.engines.dashscope import DashScopeConfig, DashScopeEngine
from ray_jobs.engines.seam import EngineUnusable, Reply, Request, Sampling
from ray_jobs.engines.spending import Spent, spent
from ray_jobs.outcomes import Blocked, Failed, Refused, Unparsed
from ray_jobs.tables import Folder
from tests.local.dashscope_server import (
    Server,
    Way,
    after,
    disconnects,
    half_a_body,
    hangs,
    inspects,
    message,
    refuses,
    says,
    sends,
)

pytestmark = pytest.mark.timeout(120)
KEY = "sk-not-for-logs"
TEXT = "请评分：两个回答，一个劝人冷静，一个劝人发火。"
PRICES = {"yuan_per_1k_prompt_tokens": 1.0, "yuan_per_1k_output_tokens": 10.0}
ASK = Request(
    chat=[{"role": "system", "content": "评分"}, {"role": "user", "content": TEXT}],
    sampling=Sampling(max_tokens=20),
    seed=11,
)


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def server(running: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """One for the file, and so one limiter and one ledger: where another file has brought Ray up,
    each is an actor with a process.
    """
    monkeypatch.setenv("TEST_API_KEY", KEY)
    running.forget()
    yield running
    running.forget()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return Folder(str(tmp_path_factory.mktemp("spending") / "turbo"))


@pytest.fixture
def config(server: Server, folder: Folder) -> Callable[..., DashScopeConfig]:
    def config(**fields: Any) -> DashScopeConfig:
        given = {"base_url": server.url, "api_key_env": "TEST_API_KEY", "spending": folder.uri}
        given |= {"max_retries": 2, "retry_wait_s": 0.02, "timeout_s": 5.0, **PRICES}
        return DashScopeConfig(**{**given, **fields})

    return config


@pytest.fixture
def question(request: pytest.FixtureRequest) -> Request:
    """A question whose purpose in the ledger is the test's name."""
    return replace(ASK, purpose=request.node.name)


@pytest.fixture
def ask(
    server: Server, config: Callable[..., DashScopeConfig], question: Request
) -> Iterator[Callable[..., Reply]]:
    opened: list[DashScopeEngine] = []

    def ask(*answers: Way, request: Mapping[str, Any] | None = None, **fields: Any) -> Reply:
        server.answers = list(answers)
        opened.append(config(**fields).open())
        return opened[-1].submit(replace(question, **(request or {}))).result(timeout=60)

    yield ask
    for engine in opened:
        engine.close()


@pytest.fixture
def paid(folder: Folder, question: Request) -> Callable[[], Spent]:
    """What the test's questions have cost, as the ledger says."""
    return lambda: spent(folder)[question.purpose]


def test_an_answer_comes_back_with_its_tokens_its_snapshot_and_its_price(
    server: Server, ask: Callable[..., Reply], paid: Callable[[], Spent]
) -> None:
    reply = ask(says(message("[0.3, 0.8]", usage=(70, 12), model="qwen-turbo-2025-07-15")))
    assert reply == Reply(
        text="[0.3, 0.8]",
        prompt_tokens=70,
        output_tokens=12,
        finish_reason="stop",
        model="qwen-turbo-2025-07-15",
        yuan=pytest.approx(0.07 + 0.12),
    )
    assert server.keys == [f"Bearer {KEY}"]
    asked = server.asked[0]
    assert asked["model"] == "qwen-turbo"
    assert asked["input"] == {"messages": ASK.chat}
    sent = {"max_tokens": 20, "seed": 11, "temperature": 0.0, "top_k": 1}
    assert sent.items() <= asked["parameters"].items()
    assert asked["parameters"]["result_format"] == "message"
    assert paid() == Spent(
        num_questions=1,
        num_attempts=1,
        prompt_tokens=70,
        output_tokens=12,
        yuan=pytest.approx(0.19),
        yuan_assumed=0.0,
        outcomes={"done": 1},
    )


def test_where_no_snapshot_is_named_the_model_that_was_asked_stands(
    ask: Callable[..., Reply],
) -> None:
    assert ask(says(message())).model == "qwen-turbo"


def test_sampling_and_stops_are_sent(server: Server, ask: Callable[..., Reply]) -> None:
    sampling = Sampling(max_tokens=9, temperature=0.5, top_p=0.8, top_k=40)
    ask(says(message()), request={"sampling": sampling, "stop": ("\n\n",)})
    sent = {"max_tokens": 9, "temperature": 0.5, "top_p": 0.8, "top_k": 40, "stop": ["\n\n"]}
    assert sent.items() <= server.asked[0]["parameters"].items()


def test_a_cut_answer_says_so(ask: Callable[..., Reply]) -> None:
    assert ask(says(message("[0.", "length"))).finish_reason == "length"


def test_log_probabilities_may_be_asked_for_and_are_not_given(ask: Callable[..., Reply]) -> None:
    reply = ask(says(message()), request={"logprobs_of": ("0", "1")})
    assert reply.logprobs == ()
    with pytest.raises(EngineUnusable, match="cannot score prompts; use kind vllm"):
        ask(says(message()), request={"perplexity": True})


def test_429_with_retry_after_is_waited_for(server: Server, ask: Callable[..., Reply]) -> None:
    started = time.monotonic()
    ask(refuses(429, "Throttling", retry_after="1"), says(message()), model="throttled-1")
    assert 1.0 <= time.monotonic() - started < 6.0
    assert len(server.asked) == 2


def test_429_without_retry_after_is_retried_beyond_max_retries(
    server: Server, ask: Callable[..., Reply], paid: Callable[[], Spent]
) -> None:
    quota = refuses(429, "Throttling.AllocationQuota")
    ask(quota, quota, quota, says(message()), max_retries=1, model="throttled-2")
    assert len(server.asked) == 4
    assert paid().num_attempts == 4
    assert paid().yuan_assumed == 0.0  # an error costs nothing


@pytest.mark.parametrize("which", ["Input", "Output"])
def test_a_refusal_for_the_texts_sake_is_blocked_and_never_retried(
    server: Server, ask: Callable[..., Reply], paid: Callable[[], Spent], which: str
) -> None:
    with pytest.raises(Blocked, match=f"^DataInspectionFailed on the {which.lower()}$"):
        ask(inspects(which))
    assert len(server.asked) == 1
    assert paid().outcomes == {"blocked": 1}


@pytest.mark.parametrize(
    ("way", "advice"),
    [
        (refuses(401, "InvalidApiKey", "Invalid API-key provided."), "check the key in TEST_API"),
        (refuses(403, "AccessDenied"), "check the key in TEST_API_KEY"),
        (refuses(400, "Arrearage"), "see to the account of the key in TEST_API_KEY"),
        (refuses(404, "ModelNotFound"), "check model and base_url"),
    ],
)
def test_a_wrong_key_account_or_model_ends_the_job_in_one_line_without_the_key(
    server: Server, ask: Callable[..., Reply], paid: Callable[[], Spent], way: Way, advice: str
) -> None:
    with pytest.raises(EngineUnusable, match=advice) as error:
        ask(way)
    assert str(error.value).startswith(f"dashscope:qwen-turbo at {server.url} says HTTP 4")
    assert KEY not in str(error.value)
    assert "\n" not in str(error.value)
    assert len(server.asked) == 1
    assert paid().outcomes == {"unusable": 1}


def test_a_request_that_the_provider_cannot_take_is_refused(
    server: Server, ask: Callable[..., Reply]
) -> None:
    why = "Range of input length should be [1, 129024]"
    with pytest.raises(Refused, match="the prompt is longer than the provider takes"):
        ask(refuses(400, "InvalidParameter", why))
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "way", [refuses(500, "InternalError"), sends(b"busy", 503, content_type="text/plain")]
)
def test_server_errors_fail_after_the_retries_and_cost_nothing(
    server: Server, ask: Callable[..., Reply], paid: Callable[[], Spent], way: Way
) -> None:
    with pytest.raises(Failed, match=r"^HTTP 50[03] \w+ after 2 retries$"):
        ask(way)
    assert len(server.asked) == 3
    assert (paid().outcomes, paid().yuan) == ({"failed": 1}, 0.0)


def test_a_server_error_that_passes_is_survived(ask: Callable[..., Reply]) -> None:
    assert ask(refuses(500, "InternalError"), says(message())).text == "[0.2, 0.9]"


@pytest.mark.parametrize("way", [hangs, half_a_body])
def test_a_server_that_hangs_or_breaks_off_has_failed_and_may_have_billed(
    server: Server, ask: Callable[..., Reply], paid: Callable[[], Spent], way: Way
) -> None:
    with pytest.raises(Failed, match=r"^\w+ after 1 retries$"):
        ask(way, timeout_s=0.5, max_retries=1)
    assert len(server.asked) == 2
    assert paid().yuan == paid().yuan_assumed > 2 * 0.2  # of max_tokens alone


def test_a_dropped_connection_is_sent_twice_by_the_sdk_and_counted_twice(
    server: Server, ask: Callable[..., Reply], paid: Callable[[], Spent]
) -> None:
    with pytest.raises(Failed, match=r"^ServerDisconnectedError after 1 retries$"):
        ask(disconnects, max_retries=1)
    assert len(server.asked) == 4
    assert paid().num_attempts == 4
    reply = ask(disconnects, says(message()))  # the SDK's own resend
    assert len(server.asked) == 6
    assert reply.yuan > 0.19 + 0.2


@pytest.mark.parametrize(
    "way",
    [
        sends(b"{half"),
        sends(b"<html>busy</html>", content_type="text/html"),
        sends(b"null"),
        says(["a", "list"]),
        says({"request_id": "r", "usage": {"input_tokens": 5, "output_tokens": 5}}),
        says({**message(), "output": {"choices": []}}),
        says({**message(), "output": {"choices": ["a text"]}}),
        says({**message(), "output": {"choices": [{"finish_reason": "stop"}]}}),
        says({**message(), "usage": None}),
        says({**message(), "usage": ["none"]}),
        says(message(finish="tool_calls")),
        says(message(text=[{"text": "a part"}])),  # type: ignore[arg-type]
        sends(b"\xff\xfe", 500),
        sends(b"{half", 500),
    ],
)
def test_what_is_no_answer_of_the_protocol_is_asked_again_and_then_failed(
    server: Server, ask: Callable[..., Reply], way: Way
) -> None:
    with pytest.raises(Failed, match="after 1 retries"):
        ask(way, max_retries=1)
    assert len(server.asked) == 2
    assert ask(way, says(message())).text == "[0.2, 0.9]"


def test_an_answer_without_text_is_unparsed_and_paid_for(
    ask: Callable[..., Reply], paid: Callable[[], Spent]
) -> None:
    with pytest.raises(Unparsed):
        ask(says(message(text=None)))
    assert paid().yuan == pytest.approx(0.19)


def test_a_server_that_is_not_there_has_failed_and_costs_nothing(
    config: Callable[..., DashScopeConfig], question: Request, paid: Callable[[], Spent]
) -> None:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        base_url = f"http://127.0.0.1:{taken.getsockname()[1]}/api/v1"
        engine = config(max_retries=0, base_url=base_url).open()
        with pytest.raises(Failed, match=r"^ClientConnectorError after 0 retries$"):
            engine.submit(question).result(timeout=30)
        engine.close()
    assert paid().yuan == 0.0


def test_neither_key_nor_text_is_logged_or_written_down(
    ask: Callable[..., Reply], folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for way in (refuses(400, "InvalidParameter", TEXT), refuses(500, TEXT, TEXT), half_a_body):
        with pytest.raises((Failed, Refused)) as error:
            ask(way, max_retries=0)
        assert TEXT not in str(error.value)
    parts = b"".join(part.read_bytes() for part in Path(folder.uri).glob("*.parquet"))
    assert parts
    for secret in (KEY, TEXT):
        assert secret not in caplog.text
        assert secret.encode() not in parts


def test_many_requests_are_at_the_provider_at_once(
    server: Server,
    config: Callable[..., DashScopeConfig],
    question: Request,
    paid: Callable[[], Spent],
) -> None:
    server.answers = [after(0.5, says(message()))]
    engine = config().open()
    started = time.monotonic()
    futures = [engine.submit(question) for _ in range(128)]
    assert all(future.result(timeout=30).text for future in futures)
    assert time.monotonic() - started < 10
    engine.close()
    assert paid().outcomes == {"done": 128}


def test_closing_waits_for_no_answer_and_writes_down_what_was_in_flight(
    server: Server,
    config: Callable[..., DashScopeConfig],
    question: Request,
    paid: Callable[[], Spent],
) -> None:
    server.answers = [hangs]
    engine = config(timeout_s=60.0).open()
    future = engine.submit(question)
    while not server.asked:
        time.sleep(0.01)
    started = time.monotonic()
    engine.close()
    assert time.monotonic() - started < 5
    assert future.done()
    assert paid().outcomes == {"cancelled": 1}
    assert paid().yuan_assumed > 0.2


def test_a_key_that_is_not_set_is_named(
    config: Callable[..., DashScopeConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TEST_API_KEY")
    with pytest.raises(EngineUnusable, match=r"the environment variable TEST_API_KEY .* not set"):
        config().open()


def test_a_key_or_a_bare_host_in_the_recipe_is_refused(
    config: Callable[..., DashScopeConfig],
) -> None:
    with pytest.raises(ValueError, match=r"engines\.turbo\.api_key_env") as error:
        config(api_key_env=KEY).check("turbo")
    assert KEY not in str(error.value)
    with pytest.raises(ValueError, match=r"engines\.turbo\.base_url"):
        config(base_url="dashscope.aliyuncs.com").check("turbo")
    config().check("turbo")
