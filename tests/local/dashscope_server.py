"""A real HTTP server that speaks DashScope's text-generation protocol. It can be told to misbehave,
and it notes what it was asked, and when.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias

PATH = "/api/v1/services/aigc/text-generation/generation"


class Server(ThreadingHTTPServer):
    """Answers each request with the next of `answers`, the last one for ever."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[Way] = [says(message())]
        self.asked: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.keys: list[str | None] = []
        self.closing = threading.Event()
        self.lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def url(self) -> str:
        """What an engine's base_url is."""
        return f"http://127.0.0.1:{self.server_port}/api/v1"

    def prompts(self) -> list[str]:
        """The last turn of every request."""
        return [body["input"]["messages"][-1]["content"] for body in self.asked]

    def forget(self) -> None:
        """Let go of what hangs, and begin anew."""
        with self.lock:
            self.closing.set()
            self.closing = threading.Event()
            self.answers, self.asked, self.times, self.keys = [says(message())], [], [], []

    def stop(self) -> None:
        """Let go of what hangs, and end."""
        self.closing.set()
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gave up is what some tests are about."""


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet, or the client's delayed ACK costs 40 ms
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            self.server.times.append(time.monotonic())
            self.server.asked.append(body)
            self.server.keys.append(self.headers["authorization"])
            answers = self.server.answers
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if self.path == PATH:
            answer(self, body)
        else:
            self.send(404, json.dumps({"code": "NotFound", "message": "no such page"}).encode())

    def send(self, status: int, body: bytes, **headers: str) -> None:
        """One whole response."""
        self.send_response(status)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in {"content-type": "application/json", **named}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


Way: TypeAlias = Callable[[Handler, dict[str, Any]], None]


def message(
    text: str | None = "[0.2, 0.9]",
    finish: str = "stop",
    usage: tuple[int, int] = (70, 12),
    **beside: Any,
) -> dict[str, Any]:
    """A whole answer, as result_format `message` has it."""
    said = {"role": "assistant", "content": text}
    return {
        "status_code": 200,
        "request_id": "r",
        "code": "",
        "message": "",
        "output": {"text": None, "choices": [{"finish_reason": finish, "message": said}]},
        "usage": {
            "input_tokens": usage[0],
            "output_tokens": usage[1],
            "total_tokens": sum(usage),
        },
        **beside,
    }


def says(body: Any, status: int = 200, **headers: str) -> Way:
    """JSON."""
    return lambda handler, asked: handler.send(status, json.dumps(body).encode(), **headers)


def sends(body: bytes, status: int = 200, **headers: str) -> Way:
    """These bytes."""
    return lambda handler, asked: handler.send(status, body, **headers)


def refuses(status: int, code: str, why: str = "no", **headers: str) -> Way:
    """An error, as the provider words it."""
    return says({"code": code, "message": why, "request_id": "r"}, status, **headers)


def inspects(which: str) -> Way:
    """A refusal for the text's sake; `which` is Input or Output."""
    why = f"{which} data may contain inappropriate content."
    return refuses(400, "DataInspectionFailed", why)


def hangs(handler: Handler, asked: dict[str, Any]) -> None:
    """No answer, until the server stops."""
    handler.server.closing.wait(60)
    handler.close_connection = True


def half_a_body(handler: Handler, asked: dict[str, Any]) -> None:
    """The connection ends in the middle of an answer."""
    body = json.dumps(message()).encode()
    handler.send_response(200)
    handler.send_header("content-type", "application/json")
    handler.send_header("content-length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body[: len(body) // 2])
    handler.wfile.flush()
    handler.close_connection = True


def disconnects(handler: Handler, asked: dict[str, Any]) -> None:
    """The connection ends before an answer."""
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def after(seconds: float, way: Way) -> Way:
    """The same, later."""

    def late(handler: Handler, asked: dict[str, Any]) -> None:
        time.sleep(seconds)
        way(handler, asked)

    return late
