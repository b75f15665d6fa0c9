"""What is understood of OpenAI's chat protocol, and how the rest is refused: in its own shape, and
naming the parameter.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    ValidationError,
)

from ray_jobs.engines.seam import Constraint
from serve.api import MAX_ITEMS, Text

MAX_CHOICES = 8
MAX_STOPS = 4
IGNORED = frozenset(
    {
        "metadata",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)
"""Changes nothing of what a model says."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "modalities": (["text"],),
    "parallel_tool_calls": (True,),
    "tool_choice": ("none", "auto"),
}
"""Values, beside null, false, 0 and empty ones, that ask for nothing."""

Short = Annotated[str, StringConstraints(min_length=1, max_length=1024)]


class ChatError(Exception):
    """What the client is told instead of an answer. The message holds nothing of what it sent."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        retry: bool = True,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.retry = retry
        """Whether OpenAI's clients may try again, as they do from status 500 on."""

    def body(self) -> dict[str, Any]:
        """In OpenAI's shape."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": error}


class _Said(BaseModel):
    """Keeps what it does not know, so that it can be refused by name."""

    model_config = ConfigDict(extra="allow", frozen=True)


class Part(_Said):
    """A part of a turn. Images and sounds are refused."""

    type: Literal["text"]
    text: Text


Content = Annotated[
    Annotated[Text, Tag("text")] | Annotated[list[Part], Tag("parts")],
    Discriminator(lambda value: "text" if isinstance(value, str) else "parts"),
]


class Turn(_Said):
    """One turn of the conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content

    def plain(self) -> dict[str, str]:
        """As engines take it."""
        role = "system" if self.role == "developer" else self.role
        if isinstance(self.content, str):
            return {"role": role, "content": self.content}
        return {"role": role, "content": "".join(part.text for part in self.content)}


class Schema(BaseModel):
    """A JSON schema with a name, which changes nothing."""

    schema_: dict[str, Any] = Field(alias="schema", min_length=1)


class ResponseFormat(BaseModel):
    """OpenAI's way to ask for JSON."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: Schema | None = None


class StructuredOutputs(BaseModel):
    """vLLM's way to hold an answer to a form: one of the three."""

    model_config = ConfigDict(extra="forbid")

    choice: Annotated[list[Short], Field(min_length=1, max_length=MAX_ITEMS)] | None = None
    regex: Text | None = None
    json_: Text | dict[str, Any] | None = Field(None, alias="json")


class StreamOptions(_Said):
    """How a stream ends."""

    include_usage: bool = False


class ChatRequest(_Said):
    """Body of POST /v1/chat/completions."""

    model: Annotated[str, StringConstraints(max_length=256)]
    messages: Annotated[list[Turn], Field(min_length=1, max_length=MAX_ITEMS)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    stop: Short | Annotated[list[Short], Field(max_length=MAX_STOPS)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    def stops(self) -> tuple[str, ...]:
        """Texts at which the answer ends."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def constraint(self) -> Constraint | None:
        """The form that is asked for. ChatError where two are."""
        asked, vllm = self.response_format, self.structured_outputs
        found: list[Constraint] = []
        if asked and asked.type == "json_object":
            found.append(Constraint(json_schema='{"type": "object"}'))
        if asked and asked.type == "json_schema":
            if asked.json_schema is None:
                raise ChatError("missing", param="response_format.json_schema")
            found.append(Constraint(json_schema=json.dumps(asked.json_schema.schema_)))
        if vllm and vllm.choice:
            found.append(Constraint(choices=tuple(vllm.choice)))
        if vllm and vllm.regex:
            found.append(Constraint(regex=vllm.regex))
        if vllm and vllm.json_:
            text = vllm.json_ if isinstance(vllm.json_, str) else json.dumps(vllm.json_)
            found.append(Constraint(json_schema=text))
        if len(found) > 1 or (vllm and not found):
            raise ChatError(
                "expected one form: a response_format, or one of choice, regex and json",
                param="structured_outputs",
            )
        return found[0] if found else None


def read(raw: bytes) -> ChatRequest:
    """The body of a request. ChatError names the parameter that is wrong or not understood."""
    try:
        body = ChatRequest.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_input=False, include_context=False, include_url=False)[0]
        raise ChatError(first["msg"], param=_param(first["loc"]) or None) from None
    _refuse_unknown(body, "")
    if body.stream_options is not None:
        _refuse_unknown(body.stream_options, "stream_options.")
        if not body.stream:
            raise ChatError("only with stream: true", param="stream_options")
    for number, turn in enumerate(body.messages):
        _refuse_unknown(turn, f"messages[{number}].")
    return body


def _refuse_unknown(said: _Said, where: str) -> None:
    for name, value in (said.model_extra or {}).items():
        if value and name not in IGNORED and value not in NEUTRAL.get(name, ()):
            raise ChatError(
                f"{where}{name} is not supported here",
                param=f"{where}{name}",
                code="unsupported_parameter",
            )


def _param(place: tuple[int | str, ...]) -> str:
    """A place in the body as OpenAI writes it: messages[0].content."""
    tags = ("text", "parts") if "content" in place else ()
    name = ""
    for number, step in enumerate(place):
        if isinstance(step, int):
            name += f"[{step}]"
        elif step.isidentifier() and (step not in tags or place[number - 1] != "content"):
            name += f".{step}" if name else step
    return name


def _inlined(schema: Any, known: dict[str, Any]) -> Any:
    """A schema without references, which would mean other places inside OpenAPI's page."""
    if isinstance(schema, list):
        return [_inlined(item, known) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(known[schema["$ref"].rpartition("/")[2]], known)
    return {name: _inlined(item, known) for name, item in schema.items() if name != "$defs"}


def _page() -> dict[str, Any]:
    schema = ChatRequest.model_json_schema()
    body = {"application/json": {"schema": _inlined(schema, schema["$defs"])}}
    return {"requestBody": {"required": True, "content": body}}


OPENAPI = _page()
"""What the page of the application's interface says of the body, which we read ourselves: the web
framework would answer a wrong one in another shape than OpenAI's."""
