"""A streamed answer is live and durable at once, and a cut one is never taken for a whole one.

*Goal*: tokens reach the agent as they come; a stream without its end marker is made again unseen,
or is an error if the agent has acted on a part of it; replay needs no server. *Method*: the stock
OpenAI client against a real server which sends a piece only after the agent has emitted the one
before, or leaves the end marker out.
"""

import asyncio
import json
import queue
import threading

import httpx
import pytest

import holdfast as hf
from holdfast.core import events as ev
from holdfast.stores.memory import MemoryStore

LIBRARIES = ["httpx2", "httpx"]
MESSAGES = [{"role": "user", "content": "hi"}]


def of_type(events, kind):
    return [event for event in events if isinstance(event.body, kind)]


def go(agent, *, watch=None):
    """Run an agent to its end, calling ``watch`` with what it emits; its result and events."""

    async def follow(app):
        async for _, value in app.client.stream("r"):
            if watch is not None:
                watch(value)

    async def main():
        async with hf.App(MemoryStore(), agents=[agent]) as app, asyncio.TaskGroup() as tasks:
            await app.client.start(agent, "", id="r")
            tasks.create_task(follow(app))
            result = await app.run(agent, "", id="r")
            return result, await app.client.events("r")

    return asyncio.run(main())


def async_reader(provider, library=None, *, emit=True):
    @hf.agent
    async def read(_: str) -> str:
        model, text = provider.model(library), ""
        async for chunk in await model.chat.completions.create(
            model="m", messages=MESSAGES, stream=True
        ):
            piece = chunk.choices[0].delta.content
            text += piece
            if emit:
                hf.emit(piece)
        return text

    return read


def sync_reader(provider, library=None):
    @hf.agent
    def read(_: str) -> str:
        model, text = provider.sync_model(library), ""
        for chunk in model.chat.completions.create(model="m", messages=MESSAGES, stream=True):
            piece = chunk.choices[0].delta.content
            text += piece
            hf.emit(piece)
        return text

    return read


READERS = pytest.mark.parametrize("reader", [async_reader, sync_reader], ids=["async", "sync"])


@READERS
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_token_reaches_a_follower_before_the_next_one_is_sent(
    provider, http, replay, library, reader
):
    seen = {"One, ": threading.Event(), "zw€i, ": threading.Event()}

    def after(piece):
        return lambda _: seen[piece].wait(http.WAIT_S) or pytest.fail(f"{piece!r} never came")

    provider.answers = [http.stream("One, ", after("One, "), "zw€i, ", after("zw€i, "), "three.")]
    read = reader(provider, library)
    result, events = go(read, watch=lambda piece: piece in seen and seen[piece].set())
    assert result == "One, zw€i, three."
    (finished,) = of_type(events, ev.StepFinished)
    assert not of_type(events, ev.StepAbandoned)
    assert finished.body.key == f"POST 127.0.0.1:{provider.port}/v1/chat/completions#1"
    assert len(provider.requests) == 1

    provider.stop()
    assert replay(read, events)


@READERS
@pytest.mark.parametrize("quietly", [True, False], ids=["ended", "broken-off"])
def test_a_cut_stream_is_made_again_and_the_agent_sees_it_once(
    provider, http, replay, reader, quietly
):
    cut = http.stream("Hel", "lo wo", end=b"", quietly=quietly)
    provider.answers = [cut, cut, http.stream("Hello ", "world")]
    read = reader(provider)
    result, events = go(read)
    assert result == "Hello world"
    failed = of_type(events, ev.StepFailed)
    assert [event.body.attempt for event in failed] == [1, 2]
    assert {json.loads(event.payload)["type"] for event in failed} == {"RemoteProtocolError"}
    assert len(provider.requests) == 3

    provider.stop()
    assert replay(read, events)


def test_a_stream_that_is_always_cut_is_the_librarys_error_in_the_end(provider, http, replay):
    provider.answers = [http.stream("Hel", end=b"")]

    @hf.agent
    async def read(_: str) -> str:
        client = hf.async_http_client(library="httpx")
        body = {"stream": True}
        try:
            async with client.stream("POST", f"{provider.url}/completions", json=body) as response:
                return (await response.aread()).decode()
        except httpx.RemoteProtocolError as error:
            return str(error)

    result, events = go(read)
    assert result.endswith("the stream ended without its end marker [DONE]")
    assert len(provider.requests) == 4
    provider.stop()
    assert replay(read, events)


