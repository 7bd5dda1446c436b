"""Requests sent in a run are steps.

*Goal*: with ``hf.http_client`` and ``hf.async_http_client`` the stock OpenAI client and plain calls
are recorded, replayed without a network, and keep their secrets and their error classes. *Method*:
real servers on this machine, both libraries, sync and async; after each run its server is stopped
and its log fed to the agent again.
"""

import asyncio
import base64
import gzip
import importlib
import json
import re
import socket
import subprocess
import sys
import threading
import uuid
import warnings

import pytest

import holdfast as hf
from holdfast.core import events as ev
from holdfast.runtime import context
from holdfast.stores.memory import MemoryStore

LIBRARIES = ["httpx2", "httpx"]


def go(agent, given, *, store=None, run="r"):
    """Run an agent to its end; returns its result and its events."""

    async def main():
        async with hf.App(store or MemoryStore(), agents=[agent]) as app:
            return await app.run(agent, given, id=run), await app.client.events(run)

    return asyncio.run(main())


def of_type(events, kind):
    return [event for event in events if isinstance(event.body, kind)]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("kind", ["async", "sync"])
def test_a_completion_is_one_step_and_is_replayed_with_the_server_gone(
    provider, http, replay, library, kind
):
    provider.answers = [http.say("first"), http.say("second")]

    def ask(text):
        return {"model": "m", "messages": [{"role": "user", "content": text}]}

    @hf.agent
    async def async_chat(text: str) -> list[str]:
        model = provider.model(library)
        answers = [await model.chat.completions.create(**ask(text)) for _ in range(2)]
        return [answer.choices[0].message.content for answer in answers]

    @hf.agent
    def sync_chat(text: str) -> list[str]:
        model = provider.sync_model(library)
        answers = [model.chat.completions.create(**ask(text)) for _ in range(2)]
        return [answer.choices[0].message.content for answer in answers]

    chat = async_chat if kind == "async" else sync_chat
    result, events = go(chat, "hi")
    assert result == ["first", "second"]
    name = f"POST 127.0.0.1:{provider.port}/v1/chat/completions"
    started = of_type(events, ev.StepStarted)
    assert [event.body.key for event in started] == [f"{name}#1", f"{name}#2"]
    recorded = json.loads(started[0].payload)
    assert recorded["method"] == "POST"
    assert recorded["url"] == f"{provider.url}/chat/completions"
    assert recorded["json"] == ask("hi")
    assert [seen.json for seen in provider.requests] == [ask("hi"), ask("hi")]

    provider.stop()
    assert replay(chat, events)
    assert len(provider.requests) == 2


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("kind", ["async", "sync"])
def test_a_rate_limit_is_an_outcome_and_the_client_waits_on_a_durable_timer(
    provider, http, replay, library, kind
):
    provider.answers = [http.refuse(429, {"retry-after": "0.3"}), http.say("at last")]

    @hf.agent(name="chat")
    async def async_chat(text: str) -> str:
        model = provider.model(library)
        messages = [{"role": "user", "content": text}]
        answer = await model.chat.completions.create(model="m", messages=messages)
        return answer.choices[0].message.content

    @hf.agent(name="chat")
    def sync_chat(text: str) -> str:
        model = provider.sync_model(library)
        messages = [{"role": "user", "content": text}]
        answer = model.chat.completions.create(model="m", messages=messages)
        return answer.choices[0].message.content

    chat = async_chat if kind == "async" else sync_chat
    result, events = go(chat, "hi")
    assert result == "at last"
    refused, answered = of_type(events, ev.StepFinished)
    assert json.loads(refused.payload)["status"] == 429
    assert json.loads(answered.payload)["status"] == 200
    (_, again), (timer,) = of_type(events, ev.StepStarted), of_type(events, ev.TimerFired)
    assert refused.seq < timer.seq < again.seq
    assert again.at - refused.at >= 300_000

    provider.stop()
    assert replay(chat, events)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("kind", ["async", "sync"])
