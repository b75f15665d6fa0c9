"""Kind `endpoint`: a server that speaks OpenAI's chat protocol, through the `openai` SDK.

The SDK retries 408, 409, 429, 5xx, timeouts and lost connections, and waits as `Retry-After` says.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ray_jobs.engines.loop import LoopThread
from ray_jobs.engines.seam import (
    NO_EFFECT_ON_ROWS,
    EngineUnusable,
    Placement,
    Reply,
    Request,
    beyond_chat,
    is_prefilled,
)
from ray_jobs.outcomes import Blocked, Failed, Refused, Unparsed

if TYPE_CHECKING:
    from openai import APIStatusError

POLICY_CODES = (
    "content_filter",
    "content_policy_violation",
    "data_inspection_failed",
    "datainspectionfailed",
    "responsibleaipolicyviolation",
)
"""What providers call a text that they will not treat, in lower case."""
MAX_REASON = 200


@dataclass(frozen=True, kw_only=True)
class EndpointConfig:
    """A model behind an OpenAI-style server."""

    kind: Literal["endpoint"] = "endpoint"
    model: str
    """As the server names it."""
    base_url: str = field(metadata=NO_EFFECT_ON_ROWS)
    """Such as http://127.0.0.1:8000/v1"""
    api_key_env: str = field(default="", metadata=NO_EFFECT_ON_ROWS)
    """The variable that holds the key, where the engine runs. Empty for a server without keys."""
    structured_outputs: bool = False
    """The server is vLLM's and obeys all constraints. Others are sent JSON schemas only."""
    timeout_s: float = field(default=120.0, metadata=NO_EFFECT_ON_ROWS)
    """How long one attempt may go without a byte."""
    max_retries: int = field(default=5, metadata=NO_EFFECT_ON_ROWS)
    """Attempts after the first."""
    in_flight: int = field(default=32, metadata=NO_EFFECT_ON_ROWS)
    """Requests that one actor keeps at the server."""
    placement: Placement = field(default_factory=lambda: Placement(cpus=0.1))

    def __post_init__(self) -> None:
        if self.in_flight < 1:
            raise ValueError(f"in_flight: expected at least 1, found {self.in_flight}")
        if self.timeout_s <= 0:
            raise ValueError(f"timeout_s: expected more than 0, found {self.timeout_s:g}")
        if self.max_retries < 0:
            raise ValueError(f"max_retries: expected 0 or more, found {self.max_retries}")

    @property
    def title(self) -> str:
        """Kind and model, as rows and manifests name the engine."""
        return f"endpoint:{self.model}"

    @property
    def constrains(self) -> bool:
        """Only vLLM's server obeys all constraints."""
        return self.structured_outputs

    def identity(self) -> dict[str, Any]:
        """The model, and whether it is held to a form. Where it is served decides nothing."""
        return {"model": self.model, "structured_outputs": self.structured_outputs}

    def check(self, name: str) -> None:
        """Refuse a URL that is none, and a key in the place of its variable's name."""
        if not self.base_url.startswith(("http://", "https://")):
            raise ValueError(
                f"engines.{name}.base_url: expected http(s)://…, found {self.base_url!r}"
            )
        if self.api_key_env and not self.api_key_env.isidentifier():
            raise ValueError(
                f"engines.{name}.api_key_env: expected the name of an environment variable; "
                "the key itself does not belong in a recipe"
            )

    def open(self) -> EndpointEngine:
        """Make the client. EngineUnusable where the key's variable is not set."""
        return EndpointEngine(self)


