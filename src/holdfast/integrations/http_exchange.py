"""What really sends a request: the body of its step, and the wire below it.

The body sends the live request, not the recorded one, so that no secret passes through the log.
After a crash the agent's code builds the request again, so a live one is always at hand. Bodies run
on the host loop, for sync clients too.

Invariants: what a body sends is a copy, so that the agent sees nothing of how it was sent; there is
one pool of connections per wire and host loop, and it is closed with the loop.
"""

import asyncio
import functools
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

from holdfast.core.codec import ArgsCodec, Codec
from holdfast.core.retry import Retry
from holdfast.core.specs import EFFECT_RETRY, StepSpec
from holdfast.errors import StepFailed
from holdfast.integrations.http_record import (
    Answer,
    Binary,
    Head,
    Part,
    answer_of,
    has_random_key,
    kept_headers,
    provider_of,
    recorded_bytes,
    recorded_request,
    scrubbed,
    step_name,
)
from holdfast.integrations.http_stream import EndWatch, Pieces
from holdfast.runtime.context import STEP

__all__ = ["ANSWER", "PART", "Exchange", "RequestStep", "Wire", "is_event_stream"]

ONE_ATTEMPT = Retry(attempts=1)
"""Reads: whether to ask again is for the client above, and each time it is a step of its own."""

STREAM_RETRY = Retry(attempts=4, base_s=0.2, cap_s=10.0)
"""Streams that were cut before the agent acted on a part: no client can repair these."""

AFTER_END_S = 1.0
"""How long a server may take to end a stream behind its end marker before we hang up."""

_MAYBE_DONE = frozenset({408, 409, 425, 429, *range(500, 600)})
"""Statuses behind which an effect may have happened, or may yet."""


def _recorded(
    *,
    method: str,
    url: str,
    headers: dict[str, str],
    json: Any = None,
    text: str | None = None,
    base64: str | None = None,
) -> None:
    """Stand for the arguments of a request's step."""


_ARGS = ArgsCodec(_recorded, "an HTTP request")
ANSWER = Codec(Answer, "the answer to an HTTP request")
PART = Codec(Part, "a part of the answer to an HTTP request")


class RequestStep(StepSpec):
    """The spec of a request's step. All of them share their codecs."""

    @functools.cached_property
    def args(self) -> ArgsCodec:
        return _ARGS

    @functools.cached_property
    def result(self) -> Codec:
        return PART if self.streams else ANSWER


class Wire:
    """Where requests really go: stock clients of a library, one per host loop.

    Args:
        library: The module ``httpx2`` or ``httpx``.
        settings: How its clients connect: ``verify``, ``proxy``, ``limits`` and so on.
        shared: Whether other clients use it too: then it is closed with the loop alone.
    """

    def __init__(self, library: Any, settings: Mapping[str, Any], *, shared: bool = False) -> None:
        self.library = library
        self._settings = {
            # All runs of a worker share it: httpx's own 100 would let them wait for each other.
            "limits": library.Limits(max_connections=1000, max_keepalive_connections=100),
            **settings,
        }
        self._shared = shared
        self._open: weakref.WeakKeyDictionary[
            asyncio.AbstractEventLoop, tuple[Any, AsyncGenerator[None, None]]
        ] = weakref.WeakKeyDictionary()

    async def send(self, request: Any) -> Any:
        """Send a request as it stands; the answer's body is not read yet."""
        client = await self._client()
        return await client.send(
            request, stream=True, auth=self.library.Auth(), follow_redirects=False
        )

    def sync_client(self) -> Any:
        """Return a new client for sync code outside a turn, to be closed by whoever asked."""
        return self.library.Client(**self._settings)

    async def aclose(self) -> None:
        """Close this loop's connections, unless others use them."""
        if not self._shared and (entry := self._open.get(asyncio.get_running_loop())):
            await entry[1].aclose()

    async def _client(self) -> Any:
        loop = asyncio.get_running_loop()
        if loop not in self._open:
            client = self.library.AsyncClient(**self._settings)
            closer = self._close_with(loop, client)
            self._open[loop] = client, closer
            await anext(closer)
        return self._open[loop][0]

    async def _close_with(
        self, loop: asyncio.AbstractEventLoop, client: Any
    ) -> AsyncGenerator[None, None]:
        """Close a client when its loop shuts down.

        A loop closes the async generators that began on it: the only hook into its end that there
        is.
        """
        try:
            yield
        finally:
            self._open.pop(loop, None)
            await client.aclose()