def test_errors_of_the_transport_are_the_librarys_own_live_and_on_replay(
    provider, http, replay, library, kind
):
    lib = importlib.import_module(library)
    release = threading.Event()
    provider.answers = [
        lambda connection: release.wait(http.WAIT_S) and connection.hang_up(),
        lambda connection: connection.hang_up(),
        lambda connection: connection.reply(200, b"not gzip", {"content-encoding": "gzip"}),
    ]
    with socket.socket() as taken:  # bound and not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{taken.getsockname()[1]}/"

        def names(error):
            assert error.request.url
            return f"{type(error).__module__}.{type(error).__name__}"

        @hf.agent
        async def async_try(_: str) -> list[str]:
            client, seen = hf.async_http_client(library=library, timeout=5), []
            for url, timeout in [(nobody, 5), (provider.url, 0.1), *[(provider.url, 5)] * 2]:
                try:
                    await client.get(url, timeout=timeout)
                except lib.RequestError as error:
                    seen.append(names(error))
            return seen

        @hf.agent
        def sync_try(_: str) -> list[str]:
            client, seen = hf.http_client(library=library, timeout=5), []
            for url, timeout in [(nobody, 5), (provider.url, 0.1), *[(provider.url, 5)] * 2]:
                try:
                    client.get(url, timeout=timeout)
                except lib.RequestError as error:
                    seen.append(names(error))
            return seen

        attempt = async_try if kind == "async" else sync_try
        result, events = go(attempt, "")
    release.set()
    wanted = ["ConnectError", "ReadTimeout", "RemoteProtocolError", "DecodingError"]
    assert result == [f"{library}.{name}" for name in wanted]
    failed = of_type(events, ev.StepFailed)
    assert [json.loads(event.payload)["type"] for event in failed] == wanted
    timed_out = of_type(events, ev.StepStarted)[1], failed[1]
    assert timed_out[1].at - timed_out[0].at < 3_000_000  # by the request's timeout, not another's
    assert all(event.body.final for event in failed)  # whether to try again is the caller's matter

    provider.stop()
    assert replay(attempt, events)


def test_the_answer_comes_decoded_whatever_it_is(provider, replay):
    text, binary = "grüße €", bytes(range(256))
    packed = gzip.compress(text.encode())
    provider.answers = [
        lambda c: c.reply(200, packed, {"content-encoding": "gzip", "x-two": "2"}),
        lambda c: c.reply(404, binary, {"content-type": "application/octet-stream"}),
        lambda c: c.reply(
            200, "grüße".encode("latin-1"), {"content-type": "text/plain; charset=latin-1"}
        ),
        lambda c: c.reply(204, b"", {"set-cookie": "session=cookie-value"}),
    ]

    @hf.agent
    async def fetch(_: str) -> list[str]:
        client = hf.async_http_client()
        seen = []
        for path in ("packed", "binary", "latin", "nothing"):
            response = await client.get(f"{provider.url}/{path}")
            seen.append(f"{response.status_code} {response.headers.get('x-two')} {response.text!r}")
            assert response.elapsed is not None
            assert not {"content-encoding", "set-cookie"} & response.headers.keys()
            if path == "binary":
                assert response.content == binary
        return [seen[0], seen[2], seen[3]]

    result, events = go(fetch, "")
    assert result == [f"200 2 {text!r}", "200 None 'grüße'", "204 None ''"]
    assert b"cookie-value" not in b"".join(event.payload or b"" for event in events)
    assert replay(fetch, events)


def test_secrets_appear_nowhere_in_the_store(provider, replay, tmp_path):
    secrets = {
        name: f"{name}-must-stay-out"
        for name in ("bearer", "cookie", "query", "user", "form", "deep")
    }
    store = str(tmp_path / "holdfast.db")
    provider.answers = [
        lambda c: c.reply(200, {"ok": True}, {"set-cookie": "sid=sid-must-stay-out"})
    ]

    @hf.agent
    async def fetch(_: str) -> str:
        client = hf.async_http_client(
            headers={"authorization": f"Bearer {secrets['bearer']}", "x-api-key": secrets["deep"]},
            cookies={"session": secrets["cookie"]},
        )
        url = provider.url.replace("://", f"://ann:{secrets['user']}@")
        await client.get(url, params={"page": "7", "api_key": secrets["query"]})
        await client.post(provider.url, data={"client_secret": secrets["form"], "open": "form"})
        body = {"tools": [{"server": "x", "authorization": secrets["deep"]}], "key": "shown"}
        await client.post(provider.url, json=body)
        bad = {"authorization": f"Bearer {secrets['bearer']}\n"}  # h11 quotes it as it refuses it
        try:
            await client.get(provider.url, headers=bad)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is to be shown
            return f"{type(error).__name__}: {error}"
        return ""

    result, events = go(fetch, "", store=store)
    assert "LocalProtocolError: Illegal header value" in result

    basic = base64.b64encode(f"ann:{secrets['user']}".encode()).decode()
    sent = "".join(f"{seen.path} {seen.headers} {seen.body}" for seen in provider.requests)
    missing = [secret for secret in (*secrets.values(), basic) if secret not in sent]
    assert missing == [secrets["user"]]  # which went as ``basic``

    shown = b"".join(repr(event.body).encode() + (event.payload or b"") for event in events)
    files = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for secret in ("must-stay-out", basic, "Bearer", "ann:"):
        assert secret.encode() not in shown, secret
        assert secret.encode() not in files, secret
    for harmless in (b"page=7", b"api_key=REDACTED", b"open=form", b'"key":"shown"'):
        assert harmless in shown
    assert replay(fetch, events)


