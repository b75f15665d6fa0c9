"""The annotation page's files, and what a browser is told of all that comes from the desk: that
nothing from elsewhere may run, be shown or be reached there. Judged text is an attacker.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import Request as HttpRequest
from starlette.datastructures import MutableHeaders
from starlette.responses import Response

from ray_jobs.judge import THIS_MACHINE
from serve import web

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

FILES = {
    "/": ("annotate.html", "text/html; charset=utf-8"),
    "/annotate.css": ("annotate.css", "text/css; charset=utf-8"),
    "/annotate.js": ("annotate.js", "text/javascript; charset=utf-8"),
    "/annotate_words.js": ("annotate_words.js", "text/javascript; charset=utf-8"),
}
"""They hold no data: whoever reaches the desk may have them, and is asked for the token after."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Page:
    """Gives out the page's files, and sets the headers of every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on to the gate."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await (self._answer(scope) or self._app)(scope, receive, send_with_headers)

    def _answer(self, scope: Scope) -> ASGIApp | None:
        request = HttpRequest(scope)
        path = scope["path"].removeprefix(scope.get("root_path", "").rstrip("/"))
        if path not in web.OPEN_PATHS and not _is_meant(request):
            # Another site's name that was made to point to this machine (DNS rebinding).
            return web.error(request, 403, "ask for 127.0.0.1 or localhost, or serve with a token")
        if path in FILES and request.method in ("GET", "HEAD"):
            name, kind = FILES[path]
            return Response(_content(name), media_type=kind)
        return None


def _is_meant(request: HttpRequest) -> bool:
    """Whether a browser was sent here by a name of this machine, or must show a token anyway."""
    host = request.headers.get("host", "").rpartition(":")[0] or request.headers.get("host", "")
    return bool(web.current_limits().token_digest) or host.strip("[]") in THIS_MACHINE


@cache
def _content(name: str) -> bytes:
    return Path(__file__).with_name(name).read_bytes()
