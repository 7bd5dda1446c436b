"""The transports that make requests steps, for httpx2 and httpx alike.

A request sent in a turn becomes a step, see ``http_exchange``; the agent waits for its outcome and
gets a response made from it. A sync client makes the whole turn wait.

Invariants: the agent gets what was recorded and nothing else, live as on replay; nothing is sent in
a turn but by a step's body.
"""

import functools
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from typing import Any, ClassVar, cast

from holdfast.core.machine import Call, Machine, current_or_none
from holdfast.errors import StepFailed
from holdfast.integrations.http_exchange import ANSWER, PART, Exchange, Wire, is_event_stream
from holdfast.integrations.http_record import Head, part_bytes, raw_headers
from holdfast.integrations.http_stream import EndWatch
from holdfast.runtime.context import warn_outside_run

__all__ = ["async_transport", "sync_transport"]


@functools.cache
def sync_transport(library: Any) -> Callable[[Wire, Callable[[Any], str]], Any]:
    """Make the sync transport for a library: it takes a wire and what says a request's contract."""

    class SyncParts(_SyncParts, library.SyncByteStream):  # type: ignore[misc]  # either library's
        pass

    class RunTransport(_SyncTransport, library.BaseTransport):  # type: ignore[misc]  # either library's
        parts_stream = SyncParts

    return RunTransport


@functools.cache
def async_transport(library: Any) -> Callable[[Wire, Callable[[Any], str]], Any]:
    """Make the async transport for a library, as ``sync_transport``."""

    class AsyncParts(_AsyncParts, library.AsyncByteStream):  # type: ignore[misc]  # either library's
        pass

    class AsyncRunTransport(_AsyncTransport, library.AsyncBaseTransport):  # type: ignore[misc]  # either library's
        parts_stream = AsyncParts

    return AsyncRunTransport


class _Transport:
    """What the sync and the async transport share."""

    parts_stream: ClassVar[Any]

    def __init__(self, wire: Wire, effect_of: Callable[[Any], str]) -> None:
        self._wire = wire
        self._library = wire.library
        self._effect_of = effect_of

    def _ask(self, machine: Machine, request: Any) -> tuple[Call, bool]:
        """Ask for a request's step; tells too whether it streams."""
        exchange = Exchange(self._wire, request, self._effect_of(request))
        return machine.step(exchange.spec, exchange.args), exchange.spec.streams

    def _response(self, encoded: bytes) -> Any:
        answer = ANSWER.decode(encoded)
        return self._library.Response(
            answer.status,
            headers=raw_headers(answer.headers),
            stream=self._library.ByteStream(part_bytes(answer)),
        )

    def _streaming_response(self, encoded: bytes, parts: Any, request: Any) -> Any:
        head = PART.decode(encoded)
        assert isinstance(head, Head), "a stream's first part is its head"
        return self._library.Response(
            head.status,
            headers=raw_headers(head.headers),
            stream=self.parts_stream(self._library, parts, request),
        )

    def _whole(self, parts: list[bytes]) -> Any:
        return self._library.ByteStream(b"".join(part_bytes(PART.decode(part)) for part in parts))


class _SyncTransport(_Transport):
    """Makes requests in a turn steps; passes others on."""

    _direct: Any = None
    """The client that sends what does not belong to a turn."""

    def handle_request(self, request: Any) -> Any:
        machine = current_or_none()
        if machine is None:
            warn_outside_run("an HTTP request")
            self._direct = self._direct or self._wire.sync_client()
            return self._direct.send(
                request, stream=True, auth=self._library.Auth(), follow_redirects=False
            )
        request.read()
        call, streams = self._ask(machine, request)
        try:
            if not streams:
                return self._response(machine.wait(call))
            parts = machine.wait_parts(call)
            response = self._streaming_response(next(parts), parts, request)
            if not is_event_stream(response):
                response.stream = self._whole(list(parts))
        except StepFailed as error:
            raise _library_error(self._library, error, request) from error
        return response

    def close(self) -> None:
        if self._direct is not None:
            self._direct.close()
            self._direct = None


class _AsyncTransport(_Transport):
    """Makes requests in a turn steps; passes others on."""

    async def handle_async_request(self, request: Any) -> Any:
        machine = current_or_none()
        if machine is None:
            warn_outside_run("an HTTP request")
            return await self._wire.send(request)
        await request.aread()
        call, streams = self._ask(machine, request)
        try:
            if not streams:
                return self._response(await machine.outcome(call))
            parts = machine.parts(call)
            response = self._streaming_response(await anext(parts), parts, request)
            if not is_event_stream(response):
                response.stream = self._whole([part async for part in parts])
        except StepFailed as error:
            raise _library_error(self._library, error, request) from error
        return response

    async def aclose(self) -> None:
        if current_or_none() is None:
            await self._wire.aclose()


class _Gate:
    """Decides what of a stream the agent may have by now, live as on replay.

    The end marker is held back until the step has its outcome: clients hang up as soon as they see
    it, and that would abandon the step.
    """

    def __init__(self, request: Any) -> None:
        self._watch = EndWatch(request.url.path)
        self._held: list[bytes] = []

    def feed(self, encoded: bytes) -> bytes:
        data = part_bytes(PART.decode(encoded))
        self._watch.feed(data)
        if not self._watch.seen:
            return data
        self._held.append(data)
        return b""

    def end(self) -> bytes:
        return b"".join(self._held)


class _SyncParts:
    """The body of a streamed response, in sync code."""

    def __init__(self, library: Any, parts: Iterator[bytes], request: Any) -> None:
        self._library, self._parts, self._request = library, parts, request

    def __iter__(self) -> Iterator[bytes]:
        gate = _Gate(self._request)
        try:
            for encoded in self._parts:
                if data := gate.feed(encoded):
                    yield data
        except StepFailed as error:
            raise _library_error(self._library, error, self._request) from error
        if data := gate.end():
            yield data

    def close(self) -> None:
        cast("Generator[bytes, None, None]", self._parts).close()


class _AsyncParts:
    """The body of a streamed response, in async code."""

    def __init__(self, library: Any, parts: AsyncIterator[bytes], request: Any) -> None:
        self._library, self._parts, self._request = library, parts, request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        gate = _Gate(self._request)
        try:
            async for encoded in self._parts:
                if data := gate.feed(encoded):
                    yield data
        except StepFailed as error:
            raise _library_error(self._library, error, self._request) from error
        if data := gate.end():
            yield data

    async def aclose(self) -> None:
        await cast("AsyncGenerator[bytes, None]", self._parts).aclose()


def _library_error(library: Any, error: StepFailed, request: Any) -> Exception:
    """Return a recorded failure as the exception that the library raises for it."""
    name = error.error_type
    if name == "ConnectionError":  # the runtime's word for a stream that a crash cut
        name = "ReadError"
    kind = getattr(library, name, None)
    if not (inspect.isclass(kind) and issubclass(kind, library.RequestError)):
        return error
    make = cast("Callable[..., Exception]", kind)
    return make(error.error_message, request=request)
