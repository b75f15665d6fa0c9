"""OpenAI's chat protocol: what is understood, what is refused and by which name, and what a client
gets for each outcome.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from fastapi.responses import StreamingResponse
from hypothesis import given
from hypothesis import strategies as st

from ray_jobs.engines.scripted import ScriptedConfig
from ray_jobs.engines.seam import Constraint, EngineUnusable, Heard, Reply, Request
from ray_jobs.outcomes import Blocked, Failed, NoAnswer, Quarantined, Refused, Unparsed
from serve import chat, chat_api

TITLE = "vllm:tiny-teacher"
HELLO = [{"role": "user", "content": "你好"}]


def body(**fields: Any) -> bytes:
    return json.dumps({"model": TITLE, "messages": HELLO, **fields}).encode()


def requests(**fields: Any) -> list[Request]:
    return chat.requests(TITLE, True, chat_api.read(body(**fields)))


def refused(raw: bytes, constrains: bool = True) -> chat_api.ChatError:
    with pytest.raises(chat_api.ChatError) as error:
        chat.requests(TITLE, constrains, chat_api.read(raw))
    return error.value


def test_what_a_client_sets_is_asked_of_the_engine() -> None:
    [request] = requests(
        messages=[
            {"role": "developer", "content": "简短"},
            {
                "role": "user",
                "content": [{"type": "text", "text": "你"}, {"type": "text", "text": "好"}],
            },
            {"role": "assistant", "content": "好", "refusal": None},
        ],
        max_tokens=7,
        temperature=0,
        top_p=0.5,
        top_k=3,
        stop=["。", "\n"],
        seed=5,
    )
    assert request.chat == [
        {"role": "system", "content": "简短"},
        {"role": "user", "content": "你好"},
        {"role": "assistant", "content": "好"},
    ]
    sampling = request.sampling
    assert (sampling.max_tokens, sampling.temperature) == (7, 0.0)
    assert (sampling.top_p, sampling.top_k) == (0.5, 3)
    assert (request.stop, request.seed, request.fresh) == (("。", "\n"), 5, True)


def test_what_a_client_leaves_out_is_as_openai_has_it() -> None:
    [request] = requests(stop="。", temperature=None, n=None, stream=None)
    assert (request.sampling.temperature, request.sampling.top_p) == (1.0, 1.0)
    assert request.sampling.max_tokens == chat.DEFAULT_MAX_TOKENS
    assert (request.constraint, request.stop) == (None, ("。",))
    [newer] = requests(max_completion_tokens=9, max_tokens=5)
    assert newer.sampling.max_tokens == 9


def test_choices_are_draws_of_their_own_and_a_seed_repeats_them() -> None:
    assert [request.seed for request in requests(n=3, seed=-1)] == [2**63 - 1, 0, 1]
    seeds = {requests()[0].seed for _ in range(20)}
    assert len(seeds) > 10, "without a seed, no two draws are alike"


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
FORMS: list[tuple[dict[str, Any], Constraint | None]] = [
    ({"response_format": {"type": "text"}}, None),
    (
        {"response_format": {"type": "json_object"}},
        Constraint(json_schema='{"type": "object"}'),
    ),
    (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
            }
        },
        Constraint(json_schema=json.dumps(SCHEMA)),
    ),
    ({"structured_outputs": {"choice": ["安全", "有害"]}}, Constraint(choices=("安全", "有害"))),
    ({"structured_outputs": {"regex": "[01]"}}, Constraint(regex="[01]")),
    ({"structured_outputs": {"json": SCHEMA}}, Constraint(json_schema=json.dumps(SCHEMA))),
    ({"structured_outputs": {"json": "{}"}}, Constraint(json_schema="{}")),
]


@pytest.mark.parametrize(("fields", "constraint"), FORMS)
def test_forms_are_asked_in_openais_way_and_in_vllms(
    fields: dict[str, Any], constraint: Constraint | None
) -> None:
    assert requests(**fields)[0].constraint == constraint


def test_an_engine_without_a_grammar_refuses_a_form_and_answers_the_rest() -> None:
    for fields, constraint in FORMS:
        if constraint is not None:
            assert refused(body(**fields), constrains=False).param == next(iter(fields))
    assert chat.requests(TITLE, False, chat_api.read(body()))


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"messages": []}, "messages"),
    ({"messages": None}, "messages"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": "长" * 100_001}]}, "messages[0].content"),
    ({"messages": HELLO * 257}, "messages"),
    ({"messages": [*HELLO, {"role": "tool", "content": "x"}]}, "messages[1].role"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "text": "x"}]}]},
        "messages[0].content[0].type",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "长" * 100_001}]}]},
        "messages[0].content[0].text",
    ),
    (
        {"messages": [{"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]}]},
        "messages[0].tool_calls",
    ),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_completion_tokens": "many"}, "max_completion_tokens"),
    ({"temperature": 2.5}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"stop": ""}, "stop"),
    ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
    ({"seed": 2**63}, "seed"),
    ({"n": 9}, "n"),
    ({"n": 0}, "n"),
    ({"model": 7}, "model"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"structured_outputs": {}}, "structured_outputs"),
    ({"structured_outputs": {"grammar": "x"}}, "structured_outputs.grammar"),
    ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
    ({"structured_outputs": {"choice": ["a"], "regex": "b"}}, "structured_outputs"),
    (
        {"structured_outputs": {"regex": "b"}, "response_format": {"type": "json_object"}},
        "structured_outputs",
    ),
    ({"tools": [{"type": "function"}]}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"functions": [{"name": "f"}]}, "functions"),
    ({"logprobs": True}, "logprobs"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"logit_bias": {"1": 2}}, "logit_bias"),
    ({"frequency_penalty": 0.5}, "frequency_penalty"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"audio": {"voice": "x"}}, "audio"),
    ({"web_search_options": {"a": 1}}, "web_search_options"),
    ({"guided_choice": ["a"]}, "guided_choice"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    (
        {"stream": True, "stream_options": {"include_obfuscation": True}},
        "stream_options.include_obfuscation",
    ),
]


@pytest.mark.parametrize(("fields", "param"), WRONG)
def test_what_is_wrong_or_not_understood_is_named(fields: dict[str, Any], param: str) -> None:
    error = refused(body(**fields))
    assert (error.status, error.param) == (400, param)
    said = error.body()["error"]
    assert said.keys() == {"message", "type", "param", "code"}
    assert said["type"] == "invalid_request_error"
    assert said["message"]
    assert "长" not in said["message"]


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [], "tool_choice": "none", "parallel_tool_calls": True, "logprobs": False},
        {"frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "top_logprobs": None},
        {"user": "u", "metadata": {"a": "b"}, "store": True, "service_tier": "auto"},
        {"modalities": ["text"], "reasoning_effort": None},
    ],
)
def test_what_asks_for_nothing_is_no_hindrance(fields: dict[str, Any]) -> None:
    assert requests(**fields)


@pytest.mark.parametrize("raw", [b"", b"{half", b"[]", b"\xff", b'{"model": "\\ud800"}'])
def test_what_is_no_request_is_refused(raw: bytes) -> None:
    assert refused(raw).status == 400


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
FIELDS = st.sampled_from([*chat_api.ChatRequest.model_fields, "tools", "user", "x"])


@given(st.dictionaries(FIELDS, VALUES, max_size=5))
def test_any_body_is_understood_or_refused_with_a_reason(fields: dict[str, Any]) -> None:
    refusals: list[chat_api.ChatError] = []
    try:
        assert 1 <= len(requests(**fields)) <= chat_api.MAX_CHOICES
    except chat_api.ChatError as error:
        refusals.append(error)
    for refusal in refusals:
        assert refusal.status in (400, 404)
        assert refusal.body()["error"]["message"]


@pytest.mark.parametrize("name", ["tiny-teacher", TITLE])
def test_the_model_answers_to_both_its_names(name: str) -> None:
    assert requests(model=name)
    assert name in [one["id"] for one in chat.models(TITLE)["data"]]


def test_another_model_is_not_found() -> None:
    error = refused(body(model="gpt-9"))
    assert (error.status, error.param, error.code) == (404, "model", "model_not_found")


def test_names_of_models_may_hold_a_slash() -> None:
    assert chat.short_name("vllm:Qwen/Qwen2.5-7B-Instruct") == "Qwen/Qwen2.5-7B-Instruct"


REPLY = Reply(text="好的。", prompt_tokens=7, output_tokens=3, finish_reason="stop", model="m-1")


class Talker:
    """An engine that says its pieces, and then its reply or its reason."""

    def __init__(self, end: Reply | Exception = REPLY, pieces: tuple[str, ...] = ("好", "的。")):
        self.end, self.pieces, self.asked = end, pieces, list[Request]()

    def submit(self, request: Request) -> Future[Reply]:
        self.asked.append(request)
        future: Future[Reply] = Future()
        if isinstance(self.end, Reply):
            future.set_result(self.end)
        else:
            future.set_exception(self.end)
        return future

    def listen(self, request: Request, heard: Heard) -> Future[Reply]:
        for piece in self.pieces:
            heard(piece)
        return self.submit(request)

    def close(self) -> None:
        """Nothing is held."""


def test_a_whole_answer_has_openais_form() -> None:
    answer = asyncio.run(chat.complete(Talker(), TITLE, True, chat_api.read(body(n=2))))
    assert answer["id"].startswith("chatcmpl-")
    assert (answer["object"], answer["model"]) == ("chat.completion", "m-1")
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert answer["choices"][0]["message"] == {
        "role": "assistant",
        "content": "好的。",
        "refusal": None,
    }
    usage = {"prompt_tokens": 7, "completion_tokens": 6, "total_tokens": 13}
    assert answer["usage"] == usage, "the prompt counts once"


def events(engine: Any, **fields: Any) -> list[Any]:
    async def read_all() -> list[bytes]:
        asked = chat_api.read(body(stream=True, **fields))
        return [chunk async for chunk in chat.stream(engine, TITLE, True, asked)]

    chunks = asyncio.run(read_all())
    assert all(chunk.startswith(b"data: ") and chunk.endswith(b"\n\n") for chunk in chunks)
    said = [chunk.decode().removeprefix("data: ").strip() for chunk in chunks]
    return [line if line == "[DONE]" else json.loads(line) for line in said]


def test_a_stream_has_openais_form() -> None:
    *chunks, usage, done = events(Talker(), stream_options={"include_usage": True})
    assert done == "[DONE]"
    assert (usage["choices"], usage["usage"]["total_tokens"]) == ([], 10)
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas == [
        {"role": "assistant", "content": ""},
        {"content": "好"},
        {"content": "的。"},
        {},
    ]
    finishes = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert finishes == [None, None, None, "stop"]
    assert "usage" not in json.dumps(events(Talker()))


def test_a_stream_of_several_choices_tells_them_apart() -> None:
    chunks = events(Talker(), n=3)[:-1]
    for index in range(3):
        own = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == index]
        assert "".join(c["delta"].get("content", "") for c in own) == "好的。"
        assert own[-1]["finish_reason"] == "stop"


def test_an_engine_that_cannot_stream_hands_its_text_over_whole(tmp_path: Path) -> None:
    table = tmp_path / "answers.yaml"
    table.write_text('- {match: "你好", answer: "好的。"}\n', encoding="utf-8")
    engine = ScriptedConfig(answers=str(table)).open()
    deltas = [chunk["choices"][0]["delta"] for chunk in events(engine)[:-1]]
    engine.close()
    assert deltas == [{"role": "assistant", "content": ""}, {"content": "好的。"}, {}]


def test_an_empty_answer_is_an_answer() -> None:
    empty = Reply(text="", prompt_tokens=7, output_tokens=1, finish_reason="stop")
    role, finish, done = events(Talker(empty, ()))
    assert role["choices"][0]["delta"]["role"] == "assistant"
    assert (finish["choices"][0]["finish_reason"], done) == ("stop", "[DONE]")


OUTCOMES: list[tuple[NoAnswer, int, str]] = [
    (Refused("prompt of 9 tokens, max_model_len is 8"), 400, "context_length_exceeded"),
    (Refused("vLLM: no such grammar"), 400, "invalid_value"),
    (Blocked("DataInspectionFailed"), 400, "content_filter"),
    (Failed("HTTP 500 after 5 retries"), 502, "failed"),
    (Unparsed("the answer has no text"), 502, "unparsed"),
    (Quarantined("killed its engine 2 times"), 500, "quarantined"),
]


@pytest.mark.parametrize(("error", "status", "code"), OUTCOMES)
@pytest.mark.parametrize("stream", [False, True])
def test_each_outcome_has_a_status_and_a_code(
    error: NoAnswer, status: int, code: str, stream: bool
) -> None:
    response = asyncio.run(chat.respond(Talker(error, ()), TITLE, True, body(stream=stream)))
    assert response.status_code == status
    said = json.loads(bytes(response.body))["error"]
    assert (said["code"], said["message"]) == (code, str(error))
    assert said["type"] == ("server_error" if status >= 500 else "invalid_request_error")
    retried = response.headers.get("x-should-retry")
    assert retried == ("false" if isinstance(error, Quarantined) else None)


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_is_gone_is_for_the_server_to_say(stream: bool) -> None:
    with pytest.raises(EngineUnusable):
        asyncio.run(
            chat.respond(Talker(EngineUnusable("gone"), ()), TITLE, True, body(stream=stream))
        )


@pytest.mark.parametrize("error", [Failed("died"), EngineUnusable("gone")])
def test_an_error_in_the_middle_of_a_stream_is_its_last_event(error: Exception) -> None:
    *_, piece, last = events(Talker(error, ("好",)))
    assert piece["choices"][0]["delta"] == {"content": "好"}
    assert last["error"]["message"] == str(error)


def test_who_stops_reading_is_no_longer_spoken_to() -> None:
    class Slow(Talker):
        """Says its second piece when it is told to."""

        def listen(self, request: Request, heard: Heard) -> Future[Reply]:
            self.heard = heard
            heard("好")
            return Future()

    async def read_one() -> None:
        engine = Slow()
        response = await chat.respond(engine, TITLE, True, body(stream=True))
        assert isinstance(response, StreamingResponse)
        chunks: AsyncIterator[Any] = response.body_iterator
        assert "assistant" in (await anext(chunks)).decode()
        await chunks.aclose()  # type: ignore[attr-defined]
        with pytest.raises(Failed, match="no longer listens"):
            engine.heard("的")

    asyncio.run(read_one())


def test_the_page_of_the_interface_refers_to_nothing_elsewhere() -> None:
    page = json.dumps(chat.OPENAPI)
    assert "$ref" not in page
    assert "max_completion_tokens" in page
