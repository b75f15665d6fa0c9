"""The backend's model behind OpenAI's chat protocol, for any client of it: answers whole or as a
stream of server-sent events.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from fastapi.responses import JSONResponse, StreamingResponse

from ray_jobs.engines import seam
from ray_jobs.engines.seam import Engine, EngineUnusable, Reply, Request, Sampling
from ray_jobs.outcomes import Blocked, Failed, NoAnswer, Quarantined, Refused
from serve.chat_api import OPENAPI, ChatError, ChatRequest, read

__all__ = ["OPENAPI", "ChatRequest", "models", "respond"]

DEFAULT_MAX_TOKENS = 4096
"""Where the client sets no limit. The model's own context may end an answer before."""
DONE = b"data: [DONE]\n\n"


def short_name(title: str) -> str:
    """The model's name without the engine's kind."""
    return title.partition(":")[2] or title


def models(title: str) -> dict[str, Any]:
    """Body of GET /v1/models: the model under both names that it answers to."""
    names = dict.fromkeys((short_name(title), title))
    data = [{"id": name, "object": "model", "created": 0, "owned_by": "garrison"} for name in names]
    return {"object": "list", "data": data}


async def respond(
    engine: Engine, title: str, constrains: bool, raw: bytes
) -> JSONResponse | StreamingResponse:
    """The answer to the body of POST /v1/chat/completions, errors included. EngineUnusable passes
    where nothing was answered yet.
    """
    try:
        body = read(raw)
        if not body.stream:
            return JSONResponse(await complete(engine, title, constrains, body))
        chunks = stream(engine, title, constrains, body)
        first = await anext(chunks)  # until then an error has a status of its own
    except ChatError as error:
        headers = None if error.retry else {"x-should-retry": "false"}
        return JSONResponse(error.body(), status_code=error.status, headers=headers)
    return StreamingResponse(_from(first, chunks), media_type="text/event-stream")


async def complete(
    engine: Engine, title: str, constrains: bool, body: ChatRequest
) -> dict[str, Any]:
    """The whole answer. ChatError where there is none."""
    try:
        replies = await asyncio.gather(
            # Shielded, or a client that goes away would cancel a future that the engine will set.
            *(
                asyncio.shield(asyncio.wrap_future(engine.submit(request)))
                for request in requests(title, constrains, body)
            )
        )
    except NoAnswer as no_answer:
        raise problem(no_answer) from no_answer
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": reply.text, "refusal": None},
            "logprobs": None,
            "finish_reason": reply.finish_reason,
        }
        for index, reply in enumerate(replies)
    ]
    head = _head("chat.completion", replies[0].model or short_name(title))
    return {**head, "choices": choices, "usage": _usage(replies)}


async def stream(
    engine: Engine, title: str, constrains: bool, body: ChatRequest
) -> AsyncGenerator[bytes, None]:
    """The answer as server-sent events while it is written. ChatError before the first event; an
    error after it is the last event. Who stops reading stops the engine's work, too.
    """
    asked = requests(title, constrains, body)
    head = _head("chat.completion.chunk", short_name(title))
    begun: set[int] = set()
    replies: list[Reply] = []
    ear = _Ear()
    try:
        for index, request in enumerate(asked):
            done = seam.listen(engine, request, partial(ear.hear, index))
            done.add_done_callback(partial(ear.end, index))
        while len(replies) < len(asked):
            index, event = await ear.events.get()
            reply = None if isinstance(event, str) else event.result()
            if index not in begun:
                begun.add(index)
                yield _chunk(head, index, {"role": "assistant", "content": ""})
            if isinstance(event, str):
                yield _chunk(head, index, {"content": event})
            if reply is not None:
                replies.append(reply)
                yield _chunk(head, index, {}, reply.finish_reason)
        if body.stream_options is not None and body.stream_options.include_usage:
            yield _event({**head, "choices": [], "usage": _usage(replies)})
        yield DONE
    except NoAnswer as error:
        if not begun:
            raise problem(error) from error
        yield _event(problem(error).body())
    except EngineUnusable as error:
        if not begun:
            raise
        yield _event(problem(error).body())
    finally:
        ear.is_deaf = True


class _Ear:
    """Brings what engines' threads say into the event loop that made it."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[tuple[int, str | Future[Reply]]] = asyncio.Queue()
        self.is_deaf = False
        self._loop = asyncio.get_running_loop()

    def hear(self, index: int, piece: str) -> None:
        if self.is_deaf:
            raise Failed("whoever asked no longer listens")
        self._loop.call_soon_threadsafe(self.events.put_nowait, (index, piece))

    def end(self, index: int, done: Future[Reply]) -> None:
        if not self.is_deaf:
            self._loop.call_soon_threadsafe(self.events.put_nowait, (index, done))


def requests(title: str, constrains: bool, body: ChatRequest) -> list[Request]:
    """What the engine is asked: one request a choice. ChatError where it cannot be asked so."""
    if body.model not in (title, short_name(title)):
        raise ChatError(
            f"there is no such model here; there is {short_name(title)}",
            status=404,
            param="model",
            code="model_not_found",
        )
    constraint = body.constraint()
    if constraint is not None and not constrains:
        raise ChatError(
            f"{title} cannot be held to a form",
            param="structured_outputs" if body.structured_outputs else "response_format",
            code="unsupported_parameter",
        )
    sampling = Sampling(
        max_tokens=body.max_completion_tokens or body.max_tokens or DEFAULT_MAX_TOKENS,
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=body.top_p or 1.0,
        top_k=body.top_k or 0,
    )
    seed = random.getrandbits(31) if body.seed is None else body.seed
    return [
        Request(
            chat=[turn.plain() for turn in body.messages],
            sampling=sampling,
            seed=(seed + number) % 2**63,
            constraint=constraint,
            stop=body.stops(),
            purpose="chat",
            fresh=True,
        )
        for number in range(body.n or 1)
    ]


def problem(error: NoAnswer | EngineUnusable) -> ChatError:
    """What the client is told of an engine that gives no answer."""
    reason = str(error)
    if isinstance(error, Refused):
        code = "context_length_exceeded" if "max_model_len" in reason else "invalid_value"
        return ChatError(reason, param="messages" if "max_model_len" in reason else None, code=code)
    if isinstance(error, Blocked):
        return ChatError(reason, param="messages", code="content_filter")
    if isinstance(error, Quarantined):
        return ChatError(reason, status=500, code="quarantined", retry=False)
    if isinstance(error, EngineUnusable):
        return ChatError(reason, status=503, code="unusable")
    return ChatError(reason, status=502, code=error.outcome)


async def _from(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
    try:
        yield first
        async for chunk in rest:
            yield chunk
    finally:
        await rest.aclose()


def _head(kind: str, model: str) -> dict[str, Any]:
    identity = f"chatcmpl-{uuid.uuid4().hex}"
    return {"id": identity, "object": kind, "created": int(time.time()), "model": model}


def _chunk(
    head: dict[str, Any], index: int, delta: dict[str, str], finish_reason: str | None = None
) -> bytes:
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return _event({**head, "choices": [choice]})


def _event(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


def _usage(replies: Sequence[Reply]) -> dict[str, int]:
    """The prompt counts once, however many answers there are."""
    prompt, output = replies[0].prompt_tokens, sum(reply.output_tokens for reply in replies)
    return {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}
