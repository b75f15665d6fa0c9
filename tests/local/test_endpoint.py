"""The engine of kind `endpoint` against a real HTTP server that speaks OpenAI's chat protocol."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from ray_jobs.engines.endpoint import EndpointConfig, EndpointEngine
from ray_jobs.engines.seam import Constraint, EngineUnusable, Reply, Request, Sampling
from ray_jobs.outcomes import Blocked, Failed, Refused, Unparsed

pytestmark = pytest.mark.timeout(60)
KEY = "sk-not-for-logs"


class Server(ThreadingHTTPServer):
    """Answers each request with the next of `answers`, the last one for ever."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[Callable[[Handler], None]] = []
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.closing = threading.Event()
        self.lock = threading.Lock()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gave up is what some tests are about."""


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            self.server.asked.append(body)
            self.server.keys.append(self.headers["authorization"])
            answers = self.server.answers
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
        answer(self)

    def send(self, status: int, body: bytes, **headers: str) -> None:
        """One whole response."""
        self.send_response(status)
        for name, value in {"content-type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Quiet."""


def completion(finish: str = "stop", text: str | None = "好", **message: Any) -> dict[str, Any]:
    said = {"role": "assistant", "content": text, **message}
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": finish, "message": said}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9},
    }


def says(body: Any, status: int = 200, **headers: str) -> Callable[[Handler], None]:
    return lambda handler: handler.send(status, json.dumps(body).encode(), **headers)


def refuses(status: int, code: str, **more: Any) -> Callable[[Handler], None]:
    return says(
        {"error": {"message": "no", "type": "invalid_request_error", "code": code, **more}}, status
    )


def hangs(handler: Handler) -> None:
    handler.server.closing.wait(30)


def half_a_body(handler: Handler) -> None:
    body = json.dumps(completion()).encode()
    handler.send_response(200)
    handler.send_header("content-type", "application/json")
    handler.send_header("content-length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body[: len(body) // 2])
    handler.wfile.flush()
    handler.close_connection = True


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def ask(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Reply]]:
    monkeypatch.setenv("TEST_API_KEY", KEY)
    opened: list[EndpointEngine] = []

    def ask(
        *answers: Callable[[Handler], None],
        sampling: Sampling | None = None,
        constraint: Constraint | None = None,
        **fields: Any,
    ) -> Reply:
        server.answers = list(answers)
        opened.append(config(server, **fields).open())
        chat = [{"role": "user", "content": "问"}]
        request = Request(
            chat=chat, sampling=sampling or Sampling(), seed=11, constraint=constraint
        )
        return opened[-1].submit(request).result(timeout=30)

    yield ask
    for engine in opened:
        engine.close()


def config(server: Server, **fields: Any) -> EndpointConfig:
    base_url = f"http://127.0.0.1:{server.server_port}/v1"
    fields = {"api_key_env": "TEST_API_KEY", "max_retries": 2, "timeout_s": 5.0, **fields}
    return EndpointConfig(model="m", base_url=base_url, **fields)


def test_an_answer_comes_back_with_its_tokens(server: Server, ask: Callable[..., Reply]) -> None:
    reply = ask(says(completion()), sampling=Sampling(max_tokens=9, temperature=0.5, top_p=0.8))
    assert reply == Reply(text="好", prompt_tokens=7, output_tokens=2, finish_reason="stop")
    assert server.asked == [
        {
            "model": "m",
            "messages": [{"role": "user", "content": "问"}],
            "max_tokens": 9,
            "temperature": 0.5,
            "top_p": 0.8,
            "seed": 11,
        }
    ]
    assert server.keys == [f"Bearer {KEY}"]


def test_a_cut_answer_says_so(ask: Callable[..., Reply]) -> None:
    assert ask(says(completion("length"))).finish_reason == "length"


def test_a_rate_limit_is_waited_for_as_the_server_says(
    server: Server, ask: Callable[..., Reply]
) -> None:
    started = time.monotonic()
    ask(says({"error": {"message": "slow down"}}, 429, retry_after="1"), says(completion()))
    assert 1.0 <= time.monotonic() - started < 5.0
    assert len(server.asked) == 2


def test_server_errors_fail_after_the_retries(server: Server, ask: Callable[..., Reply]) -> None:
    with pytest.raises(Failed, match="HTTP 500 after 2 retries"):
        ask(says({"error": {"message": "oops"}}, 500))
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    "refusal",
    [
        refuses(400, "content_filter"),
        refuses(400, "DataInspectionFailed"),
        refuses(400, "data_inspection_failed"),
        refuses(400, "none", innererror={"code": "ResponsibleAIPolicyViolation"}),
        refuses(403, "content_policy_violation"),
        says(completion("content_filter", "")),
        says(completion("stop", None, refusal="I will not")),
    ],
)
def test_a_refusal_for_the_texts_sake_is_blocked_and_not_retried(
    server: Server, ask: Callable[..., Reply], refusal: Callable[[Handler], None]
) -> None:
    with pytest.raises(Blocked):
        ask(refusal)
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_request_that_the_server_cannot_take_is_refused(
    server: Server, ask: Callable[..., Reply], status: int
) -> None:
    with pytest.raises(Refused, match=str(status)):
        ask(refuses(status, "context_length_exceeded"))
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("status", "advice"), [(401, "api_key_env"), (403, "api_key_env"), (404, "base_url")]
)
def test_a_wrong_key_or_model_ends_the_job_without_showing_the_key(
    ask: Callable[..., Reply], status: int, advice: str
) -> None:
    with pytest.raises(EngineUnusable, match=f"says {status}: check .*{advice}") as error:
        ask(refuses(status, "invalid"))
    assert KEY not in str(error.value)


