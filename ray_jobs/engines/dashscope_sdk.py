"""The `dashscope` SDK, one request at a time.

It returns HTTP errors and raises the rest; where a connection drops before an answer it sends the
request once more, and says nothing of it.
"""

from __future__ import annotations

import logging
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ray_jobs.engines.dashscope_answers import Again
from ray_jobs.engines.seam import Request, Sampling

if TYPE_CHECKING:
    from aiohttp import ClientSession


@dataclass
class Tally:
    """One question's attempts, and what they cost."""

    tokens_at_most: int
    yuan_at_most: float
    num_started: int = 0
    """Requests, the SDK's silent resends included."""
    num_sent: int = 0
    """Of these, those that a connection took: the provider may have answered and billed them."""
    num_settled: int = 0
    """Of these, those whose cost is known: an error costs nothing, an answer states its tokens."""
    tokens: tuple[int, int] | None = None
    """Of the prompt and of the output, as the provider counts them."""
    yuan_stated: float = 0.0

    def state(self, prompt_tokens: int, output_tokens: int, yuan: float) -> None:
        """An answer has said what it took. There may be another, where this one was of no use."""
        before = self.tokens or (0, 0)
        self.tokens = before[0] + prompt_tokens, before[1] + output_tokens
        self.num_settled += 1
        self.yuan_stated += yuan

    @property
    def yuan_assumed(self) -> float:
        """What attempts that broke off may have cost."""
        return (self.num_sent - self.num_settled) * self.yuan_at_most

    @property
    def yuan(self) -> float:
        """All of it."""
        return self.yuan_stated + self.yuan_assumed


_TALLY: ContextVar[Tally] = ContextVar("tally")


class Connection:
    """The provider's server, for one event loop."""

    def __init__(self, model: str, base_url: str, key: str, timeout_s: float) -> None:
        self._model, self._base_url, self._key, self._timeout_s = model, base_url, key, timeout_s
        self._session: ClientSession | None = None
        # It logs what servers say, and they may repeat what they were sent.
        logging.getLogger("dashscope").setLevel(logging.CRITICAL)

    async def ask(self, request: Request, tally: Tally) -> Any:
        """One attempt: the SDK's answer, of whatever status. Again where there was none."""
        from aiohttp import ClientError
        from dashscope import AioGeneration

        if self._session is None:
            self._session = _open_session()
        _TALLY.set(tally)
        messages: Any = request.chat  # the SDK's own type is a dict by another name
        try:
            return await AioGeneration.call(
                model=self._model,
                messages=messages,
                result_format="message",
                max_tokens=request.sampling.max_tokens,
                seed=request.seed,
                stop=list(request.stop) or None,
                api_key=self._key,
                base_address=self._base_url,
                request_timeout=self._timeout_s,
                session=self._session,
                **_choosing(request.sampling),
            )
        except (ClientError, OSError) as error:  # TimeoutError is an OSError
            raise Again(type(error).__name__) from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            # So the SDK says that an answer is no JSON, or not of the protocol's form.
            raise Again(f"an answer off the schema ({type(error).__name__})") from error

    async def close(self) -> None:
        """Drop the connections."""
        if self._session is not None:
            await self._session.close()


def _choosing(sampling: Sampling) -> dict[str, Any]:
    if not sampling.temperature:
        # The provider does not promise that a temperature of 0 is greedy. One candidate is.
        return {"temperature": 0.0, "top_k": 1}
    chosen = {"temperature": sampling.temperature, "top_p": sampling.top_p}
    return {**chosen, "top_k": sampling.top_k} if sampling.top_k else chosen


def _open_session() -> ClientSession:
    """Connections of our own: the SDK's are 100 at most, and do not tell of its resends."""
    from aiohttp import ClientResponse, ClientSession, TCPConnector, TraceConfig
    from dashscope.api_entities.aio_session import get_ssl_context

    class Response(ClientResponse):
        async def json(self, **options: Any) -> Any:
            """As it is, but with the snapshot's name in `output`: the SDK drops what stands beside
            it.
            """
            found = await super().json(**options)
            if isinstance(found, dict) and isinstance(found.get("output"), dict):
                found["output"].setdefault("model", found.get("model"))
            return found

    async def on_start(*event: Any) -> None:
        _TALLY.get().num_started += 1

    async def on_sent(*event: Any) -> None:
        _TALLY.get().num_sent += 1

    trace = TraceConfig()
    trace.on_request_start.append(on_start)
    trace.on_request_headers_sent.append(on_sent)
    return ClientSession(
        connector=TCPConnector(ssl=get_ssl_context(), limit=0),
        response_class=Response,
        trace_configs=[trace],
        trust_env=True,
    )
