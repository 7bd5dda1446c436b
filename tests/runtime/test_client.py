"""What a client may rely on: one id is one run, results are typed, streams resume and retract.

Goal: each promise of the docstrings. Method: an App on a memory store with a worker beside it;
the sync client on a SQLite file.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import holdfast as hf
from holdfast.stores.memory import MemoryStore

CUTS: list[int] = []


@dataclass
class Receipt:
    cents: int


@dataclass
class Chat:
    heard: int = 0


@hf.step
async def tokens(n: int) -> AsyncIterator[str]:
    for i in range(n):
        if i == 2 and not CUTS:
            CUTS.append(1)
            raise ConnectionError("cut")
        yield f"t{i}"


@hf.agent
async def buy(cents: int) -> Receipt:
    return Receipt(cents)


@hf.agent
async def talk(n: int) -> str:
    heard = []
    async for token in tokens(n):
        hf.emit(token)
        heard.append(token)
    return "".join(heard)


@hf.agent
async def support(state: Chat, message: str) -> str:
    state.heard += 1
    if message == "poison":
        raise ValueError("cannot")
    return f"{message} {state.heard}"


@hf.agent
async def patient(_: None) -> str:
    try:
        return await hf.receive("never", str)
    finally:
        hf.emit("cleaned up")


AGENTS = [buy, talk, support, patient]


def with_app(main):
    async def run():
        async with hf.App(MemoryStore(), agents=AGENTS) as app, app.working():
            async with asyncio.timeout(20):
                return await main(app.client)

    return asyncio.run(run())


def test_an_id_given_twice_is_one_run_with_one_typed_result():
    async def main(client):
        assert await client.start(buy, 5, id="r") == "r"
        assert await client.start(buy, 7, id="r") == "r"
        assert await client.result("r") == Receipt(5)
        with pytest.raises(hf.RunConflict, match="agent:buy"):
            await client.start(talk, 1, id="r")

    with_app(main)


def test_wrong_inputs_name_the_path_and_start_nothing():
    async def main(client):
        with pytest.raises(hf.CodecError, match=r"the input of agent 'buy', \$: .*integer"):
            await client.start(buy, "much", id="r")
        with pytest.raises(hf.RunUnknown, match="no run 'r'"):
            await client.row("r")
        with pytest.raises(hf.UsageError, match="begin with '\\$'"):
            await client.start(buy, 1, id="$cancel")
        with pytest.raises(hf.UsageError, match="agent 'nobody' is unknown here; known are buy"):
            await client.start("nobody", 1)

    with_app(main)


def test_messages_are_turns_and_a_failed_one_leaves_the_state_as_it_was():
    async def main(client):
        run = await client.start(support, id="s")
        for name, text in [("m1", "hello"), ("m1", "hello"), ("m2", "poison"), ("m3", "bye")]:
            await client.message(run, text, id=name)
        assert await client.result(run, message="m1") == "hello 1"
        with pytest.raises(hf.RunFailed, match="ValueError: cannot"):
            await client.result(run, message="m2")
        assert await client.result(run, message="m3") == "bye 2"
        assert (await client.row(run)).turn == 3

    with_app(main)


def test_a_stream_retracts_what_a_cut_attempt_had_emitted_and_resumes_anywhere():
    CUTS.clear()

    async def main(client):
        run = await client.start(talk, 4, id="t")
        seen = [item async for item in client.stream(run)]
        assert await client.result(run) == "t0t1t2t3"
        (retraction,) = [value for _, value in seen if isinstance(value, hf.Retracted)]
        left = [value for seq, value in seen if seq not in retraction.seqs]
        assert [v for v in left if v != retraction] == ["t0", "t1", "t2", "t3"]
        for place in range(len(seen)):
            again = [item async for item in client.stream(run, after=seen[place][0])]
            assert again == seen[place + 1 :]

    with_app(main)


def test_a_cancelled_run_cleans_up_and_says_so():
    async def main(client):
        run = await client.start(patient, None, id="p")
        await client.cancel(run, by="test")
        with pytest.raises(hf.RunWasCancelled):
            await client.result(run)
        assert [value async for _, value in client.stream(run)] == ["cleaned up"]
        await client.cancel(run)
        with pytest.raises(hf.UsageError, match="takes no more messages"):
            await client.message(run, 1, topic="never")

    with_app(main)


def test_resolving_what_is_not_in_doubt_is_refused():
    async def main(client):
        await client.start(buy, 1, id="r")
        with pytest.raises(hf.UsageError, match="not in doubt"):
            await client.resolve("r", "refund#1", did_not=True, by="me")
        with pytest.raises(hf.UsageError, match="either"):
            await client.resolve("r", "refund#1", by="me")
        with pytest.raises(hf.UsageError, match="not diverged"):
            await client.accept("r", by="me")

    with_app(main)


def test_prefixes_find_one_run_or_say_why_not():
    async def main(client):
        for name in ("order-1", "order-2", "offer-1"):
            await client.start(buy, 1, id=name)
        assert await client.find("of") == "offer-1"
        with pytest.raises(hf.RunUnknown, match="2 runs begin with 'order-'"):
            await client.find("order-")
        with pytest.raises(hf.RunUnknown, match="no run's id begins with 'x'"):
            await client.find("x")

    with_app(main)


def test_the_sync_client_does_as_the_async_one(tmp_path: Path):
    with hf.connect(tmp_path / "s.db", agents=AGENTS) as client:
        run = client.start(talk, 1, id="t")
        assert hf.run(talk, 1, id="t", store=tmp_path / "s.db") == "t0"
        assert client.result(run) == "t0"
        assert [value for _, value in client.stream(run)] == ["t0"]
        with pytest.raises(hf.RunUnknown):
            client.row("nope")


def test_in_async_code_hf_run_says_what_to_do_instead():
    async def main():
        hf.run(buy, 1)

    with pytest.raises(hf.UsageError, match=r"async with hf\.App"):
        asyncio.run(main())


def test_an_app_without_async_says_what_to_do():
    with pytest.raises(hf.UsageError, match=r"async with hf\.App"), hf.App("nowhere.db"):
        pass