def test_boundaries_and_keys_drawn_at_random_are_the_same_request_again(provider, replay):
    @hf.agent
    async def upload(_: str) -> int:
        client = hf.async_http_client()
        for name in ("stainless-python-retry-", ""):
            key = f"{name}{uuid.uuid4()}"  # the fault of many a client: drawn anew on each replay
            files = {"file": ("a.txt", b"grain", "text/plain")}
            await client.post(provider.url, files=files, headers={"idempotency-key": key})
        return 2

    _, events = go(upload, "")
    assert replay(upload, events)
    sent = [
        re.search("boundary=(.*)", seen.headers["content-type"])[1] for seen in provider.requests
    ]
    assert len(set(sent)) == 2  # the real requests kept theirs
    assert all(b.encode() in seen.body for b, seen in zip(sent, provider.requests, strict=True))


def test_another_body_under_the_same_step_is_a_divergence(provider, replay):
    said = ["one"]

    @hf.agent
    async def post(_: str) -> int:
        client = hf.async_http_client()
        return (await client.post(provider.url, json={"say": said[0]})).status_code

    _, events = go(post, "")
    assert replay(post, events)
    said[0] = "two"
    with pytest.raises(hf.Diverged, match=r'"say":"one".*"say":"two"'):
        replay(post, events)


def test_twenty_requests_are_under_way_at_once(provider, http, replay):
    all_there = threading.Barrier(20)

    def answer(connection):
        all_there.wait(http.WAIT_S)
        connection.reply(200, {"path": connection.seen.path})

    provider.answers = [answer]

    @hf.agent
    async def fan_out(_: str) -> list[str]:
        client = hf.async_http_client()
        answers = await asyncio.gather(*(client.get(f"{provider.url}/{i}") for i in range(20)))
        return [answer.json()["path"] for answer in answers]

    result, events = go(fan_out, "")
    assert result == [f"/v1/{i}" for i in range(20)]
    assert replay(fan_out, events)


def test_giving_up_on_a_read_hangs_up(provider, http, replay):
    asked, left = threading.Event(), threading.Event()

    def answer(connection):
        asked.set()
        if connection.wait_until_client_leaves():
            left.set()
        connection.hang_up()

    provider.answers = [answer]

    @hf.step
    async def request_is_there() -> bool:
        return await asyncio.to_thread(asked.wait, http.WAIT_S)

    @hf.agent
    async def impatient(_: str) -> str:
        try:
            async with asyncio.timeout(None) as patience:
                read = hf.async_http_client(timeout=60).get(provider.url)
                reading = asyncio.create_task(read)
                assert await request_is_there()
                patience.reschedule(asyncio.get_running_loop().time())
                await reading
        except TimeoutError:
            return "gave up"
        return "got it"

    async def main():
        async with hf.App(MemoryStore(), agents=[impatient]) as app:
            result = await app.run(impatient, "", id="r")
            assert await asyncio.to_thread(left.wait, http.WAIT_S)
            return result, await app.client.events("r")

    result, events = asyncio.run(main())
    assert result == "gave up"
    assert len(of_type(events, ev.StepAbandoned)) == 1
    assert replay(impatient, events)


def test_in_the_body_of_a_step_a_request_is_just_sent(provider):
    @hf.step
    async def async_fetch(url: str) -> int:
        async with hf.async_http_client() as client:
            return (await client.get(url)).status_code

    @hf.step
    def sync_fetch(url: str) -> int:
        with hf.http_client() as client:
            return client.get(url).status_code

    @hf.agent
    async def fetch(_: str) -> int:
        return await async_fetch(provider.url) + sync_fetch(provider.url)

    result, events = go(fetch, "")
    assert result == 400
    keys = [event.body.key for event in of_type(events, ev.StepStarted)]
    assert keys == ["async_fetch#1", "sync_fetch#1"]