@pytest.mark.parametrize("answer", [hangs, half_a_body])
def test_a_server_that_hangs_or_breaks_off_has_failed(
    server: Server, ask: Callable[..., Reply], answer: Callable[[Handler], None]
) -> None:
    with pytest.raises(Failed, match="after 1 retries"):
        ask(answer, timeout_s=0.5, max_retries=1)
    assert len(server.asked) == 2


def test_half_a_body_is_asked_again(ask: Callable[..., Reply]) -> None:
    assert ask(half_a_body, says(completion())).text == "好"


def test_a_server_that_is_not_there_has_failed() -> None:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        base_url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        engine = EndpointConfig(model="m", base_url=base_url, max_retries=0).open()
        with pytest.raises(Failed, match="APIConnectionError"):
            engine.submit(Request(chat=[], sampling=Sampling(), seed=0)).result(timeout=30)
        engine.close()


@pytest.mark.parametrize(
    "answer",
    [
        lambda handler: handler.send(200, b"{half"),
        lambda handler: handler.send(200, b"<html>busy</html>", content_type="text/html"),
        says({"choices": []}),
        says({**completion(), "usage": None}),
        says(completion("tool_calls")),
    ],
)
def test_what_is_no_answer_has_failed(
    ask: Callable[..., Reply], answer: Callable[[Handler], None]
) -> None:
    with pytest.raises(Failed):
        ask(answer)


def test_an_answer_without_text_is_unparsed(ask: Callable[..., Reply]) -> None:
    with pytest.raises(Unparsed):
        ask(says(completion(text=None)))


@pytest.mark.parametrize(
    ("constraint", "form"),
    [
        (Constraint(choices=("安全", "不安全")), {"choice": ["安全", "不安全"]}),
        (Constraint(regex=r"\d"), {"regex": r"\d"}),
        (Constraint(json_schema='{"type": "object"}'), {"json": {"type": "object"}}),
    ],
)
def test_a_vllm_server_gets_every_constraint(
    server: Server, ask: Callable[..., Reply], constraint: Constraint, form: dict[str, Any]
) -> None:
    ask(says(completion()), constraint=constraint, structured_outputs=True)
    assert server.asked[0]["structured_outputs"] == form
    assert "response_format" not in server.asked[0]


def test_another_server_gets_json_schemas_only(server: Server, ask: Callable[..., Reply]) -> None:
    ask(says(completion()), constraint=Constraint(json_schema='{"type": "object"}'))
    ask(says(completion()), constraint=Constraint(regex=r"\d"))
    with_schema, with_regex = server.asked
    assert with_schema["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert not {"response_format", "structured_outputs"} & with_regex.keys()


def test_many_requests_are_at_the_server_at_once(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_API_KEY", KEY)
    together = threading.Barrier(20)

    def waits_for_the_others(handler: Handler) -> None:
        together.wait(timeout=20)
        handler.send(200, json.dumps(completion()).encode())

    server.answers = [waits_for_the_others]
    engine = config(server, timeout_s=25.0).open()
    request = Request(chat=[{"role": "user", "content": "问"}], sampling=Sampling(), seed=0)
    futures = [engine.submit(request) for _ in range(20)]
    assert {future.result(timeout=30).text for future in futures} == {"好"}
    engine.close()


def test_closing_does_not_wait_for_the_server(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_API_KEY", KEY)
    server.answers = [hangs]
    engine = config(server, timeout_s=60.0).open()
    future = engine.submit(Request(chat=[], sampling=Sampling(), seed=0))
    time.sleep(0.2)
    started = time.monotonic()
    engine.close()
    assert time.monotonic() - started < 5
    assert future.done()


def test_a_key_that_is_not_set_is_named(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEST_API_KEY", raising=False)
    with pytest.raises(EngineUnusable, match="TEST_API_KEY"):
        config(server).open()


def test_a_key_in_the_recipe_is_refused(server: Server) -> None:
    with pytest.raises(ValueError, match=r"engines\.other\.api_key_env") as error:
        config(server, api_key_env=KEY).check("other")
    assert KEY not in str(error.value)


def test_log_probabilities_are_not_promised(server: Server, ask: Callable[..., Reply]) -> None:
    ask(says(completion()))
    engine = config(server).open()
    request = Request(chat=[], sampling=Sampling(), seed=0, perplexity=True)
    with pytest.raises(EngineUnusable, match="cannot score prompts"):
        engine.submit(request)
    engine.close()
