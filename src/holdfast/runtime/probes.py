"""Is this worker alive, is it ready: two answers over HTTP on the loopback interface.

``GET /live`` answers 200 while the worker runs and its loop gets round to answering. ``GET /ready``
answers 200 while it claims runs: it does not drain, its lease was taken or renewed last time, and
the store can be read now; else 503 and the reason. Who has a worker behind a load balancer or in an
orchestrator asks these; nothing in holdfast does.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus

from holdfast.errors import StoreError, UsageError
from holdfast.runtime.worker import Worker

__all__ = ["probes"]

HOST = "127.0.0.1"
REQUEST_BYTES_MAX = 8_192
PATIENCE_S = 2.0
"""How long a request, or the store, may take."""


@asynccontextmanager
async def probes(worker: Worker, port: int) -> AsyncIterator[int]:
    """Answer on a port (0: any that is free) for the length of the block, and yield the port.

    Raises:
        UsageError: the port is taken, or may not be used.
    """

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(TimeoutError, OSError, ValueError, asyncio.IncompleteReadError):
            async with asyncio.timeout(PATIENCE_S):
                request = await reader.readuntil(b"\r\n\r\n")
            writer.write(await _answer(worker, request))
            await writer.drain()
        writer.close()

    try:
        server = await asyncio.start_server(serve, HOST, port, limit=REQUEST_BYTES_MAX)
    except (OSError, OverflowError) as error:
        raise UsageError(f"cannot answer on {HOST}:{port}: {error}") from error
    async with server:
        yield server.sockets[0].getsockname()[1]


async def _answer(worker: Worker, request: bytes) -> bytes:
    method, _, rest = request.decode("latin-1").partition(" ")
    path = rest.partition(" ")[0].partition("?")[0]
    if method not in ("GET", "HEAD"):
        status, facts = HTTPStatus.METHOD_NOT_ALLOWED, {"error": "GET and HEAD alone are answered"}
    elif path == "/live":
        status, facts = HTTPStatus.OK, {"worker": worker.name}
    elif path == "/ready":
        why = worker.not_ready() or await _unreadable(worker)
        status = HTTPStatus.SERVICE_UNAVAILABLE if why else HTTPStatus.OK
        facts = {"worker": worker.name, **({"not_ready": why} if why else {})}
    else:
        status, facts = HTTPStatus.NOT_FOUND, {"error": "there are /live and /ready"}
    body = json.dumps(facts).encode() + b"\n"
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (body if method == "GET" else b"")


async def _unreadable(worker: Worker) -> str:
    try:
        async with asyncio.timeout(PATIENCE_S):
            await worker.settings.store.workers(now=worker.settings.clock.now())
    except StoreError as error:
        return str(error)
    except TimeoutError:
        return f"the store has not answered for {PATIENCE_S:g} s"
    return ""