class Exchange:
    """One request of a turn: its step, and the step's body.

    Args:
        wire: Where it is sent.
        request: The request, its body read.
        effect: Its effect contract.
    """

    def __init__(self, wire: Wire, request: Any, effect: str) -> None:
        self._wire = wire
        self._library = wire.library
        self._request = request
        recorded = recorded_request(request)
        # An effect's stream is read whole: its deed is done or not, whatever the agent read of it.
        streams = effect == "read" and _wants_stream(request, recorded)
        retry = STREAM_RETRY if streams else ONE_ATTEMPT if effect == "read" else EFFECT_RETRY
        body = self.stream if streams else self.send
        self.spec = RequestStep(step_name(request), body, effect, retry=retry)
        self.args = recorded_bytes(recorded)
        # An effect has its intent on disk: what delays it then is a doubt waiting to happen.
        self._provider = provider_of(recorded, request) if effect == "read" else ""

    async def send(self, **_recorded: Any) -> Answer:
        """Send the request and return the whole answer.

        Raises:
            RequestError: the library's, when there is no whole answer.
            HTTPStatusError: the library's, when there is one that leaves an effect unknown.
        """
        try:
            response = await self._ask()
            try:
                body = await response.aread()
            finally:
                await response.aclose()
            if is_event_stream(response):
                watch = EndWatch(self._request.url.path)
                watch.feed(body)
                self._check_end(watch)
        except self._library.RequestError as error:
            raise type(error)(scrubbed(str(error), self._request)) from None
        if self.spec.effect != "read" and response.status_code in _MAYBE_DONE:
            raise self._library.HTTPStatusError(
                f"{self.spec.name}: {response.status_code} {response.reason_phrase}",
                request=self._request,
                response=response,
            )
        return answer_of(response.status_code, response.headers.raw, body)

    async def stream(self, **_recorded: Any) -> AsyncIterator[Part]:
        """Send the request and yield the answer as it comes, its head first.

        Raises:
            StepFailed: there is no answer; not to be tried again here.
            RequestError: the library's, when the stream was cut.
        """
        try:
            response = await self._ask()
        except self._library.RequestError as error:
            text = scrubbed(str(error), self._request)
            raise StepFailed(type(error).__name__, text, retryable=False) from None
        try:
            head = Head(response.status_code, kept_headers(response.headers.raw))
            if not is_event_stream(response):
                whole = answer_of(response.status_code, (), await response.aread())
                yield head
                yield Binary(whole.body) if whole.base64 else whole.body
                return
            yield head
            async for part in self._parts(response):
                yield part
        except self._library.RequestError as error:
            raise type(error)(scrubbed(str(error), self._request)) from None
        finally:
            await response.aclose()

    async def _parts(self, response: Any) -> AsyncIterator[Part]:
        watch, pieces = EndWatch(self._request.url.path), Pieces()
        chunks = aiter(response.aiter_bytes())
        try:
            while True:
                async with asyncio.timeout(AFTER_END_S if watch.seen else None):
                    data = await anext(chunks)
                watch.feed(data)
                for part in pieces.feed(data):
                    yield part
        except StopAsyncIteration:
            pass
        except (TimeoutError, self._library.RequestError):
            if not watch.seen:
                raise
        for part in pieces.end():
            yield part
        self._check_end(watch)

    def _check_end(self, watch: EndWatch) -> None:
        if watch.missing:
            raise self._library.RemoteProtocolError(
                f"{self.spec.name}: the stream ended without its end marker {watch.missing}"
            )

    async def _ask(self) -> Any:
        """Send the request, in its turn where the provider limits how often it is asked."""
        step, live = STEP.get(), self._live_request()
        if not self._provider or step is None or step.providers is None:
            return await self._wire.send(live)
        return await step.providers.ask(self._provider, lambda: self._wire.send(live))

    def _live_request(self) -> Any:
        """Return the request to send: a copy, since the agent holds the original."""
        request, step = self._request, STEP.get()
        headers = request.headers.copy()
        if self.spec.effect == "idempotent" and step is not None:
            if has_random_key(request):
                del headers["idempotency-key"]
            headers.setdefault("Idempotency-Key", step.idempotency_key)
        return self._library.Request(
            request.method,
            request.url,
            headers=headers,
            content=request.content,
            extensions=request.extensions,
        )


def _wants_stream(request: Any, recorded: Mapping[str, Any]) -> bool:
    body = recorded.get("json")
    asked = isinstance(body, dict) and body.get("stream") is True
    return asked or "text/event-stream" in request.headers.get("accept", "")


def is_event_stream(response: Any) -> bool:
    """Tell whether a response is an event stream that went well so far."""
    kind: str = response.headers.get("content-type", "")
    return response.is_success and kind.lower().startswith("text/event-stream")
