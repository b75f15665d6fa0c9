"""The web face that all our endpoints share: one shape of errors, who may ask, and how much."""

from __future__ import annotations

import hashlib
import hmac
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ray_jobs.engines.seam import EngineUnusable

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

OPEN_PATHS = ("/healthz", "/readyz")
"""What needs no token: those who ask whether the process lives know no secrets."""
_TYPES = {
    401: "unauthorised",
    404: "not_found",
    413: "too_large",
    422: "invalid_request",
    424: "unusable",
    429: "busy",
    500: "internal",
    503: "not_ready",
}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Who may ask a replica, and how much at once."""

    max_body_bytes: int
    token_digest: str = ""
    """SHA-256 of the bearer token, so that the token itself is in no configuration. Empty asks for
    none."""


def digest(token: str) -> str:
    """What Limits holds of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def explain(errors: Iterable[Any]) -> str:
    """Where and what, without the text itself."""
    return "; ".join(f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in errors)


def error(request: HttpRequest, status: int, message: str) -> JSONResponse:
    """An error in the wire's shape."""
    request_id = request.headers.get("x-request-id") or uuid.uuid4().hex
    kind = _TYPES.get(status, "http")
    body = {"error": {"type": kind, "message": message, "request_id": request_id}}
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return JSONResponse(body, status_code=status, headers=headers)


async def _invalid(request: HttpRequest, problem: RequestValidationError) -> JSONResponse:
    return error(request, 422, explain(problem.errors()))


async def _http(request: HttpRequest, problem: HTTPException) -> JSONResponse:
    return error(request, problem.status_code, str(problem.detail))


async def _unusable(request: HttpRequest, problem: EngineUnusable) -> JSONResponse:
    return error(request, 424, str(problem))


async def _internal(request: HttpRequest, problem: Exception) -> JSONResponse:
    return error(request, 500, type(problem).__name__)


def application(title: str) -> FastAPI:
    """An application with our errors and our gate."""
    web = FastAPI(title=title, version="1")
    for kind, handler in (
        (RequestValidationError, _invalid),
        (HTTPException, _http),
        (EngineUnusable, _unusable),
        (Exception, _internal),
    ):
        web.add_exception_handler(kind, handler)  # type: ignore[arg-type]
    web.add_middleware(Gate)
    return web


class Gate:
    """Lets in who has the token, and no body longer than the limit, whatever its header says."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or answer with an error."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = HttpRequest(scope)
        limits = current_limits()
        if limits.token_digest and request.url.path not in OPEN_PATHS:
            given = request.headers.get("authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(digest(given), limits.token_digest):
                refusal = error(request, 401, "expected the header Authorization: Bearer <token>")
                await refusal(scope, receive, send)
                return
        announced = request.headers.get("content-length", "")
        if announced.isdigit() and int(announced) > limits.max_body_bytes:
            await error(request, 413, _too_long(limits))(scope, receive, send)
            return
        await self._app(scope, _Counted(receive, limits), send)


class _Counted:
    """A body that is counted while it comes, since a header can be absent or false."""

    def __init__(self, receive: Receive, limits: Limits) -> None:
        self._receive, self._limits = receive, limits
        self._num_bytes = 0

    async def __call__(self) -> Message:
        message = await self._receive()
        self._num_bytes += len(message.get("body", b""))
        if self._num_bytes > self._limits.max_body_bytes:
            raise HTTPException(413, _too_long(self._limits))
        return message


def _too_long(limits: Limits) -> str:
    return f"the body is longer than {limits.max_body_bytes} bytes"


def current_limits() -> Limits:
    """Those of the application whose replica asks."""
    # The application is packed before any replica is there, and unpacked inside each.
    from ray import serve as ray_serve

    limits: Limits = ray_serve.get_replica_context().servable_object.limits  # type: ignore[attr-defined]
    return limits