@pytest.mark.parametrize("library", LIBRARIES)
def test_outside_a_run_a_request_is_sent_with_one_warning(provider, library, monkeypatch):
    monkeypatch.setattr(context, "_WARNED", set())

    async def fetch():
        async with hf.async_http_client(library=library) as client:
            with pytest.warns(hf.NonDurableWarning, match="an HTTP request"):
                first = await client.post(provider.url, json={"a": 1})
            async with client.stream("GET", provider.url) as second:
                await second.aread()
            return first.status_code, second.json()["model"]

    assert asyncio.run(fetch()) == (200, "m")
    with hf.http_client(library=library) as client, warnings.catch_warnings():
        warnings.simplefilter("error")
        assert client.get(provider.url).json()["model"] == "m"
    assert [seen.method for seen in provider.requests] == ["POST", "GET", "GET"]


def test_the_client_is_the_librarys_own_and_passes_its_arguments_on(provider, replay):
    httpx2, httpx = importlib.import_module("httpx2"), importlib.import_module("httpx")
    hooked = []

    async def hook(response):
        hooked.append(response.status_code)

    @hf.agent
    async def fetch(_: str) -> str:
        client = hf.async_http_client(
            base_url=provider.url,
            headers={"x-ours": "1"},
            params={"q": "2"},
            follow_redirects=True,
            event_hooks={"response": [hook]},
        )
        return str((await client.get("/there")).url)

    assert type(hf.async_http_client()) is httpx2.AsyncClient
    assert type(hf.http_client(library="httpx")) is httpx.Client
    provider.answers = [
        lambda c: c.reply(307, b"", {"location": "/v1/moved"}),
        lambda c: c.reply(200, {}),
    ]
    result, events = go(fetch, "")
    assert result == f"{provider.url}/moved"
    assert [seen.path for seen in provider.requests] == ["/v1/there?q=2", "/v1/moved"]
    assert provider.requests[0].headers["x-ours"] == "1"
    assert hooked == [307, 200]
    assert len(of_type(events, ev.StepFinished)) == 2
    assert replay(fetch, events)


def test_what_connects_is_the_users_choice_too(provider, replay):
    httpx2 = importlib.import_module("httpx2")
    transport = httpx2.MockTransport(lambda request: httpx2.Response(200, text=request.url.host))

    @hf.agent
    async def fetch(_: str) -> list[str]:
        mocked = hf.async_http_client(transport=transport)
        sync_mocked = hf.http_client(mounts={"all://": transport})
        proxied = hf.async_http_client(proxy=provider.url)
        return [
            (await mocked.get("https://one.invalid")).text,
            sync_mocked.get("https://two.invalid").text,
            (await proxied.get("http://three.invalid/x")).json()["model"],
        ]

    result, events = go(fetch, "")
    assert result == ["one.invalid", "two.invalid", "m"]
    assert [seen.path for seen in provider.requests] == ["http://three.invalid/x"]
    assert replay(fetch, events)


def test_no_library_is_imported_before_it_is_asked_for():
    code = (
        "import sys, holdfast as hf; hf.http_client;"
        "assert not {'httpx', 'httpx2', 'pydantic'} & sys.modules.keys();"
        "hf.async_http_client(library='httpx'); assert 'httpx2' not in sys.modules;"
        "hf.http_client(); assert 'httpx2' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_library_and_a_wrong_contract_are_clear_errors(monkeypatch):
    with pytest.raises(hf.UsageError, match="expected 'httpx2' or 'httpx'"):
        hf.http_client(library="requests")
    with pytest.raises(hf.UsageError, match=r"effect='transactional'.*'read', 'idempotent'"):
        hf.http_client(effects={"POST": "transactional"})
    with pytest.raises(hf.UsageError, match="effect='sometimes'"):
        hf.async_http_client(effect="sometimes")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(hf.UsageError, match=r"httpx2 and httpx .*pip install 'holdfast\[http\]'"):
        hf.http_client()
    with pytest.raises(hf.UsageError, match=r"^httpx cannot be imported"):
        hf.http_client(library="httpx")