def test_a_stream_cut_after_the_agent_acted_on_a_part_is_an_error(provider, http, replay):
    noted = threading.Event()
    provider.answers = [
        http.stream("Hel", lambda _: noted.wait(http.WAIT_S), "lo", end=b""),
        http.stream("Hello"),
    ]
    notes = []

    @hf.tool(effect="once")
    async def note(piece: str) -> None:
        notes.append(piece)
        noted.set()

    @hf.agent
    async def read(_: str) -> str:
        model, text = provider.model(max_retries=0), ""
        try:
            async for chunk in await model.chat.completions.create(
                model="m", messages=MESSAGES, stream=True
            ):
                piece = chunk.choices[0].delta.content
                text += piece
                await note(piece)
        except Exception as error:  # noqa: BLE001 - which one, is what is shown
            return f"{text}: {type(error).__name__}"
        return text

    result, events = go(read)
    assert result == "Hello: APIConnectionError"
    assert notes == ["Hel", "lo"]
    assert len(provider.requests) == 1
    provider.stop()
    assert replay(read, events)


def test_a_refusal_of_a_stream_is_an_outcome_and_the_client_asks_again(provider, http, replay):
    provider.answers = [http.refuse(429, {"retry-after": "0.01"}), http.stream("Hello")]
    read = async_reader(provider)
    result, events = go(read)
    assert result == "Hello"
    keys = [event.body.key for event in of_type(events, ev.StepFinished)]
    assert [key[-2:] for key in keys] == ["#1", "#2"]
    assert not of_type(events, ev.StepFailed)
    provider.stop()
    assert replay(read, events)


def test_a_stream_that_cannot_begin_is_left_to_the_client(provider, replay):
    """Its own retries decide, as for any other request: no attempts are made below them."""
    provider.stop()

    @hf.agent
    async def read(_: str) -> str:
        model = provider.model(max_retries=1)
        try:
            await model.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        except Exception as error:  # noqa: BLE001 - which one, is what is shown
            return f"{type(error).__name__}: {type(error.__cause__).__name__}"
        return ""

    result, events = go(read)
    assert result == "APIConnectionError: ConnectError"
    failed = of_type(events, ev.StepFailed)
    assert [(event.body.attempt, event.body.final) for event in failed] == [(1, True)] * 2
    assert replay(read, events)


def test_an_agent_that_leaves_a_stream_hangs_up(provider, http, replay):
    left = threading.Event()

    def wait(connection):
        if connection.wait_until_client_leaves():
            left.set()

    provider.answers = [http.stream("first", wait, end=b"")]

    @hf.agent
    async def peek(_: str) -> str:
        model = provider.model()
        async with await model.chat.completions.create(
            model="m", messages=MESSAGES, stream=True
        ) as chunks:
            async for chunk in chunks:
                return chunk.choices[0].delta.content
        return ""

    result, events = go(peek)
    assert result == "first"
    assert left.wait(http.WAIT_S)
    assert len(of_type(events, ev.StepAbandoned)) == 1
    assert replay(peek, events)


def test_characters_cut_in_two_and_bytes_that_are_no_text_come_whole(provider, http, replay):
    euro = "€".encode()
    provider.answers = [
        http.stream(b"data: " + euro[:1], euro[1:2], euro[2:] + b"\xff\n\n", euro[:2], end=b""),
    ]

    @hf.agent
    async def read(_: str) -> str:
        client = hf.async_http_client(headers={"accept": "text/event-stream"})
        async with client.stream("GET", f"{provider.url}/feed") as response:
            return (await response.aread()).hex()

    result, events = go(read)
    assert bytes.fromhex(result) == b"data: " + euro + b"\xff\n\n" + euro[:2]
    assert replay(read, events)


def test_a_server_that_stays_on_the_line_after_the_end_marker_is_not_waited_for(
    provider, http, replay, monkeypatch
):
    monkeypatch.setattr("holdfast.integrations.http_exchange.AFTER_END_S", 0.05)
    over, ended_by_us = threading.Event(), queue.Queue()

    def stay(_):
        ended_by_us.put(over.wait(http.WAIT_S))

    provider.answers = [http.stream("Hello", http.DONE, stay, end=b"")]
    read = async_reader(provider)
    result, events = go(read)
    over.set()
    assert ended_by_us.get(timeout=http.WAIT_S)
    assert result == "Hello"
    assert len(of_type(events, ev.StepFinished)) == 1
    assert replay(read, events)


@pytest.mark.parametrize(
    ("path", "marker"),
    [
        ("messages", b"event: message_stop\ndata: {}\n\n"),
        ("responses", b'event: response.completed\ndata: {"type":"response.completed"}\n\n'),
        ("responses", b'data: {"type": "response.incomplete"}\n\n'),
    ],
)
def test_each_protocol_has_its_own_end_marker(provider, http, replay, path, marker):
    begin = b'event: x\ndata: {"said": "message_stop response.completed"}\n\n'
    cut, whole = http.stream(begin, end=b""), http.stream(begin, marker[:9], marker[9:], end=b"")
    provider.answers = [cut, whole]

    @hf.agent
    async def read(_: str) -> str:
        client = hf.async_http_client()
        async with client.stream("POST", f"{provider.url}/{path}", json={"stream": True}) as answer:
            return (await answer.aread()).decode()

    result, events = go(read)
    assert result == (begin + marker).decode()
    assert len(provider.requests) == 2
    assert replay(read, events)
