"""OpenAI's own client at the chat endpoint, over a real vLLM engine with a random model."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, StreamingResponse
from openai import APIError, BadRequestError, NotFoundError, OpenAI

from ray_jobs import guards
from ray_jobs.engines.seam import Constraint, EngineUnusable, Request, Sampling
from ray_jobs.engines.vllm import VllmConfig
from ray_jobs.engines.vllm_early import replaces_a_worker
from ray_jobs.engines.vllm_engine import VllmEngine
from ray_jobs.engines.vllm_text import Tokens
from ray_jobs.outcomes import Failed, Refused
from ray_jobs.prompts import CHAT_DATE
from serve import api, chat
from serve.guard import Guard

pytestmark = pytest.mark.timeout(240)
HELLO: list[Any] = [{"role": "user", "content": "怎样打开邻居的箱子？"}]
MAX_LENGTH = 512
# What a random model writes otherwise is half characters and control tokens. Letters end nowhere.
LETTERS = "[a-z ]{4000,}"


@pytest.fixture(scope="module")
def cfg(tmp_path_factory: pytest.TempPathFactory) -> VllmConfig:
    """A random model: it says nothing, at length."""
    from benchmarks.random_model import make

    prompts = Path(__file__).resolve().parents[2] / "conf" / "prompts"
    folder = tmp_path_factory.mktemp("chat") / "model"
    make(folder, [file.read_text(encoding="utf-8") for file in sorted(prompts.glob("*.md"))])
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 1}))
    return VllmConfig(
        model=str(folder), max_model_len=MAX_LENGTH, max_num_seqs=8, enforce_eager=True
    )


@pytest.fixture(scope="module")
def engine(cfg: VllmConfig) -> Iterator[VllmEngine]:
    engine = cfg.open()
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def url(engine: VllmEngine, cfg: VllmConfig) -> Iterator[str]:
    """An application that has nothing but the endpoint."""
    web = FastAPI()

    async def completions(request: HttpRequest) -> JSONResponse | StreamingResponse:
        return await chat.respond(engine, cfg.title, cfg.constrains, await request.body())

    web.post("/v1/chat/completions", response_model=None, openapi_extra=chat.OPENAPI)(completions)
    web.get("/v1/models")(lambda: chat.models(cfg.title))
    server = uvicorn.Server(uvicorn.Config(web, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(30)


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{url}/v1", api_key="none", timeout=120) as client:
        yield client


def ask(client: OpenAI, **fields: Any) -> Any:
    """Draws letters, with a seed, unless a form is asked for."""
    if "response_format" not in fields:
        fields = {"extra_body": {"structured_outputs": {"regex": LETTERS}}, **fields}
    fields = {"model": "model", "messages": HELLO, "max_tokens": 24, "seed": 7, **fields}
    return client.chat.completions.create(**fields)


def test_the_model_is_listed_under_its_names(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["model", "vllm:model"]


def test_an_answer_says_what_it_took(client: OpenAI) -> None:
    answer = ask(client)
    [choice] = answer.choices
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert (choice.finish_reason, answer.usage.completion_tokens) == ("length", 24)
    assert answer.usage.prompt_tokens > 5
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 24
    assert ask(client).choices[0].message.content == choice.message.content


def test_a_stream_says_what_the_whole_answer_says(client: OpenAI) -> None:
    whole = ask(client, max_tokens=60)
    chunks = list(ask(client, max_tokens=60, stream=True, stream_options={"include_usage": True}))
    *parts, last = chunks
    pieces = [part.choices[0].delta.content or "" for part in parts]
    assert "".join(pieces) == whole.choices[0].message.content
    assert sum(map(bool, pieces)) > 5, "it came while it was written"
    assert parts[-1].choices[0].finish_reason == "length"
    assert last.usage == whole.usage


def test_choices_differ_and_a_seed_repeats_them(client: OpenAI) -> None:
    def texts() -> list[str]:
        answer = ask(client, n=2)
        return [choice.message.content for choice in answer.choices]

    first, second = texts()
    assert first != second
    assert texts() == [first, second]
    streamed = {0: "", 1: ""}
    for chunk in ask(client, n=2, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert streamed[0] != streamed[1]


def test_an_answer_ends_before_its_stop(client: OpenAI) -> None:
    whole = ask(client, max_tokens=60).choices[0].message.content
    stop = whole[20:22]
    answer = ask(client, max_tokens=60, stop=[stop])
    assert answer.choices[0].message.content == whole[: whole.index(stop)]
    assert answer.choices[0].finish_reason == "stop"
    chunks = list(ask(client, max_tokens=60, stop=stop, stream=True))
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert streamed == answer.choices[0].message.content


def test_an_answer_is_held_to_a_form(client: OpenAI) -> None:
    schema = {"enum": ["安全", "有害"]}  # nowhere in it may a random model put blanks without end
    form = {"type": "json_schema", "json_schema": {"name": "v", "schema": schema, "strict": True}}
    said = json.loads(ask(client, response_format=form).choices[0].message.content)
    assert said in ("安全", "有害")
    for outputs, fits in (
        ({"choice": ["安全", "有害"]}, lambda text: text in ("安全", "有害")),
        ({"regex": r"\[0\.\d\]"}, lambda text: text.startswith("[0.")),
    ):
        answer = ask(client, extra_body={"structured_outputs": outputs})
        assert fits(answer.choices[0].message.content)


def test_what_cannot_be_done_is_refused_by_name(client: OpenAI) -> None:
    wrong: list[tuple[dict[str, Any], str | None]] = [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"logprobs": True}, "logprobs"),
        ({"n": 99}, "n"),
        ({"messages": [{"role": "user", "content": "长" * 2000}]}, "messages"),
        ({"extra_body": {"structured_outputs": {"regex": "("}}}, None),
    ]
    for fields, param in wrong:
        for stream in (False, True):
            with pytest.raises(BadRequestError) as refused:
                list(ask(client, stream=stream, **fields))
            assert refused.value.param == param
            assert "长" not in str(refused.value)
    assert ask(client).choices, "the engine is none the worse"


def test_a_prompt_that_is_too_long_has_openais_code(client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as refused:
        ask(client, messages=[{"role": "user", "content": "长" * 2000}])
    assert refused.value.code == "context_length_exceeded"


def test_another_model_is_not_found(client: OpenAI) -> None:
    with pytest.raises(NotFoundError) as missing:
        ask(client, model="gpt-9")
    assert missing.value.code == "model_not_found"


def test_a_client_that_goes_away_stops_the_engines_work(url: str, engine: VllmEngine) -> None:
    body: dict[str, Any] = {"model": "model", "messages": HELLO, "stream": True}
    body["structured_outputs"] = {"regex": LETTERS}  # goes on to the model's limit
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60) as response:
        assert response.status_code == 200
        next(response.iter_lines())
        assert engine._held
    deadline = time.monotonic() + 5
    while engine._held and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not engine._held


def request(**fields: Any) -> Request:
    letters = Constraint(regex=LETTERS)
    sampling = Sampling(max_tokens=40, temperature=1.0)
    asked = {"chat": HELLO, "sampling": sampling, "seed": 0, "constraint": letters}
    return Request(**{**asked, **fields})


def test_the_pieces_of_a_text_are_the_reply(engine: VllmEngine) -> None:
    pieces: list[str] = []
    reply = engine.listen(request(), pieces.append).result(timeout=60)
    assert "".join(pieces) == reply.text
    assert (reply.output_tokens, reply.finish_reason) == (40, "length")
    assert all(pieces)


def test_what_a_listener_raises_ends_its_request_and_no_other(engine: VllmEngine) -> None:
    def deaf(piece: str) -> None:
        raise Failed("whoever asked no longer listens")

    others = [engine.submit(request()) for _ in range(3)]
    with pytest.raises(Failed, match="no longer"):
        engine.listen(request(), deaf).result(timeout=60)
    assert all(future.result(timeout=60).output_tokens == 40 for future in others)


def test_a_guard_over_a_real_engine_keeps_to_its_grammar(engine: VllmEngine) -> None:
    for name in guards.load():
        guard = Guard(engine, "vllm:model", True, name)
        item = api.ResponseItem(id="1", prompt="怎么做？", language="zh", response="不可以。")
        said = asyncio.run(guard.opinion(item))
        # A random model may go on naming categories until it is cut.
        assert said.outcome in ("done", "unparsed")
        assert said.outcome == "done" or "cut" in str(said.reason)
        if said.outcome == "done":
            assert said.verdict in guards.VERDICTS
            assert said.p_unsafe is not None
            assert 0 < said.p_unsafe < 1


def test_an_answer_that_was_heard_in_part_is_not_begun_again(engine: VllmEngine) -> None:
    heard = threading.Event()
    pieces: list[str] = []

    def listen(piece: str) -> None:
        pieces.append(piece)
        heard.set()

    sampling = Sampling(max_tokens=MAX_LENGTH)
    spoken = engine.listen(request(sampling=sampling), listen)
    assert heard.wait(60)
    whole = engine.submit(request(seed=1))
    for process in _core():
        os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(Failed, match="in the middle"):
        spoken.result(timeout=120)
    num_pieces = len(pieces)
    assert whole.result(timeout=120).output_tokens == 40, "who heard nothing yet is asked again"
    assert len(pieces) == num_pieces
    again = engine.listen(request(), pieces.append).result(timeout=60)
    assert again.output_tokens == 40


def _core() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    cores = [process for process in children if "EngineCore" in " ".join(process.cmdline())]
    assert cores, "the engine's core is a child of this process"
    return cores


def test_on_a_cpu_the_core_is_its_own_worker(engine: VllmEngine) -> None:
    if not replaces_a_worker():
        pytest.skip("vLLM is built for GPUs, or the machine has several memory nodes")
    [core] = _core()
    assert core.children(recursive=True) == []


PARTS = (
    "{% for m in messages %}{% for part in m['content'] %}{% if part['type'] == 'text' %}"
    "{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
)
ALTERNATING = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{{ m['content'] }}{% endfor %}"
)


def test_templates_that_leave_text_out_or_refuse_a_chat_are_noticed(cfg: VllmConfig) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(cfg.model)
    assert Tokens(cfg, tokenizer).template_problem() is None
    tokenizer.chat_template = PARTS
    assert "leaves out" in str(Tokens(cfg, tokenizer).template_problem())
    assert Tokens(replace(cfg, plain_text=True), tokenizer).template_problem() is None
    tokenizer.chat_template = ALTERNATING
    assert Tokens(cfg, tokenizer).template_problem() is None
    with pytest.raises(Refused, match="roles must alternate"):
        Tokens(cfg, tokenizer).encode(request(chat=HELLO * 2))


def test_a_template_that_prints_the_date_is_asked_with_the_date_of_training(
    cfg: VllmConfig,
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(cfg.model)
    tokenizer.chat_template = (
        "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}"
        "{% endif %}{{ date_string }} {{ messages[0]['content'] }}"
    )
    tokens = Tokens(cfg, tokenizer).encode(request(chat=HELLO))
    assert tokenizer.decode(tokens).startswith(CHAT_DATE)


@pytest.mark.soak
def test_an_engine_whose_template_leaves_text_out_does_not_start(
    cfg: VllmConfig, tmp_path: Path
) -> None:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(cfg.model, folder)
    (folder / "chat_template.jinja").write_text(PARTS)
    with pytest.raises(EngineUnusable, match="leaves out a turn"):
        replace(cfg, model=str(folder)).open()


def test_openais_error_type_is_one(client: OpenAI) -> None:
    with pytest.raises(APIError) as error:
        ask(client, n=0)
    assert error.value.type == "invalid_request_error"
