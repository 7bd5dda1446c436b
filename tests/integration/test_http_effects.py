"""Requests that act on the world keep their effect contract.

*Goal*: a status that says nothing about the deed is not handed to the agent: ``idempotent``
requests are sent again under one key, ``once`` requests are in doubt; what provably did nothing is
an outcome, or is tried again. *Method*: a real server that acts and then answers 500, counts deeds
by key, or refuses.
"""

import asyncio
import json
import socket
from collections import Counter

import pytest

import holdfast as hf
from holdfast.core import events as ev
from holdfast.stores.memory import MemoryStore


def of_type(events, kind):
    return [event for event in events if isinstance(event.body, kind)]


def go(agent, *, store=None):
    async def main():
        async with hf.App(store or MemoryStore(), agents=[agent]) as app:
            return await app.run(agent, "", id="r"), await app.client.events("r")

    return asyncio.run(main())


def posting(provider, **options):
    @hf.agent
    async def post(_: str) -> str:
        answer = await hf.async_http_client(**options).post(provider.url, json={"cents": 500})
        return f"{answer.status_code} {answer.text}"

    return post


class Till:
    """Does a deed once per key, and answers as it is told."""

    def __init__(self, *statuses, headers=()):
        self.deeds = Counter()
        self.statuses = list(statuses)
        self.headers = headers

    def __call__(self, connection):
        self.deeds[connection.seen.headers.get("idempotency-key", "")] += 1
        status = self.statuses.pop(0) if self.statuses else 200
        connection.reply(status, {"said": status}, self.headers if status != 200 else ())


@pytest.mark.parametrize("library", ["httpx2", "httpx"])
@pytest.mark.parametrize("kind", ["async", "sync"])
def test_a_500_after_the_deed_is_tried_again_under_the_same_key(provider, replay, library, kind):
    till = Till(500, 429)
    provider.answers = [till]
    post = posting(provider, library=library, effects={"post": "idempotent"})

    @hf.agent
    def sync_post(_: str) -> str:
        client = hf.http_client(library=library, effects={"POST": "idempotent"})
        answer = client.post(provider.url, json={"cents": 500})
        return f"{answer.status_code} {answer.text}"

    post = post if kind == "async" else sync_post
    result, events = go(post)
    assert result == '200 {"said": 200}'
    (key,) = till.deeds
    assert key.startswith("hf-")
    assert till.deeds[key] == 3
    started = of_type(events, ev.StepStarted)
    assert [(e.body.key[-2:], e.body.effect, e.body.attempt) for e in started] == [
        ("#1", "idempotent", 1), ("#1", "idempotent", 2), ("#1", "idempotent", 3)
    ]  # fmt: skip
    provider.stop()
    assert replay(post, events)


def test_retry_after_is_honoured(provider):
    provider.answers = [Till(503, headers={"retry-after": "0.4"})]
    result, events = go(posting(provider, effect="idempotent"))
    assert result.startswith("200")
    (failed,), (_, again) = of_type(events, ev.StepFailed), of_type(events, ev.StepStarted)
    assert again.at - failed.at >= 400_000


def test_the_users_own_key_is_sent_and_a_random_one_is_not(provider, replay):
    provider.answers = [Till()]

    @hf.agent
    async def post(_: str) -> None:
        client = hf.async_http_client(effect="idempotent")
        for key in ("order-7", "stainless-python-retry-1", "0c7f1e3c-7d43-4d5e-9f0a-1c2b3d4e5f60"):
            await client.post(provider.url, headers={"idempotency-key": key})

    _, events = go(post)
    sent = [seen.headers["idempotency-key"] for seen in provider.requests]
    assert sent[0] == "order-7"
    assert all(key.startswith("hf-") for key in sent[1:])
    assert len(set(sent)) == 3
    assert replay(post, events)


@pytest.mark.parametrize("effect", ["idempotent", "once"])
@pytest.mark.parametrize("status", [201, 303, 404, 422])
def test_a_clear_answer_is_the_outcome(provider, replay, effect, status):
    provider.answers = [Till(status)]
    post = posting(provider, effect=effect)
    result, events = go(post)
    assert result == f'{status} {{"said": {status}}}'
    assert len(provider.requests) == 1
    assert replay(post, events)


@pytest.mark.parametrize("status", [500, 502, 408, 409, 425, 429])
def test_an_unclear_answer_to_a_once_request_is_a_doubt_that_a_person_settles(provider, status):
    provider.answers = [Till(status)]
    post = posting(provider, effect=lambda request: "once" if request.method == "POST" else "read")

    async def main():
        async with hf.App(MemoryStore(), agents=[post]) as app:
            with pytest.raises(hf.RunParked, match="in doubt"):
                await app.run(post, "", id="r")
            (key,) = [e.body.key for e in of_type(await app.client.events("r"), ev.StepDoubted)]
            happened = {"status": 200, "body": "seen in the ledger"}
            await app.client.resolve("r", key, happened=happened, by="ann")
            return await app.run(post, "", id="r")

    assert asyncio.run(main()) == "200 seen in the ledger"
    assert len(provider.requests) == 1


def test_a_refused_connection_did_nothing_and_is_tried_again(http, replay):
    till, server = Till(), http.Provider()
    server.answers = [till]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        server.port = free.getsockname()[1]
    server.url = f"http://127.0.0.1:{server.port}"
    post = posting(server, effect="once")

    async def open_late(app):
        async for _, event in app.client.stream("r", values=False):
            if isinstance(event.body, ev.StepFailed):
                server.url = server.start(server.port).url
                return

    async def main():
        async with hf.App(MemoryStore(), agents=[post]) as app, asyncio.TaskGroup() as tasks:
            await app.client.start(post, "", id="r")
            tasks.create_task(open_late(app))
            return await app.run(post, "", id="r"), await app.client.events("r")

    result, events = asyncio.run(main())
    server.stop()
    assert result.startswith("200")
    assert till.deeds.total() == 1
    failed = of_type(events, ev.StepFailed)
    assert {json.loads(event.payload)["type"] for event in failed} == {"ConnectError"}
    server.url = f"http://127.0.0.1:{server.port}"
    assert replay(post, events)


def test_a_connection_lost_after_sending_is_a_doubt(provider):
    provider.answers = [lambda connection: connection.hang_up()]
    post = posting(provider, effect="once")
    with pytest.raises(hf.RunParked, match="in doubt"):
        go(post)
    assert len(provider.requests) == 1


def test_an_effect_that_streams_is_read_whole_and_must_be_whole(provider, http, replay):
    provider.answers = [http.stream("Hel", end=b""), http.stream("Hello")]

    @hf.agent
    async def post(_: str) -> str:
        client = hf.async_http_client(effect="idempotent")
        answer = await client.post(f"{provider.url}/chat/completions", json={"stream": True})
        return answer.text

    result, events = go(post)
    assert result == (http.piece("Hello") + http.DONE).decode()
    first, second = (seen.headers["idempotency-key"] for seen in provider.requests)
    assert first == second
    assert not of_type(events, ev.StepEmitted)
    assert replay(post, events)
