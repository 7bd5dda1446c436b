"""HTTP as the demo's two servers speak it: JSON in, JSON out, and every way of answering badly.

A server is started with port 0, prints ``{"port": N}`` as its only line when it listens on
127.0.0.1, and ends on SIGTERM, on Ctrl-C, or when the process that started it is gone: a demo that
was killed leaves nothing running.

An error is ``{"error": {"code": ..., "message": ..., "type": ...}}`` with its status, the shape
that OpenAI's API has.

Invariant: a request is read whole before it is answered, so that a connection can be used again.
"""

import argparse
import json
import os
import select
import signal
import socket
import struct
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from types import FrameType
from typing import Any, NoReturn
from urllib.parse import parse_qs, unquote, urlsplit

__all__ = ["BODY_BYTES_MAX", "JsonHandler", "Refusal", "Request", "Server", "arguments", "serve"]

BODY_BYTES_MAX = 16 << 20
PARENT_POLL_S = 1.0


class Refusal(Exception):  # noqa: N818 - a refusal answers the request; it is no error of the server
    """A request that is answered with an error status."""

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"code": code, "message": message, "type": "demo_error"}}
        self.headers = headers or {}


@dataclass(frozen=True, slots=True)
class Request:
    """One request, read whole.

    Attributes:
        path: The decoded parts of the path, ``("orders", "A-7001")``.
        query: The first value of each query parameter.
        body: The JSON object sent, empty when there was none.
        headers: By lower-case name.
    """

    method: str
    path: tuple[str, ...]
    query: Mapping[str, str]
    body: Mapping[str, Any]
    headers: Mapping[str, str]


class Server(ThreadingHTTPServer):
    """A thread per connection on 127.0.0.1, quiet about clients that hang up."""

    request_queue_size = 128
    daemon_threads = True
    block_on_close = False

    def server_bind(self) -> None:
        # HTTPServer's own asks the resolver for this host's name, which takes seconds on some
        # machines.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class JsonHandler(BaseHTTPRequestHandler):
    """Reads a request, has `route` answer it, and knows the ways of not answering."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = (
        -1
    )  # head and body leave in one piece: two would wait for the delayed acknowledgement

    def route(self, request: Request) -> None:
        """Answer one request, by `answer`, `reset` or `hang_up`, or raise `Refusal`."""
        raise NotImplementedError

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def answer(
        self, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> None:
        """Send a JSON answer."""
        data = json.dumps(body, ensure_ascii=False).encode()
        self.head(status, {"Content-Type": "application/json", "Content-Length": str(len(data))})
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        """Begin an answer; `end_headers` must follow."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)

    def hang_up(self) -> None:
        """Close the connection after what was written so far."""
        self.close_connection = True

    def reset(self) -> None:
        """Drop the connection at once, so that the client sees a reset and no answer."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # The files made from the socket keep it open after close(), and shutdown() would say
        # goodbye politely.
        os.close(self.connection.detach())

    def client_is_gone(self) -> bool:
        """Tell whether the client has closed its end while it waits for our answer."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        if not readable:
            return False
        try:
            return not self.connection.recv(1, socket.MSG_PEEK)
        except ConnectionError:
            return True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name for it
        pass

    def _serve(self) -> None:
        try:
            self.route(self._request())
        except Refusal as refusal:
            self.answer(refusal.status, refusal.body, refusal.headers)

    def _request(self) -> Request:
        body = self._body()
        url = urlsplit(self.path)
        return Request(
            method=self.command,
            path=tuple(unquote(part) for part in url.path.split("/") if part),
            query={name: values[0] for name, values in parse_qs(url.query).items()},
            body=body,
            headers={name.lower(): value for name, value in self.headers.items()},
        )

    def _body(self) -> Mapping[str, Any]:
        if "Transfer-Encoding" in self.headers:
            self._refuse_unread(HTTPStatus.LENGTH_REQUIRED, "a body needs a Content-Length")
        text = self.headers.get("Content-Length", "0")
        if not text.isdecimal() or int(text) > BODY_BYTES_MAX:
            self._refuse_unread(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE if text.isdecimal() else HTTPStatus.BAD_REQUEST,
                f"Content-Length: got {text!r}; expected at most {BODY_BYTES_MAX}",
            )
        data = self.rfile.read(int(text))
        if not data:
            return {}
        try:
            body = json.loads(data)
        except ValueError as error:
            raise Refusal(
                HTTPStatus.BAD_REQUEST, "invalid", f"the body is not JSON: {error}"
            ) from error
        if not isinstance(body, dict):
            raise Refusal(
                HTTPStatus.BAD_REQUEST,
                "invalid",
                f"the body is a {type(body).__name__}; expected an object",
            )
        return body

    def _refuse_unread(self, status: int, message: str) -> NoReturn:
        self.hang_up()  # the body stays unread, so nothing can follow on this connection
        raise Refusal(status, "invalid", message)


def arguments(description: str) -> argparse.ArgumentParser:
    """Return a parser of the arguments that both servers take."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seed", type=int, required=True, help="decides every fault")
    parser.add_argument("--port", type=int, default=0, help="0 takes any free one")
    parser.add_argument("--faults", choices=("on", "off"), default="on")
    return parser


def serve(server: Server) -> None:
    """Say the port on stdout and serve until told to stop."""
    signal.signal(signal.SIGTERM, _stop)
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    sys.stdout.write(json.dumps({"port": server.server_port}) + "\n")
    sys.stdout.flush()
    with suppress(KeyboardInterrupt), server:
        server.serve_forever()


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _end_with_parent(parent: int) -> None:
    never = threading.Event()
    while os.getppid() == parent:
        never.wait(PARENT_POLL_S)
    os.kill(os.getpid(), signal.SIGTERM)