class EndpointEngine:
    """Asks the server, many requests at a time."""

    def __init__(self, cfg: EndpointConfig) -> None:
        from openai import AsyncOpenAI

        key = os.environ.get(cfg.api_key_env, "") if cfg.api_key_env else "none"
        if not key:
            raise EngineUnusable(
                f"{cfg.title}: the environment variable {cfg.api_key_env} (api_key_env) is not set"
            )
        self._cfg = cfg
        self._client = AsyncOpenAI(
            api_key=key,
            base_url=cfg.base_url,
            timeout=cfg.timeout_s,
            max_retries=cfg.max_retries,
        )
        self._loop = LoopThread("endpoint")

    def submit(self, request: Request) -> Future[Reply]:
        """Ask; the reply has no log-probabilities. EngineUnusable from the future where the server
        knows neither key nor model, and for what the protocol of chats has no word for.
        """
        if what := beyond_chat(request) or self._beyond_others(request):
            raise EngineUnusable(f"{self._cfg.title} cannot {what}; use kind vllm")
        return self._loop.submit(self._ask(request))

    def _beyond_others(self, request: Request) -> str:
        """What vLLM's server alone can do."""
        if self._cfg.structured_outputs:
            return ""
        prefilled = is_prefilled(request.chat) and "go on with a turn that has begun"
        return prefilled or (request.min_tokens and "hold to min_tokens") or ""

    def close(self) -> None:
        """Drop what is still waiting, and the connections."""
        self._loop.submit(self._client.close()).result(timeout=10)
        self._loop.close()

    async def _ask(self, request: Request) -> Reply:
        from openai import APIError, APIStatusError

        try:
            answer = await self._client.chat.completions.create(**self._arguments(request))
        except APIStatusError as error:
            raise self._meaning(error) from error
        except APIError as error:
            raise Failed(f"{type(error).__name__} after {self._cfg.max_retries} retries") from error
        except json.JSONDecodeError as error:
            raise Failed("the server's answer is no JSON") from error
        return _reply(answer)

    def _arguments(self, request: Request) -> dict[str, Any]:
        sampling, constraint = request.sampling, request.constraint
        arguments: dict[str, Any] = {
            "model": self._cfg.model,
            "messages": request.chat,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": request.seed,
        } | ({"stop": list(request.stop)} if request.stop else {})
        extra: dict[str, Any] = {"top_k": sampling.top_k} if sampling.top_k else {}
        extra |= {"min_tokens": request.min_tokens} if request.min_tokens else {}
        if is_prefilled(request.chat):
            extra |= {"add_generation_prompt": False, "continue_final_message": True}
        if constraint and self._cfg.structured_outputs:
            forms = {
                "choice": list(constraint.choices),
                "regex": constraint.regex,
                "json": constraint.json_schema and json.loads(constraint.json_schema),
            }
            extra["structured_outputs"] = {name: form for name, form in forms.items() if form}
        elif constraint and constraint.json_schema:
            schema = {"name": "answer", "schema": json.loads(constraint.json_schema)}
            arguments["response_format"] = {"type": "json_schema", "json_schema": schema}
        return {**arguments, "extra_body": extra} if extra else arguments

    def _meaning(self, error: APIStatusError) -> Exception:
        """What a status says of the row, or of the whole job."""
        status = error.status_code
        if policy := _policy_code(error):
            return Blocked(f"HTTP {status}: {policy}")
        if status in (401, 403, 404):
            advice = {404: "model and base_url"}.get(status, "the key in api_key_env")
            return EngineUnusable(
                f"{self._cfg.title} at {self._cfg.base_url} says {status}: check {advice}"
            )
        if status in (408, 409, 429) or status >= 500:
            return Failed(f"HTTP {status} after {self._cfg.max_retries} retries")
        return Refused(f"HTTP {status}: {error.message[:MAX_REASON]}")


def _policy_code(error: APIStatusError) -> str | None:
    """The code of a refusal for the text's sake, wherever in the error's body it stands."""
    body = error.body if isinstance(error.body, dict) else {}
    inner = body.get("innererror")
    places = [body, inner if isinstance(inner, dict) else {}]
    said = [str(place.get(key) or "") for place in places for key in ("code", "type")]
    return next((code for code in said if code.lower() in POLICY_CODES), None)


def _reply(answer: Any) -> Reply:
    """The SDK checks nothing at status 200: what is no answer of the protocol has failed."""
    if not getattr(answer, "choices", None) or not answer.usage:
        raise Failed("the server's answer has no choice or no usage")
    choice = answer.choices[0]
    if choice.finish_reason == "content_filter":
        raise Blocked("finish_reason content_filter")
    if choice.message.refusal:
        raise Blocked("the provider's refusal field is set")
    if choice.finish_reason not in ("stop", "length"):
        raise Failed(f"finish_reason {choice.finish_reason}")
    if choice.message.content is None:
        raise Unparsed("the answer has no text")
    return Reply(
        text=choice.message.content,
        prompt_tokens=answer.usage.prompt_tokens,
        output_tokens=answer.usage.completion_tokens,
        finish_reason=choice.finish_reason,
    )
