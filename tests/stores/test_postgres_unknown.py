"""An answer that was lost: what was written is written once, and whoever waits hears the truth.

*Goal*: no connection that breaks, before a commit or behind it, loses or doubles an event, a
message or a run, nor makes a store say of a write that it failed when it did not. *Method*: a proxy
that knows the protocol cuts connections around commits, by seed; a real server; the log is compared
with what was asked for.
"""

import asyncio
import random
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest

from holdfast.core import events as ev
from holdfast.errors import Conflict, StoreUnavailable
from holdfast.stores.postgres import PostgresStore
from holdfast.stores.postgres.link import Link
from holdfast.testing.cutting import CuttingProxy
from holdfast.testing.harness import EVERYTHING, NOTE, begin, claim, hold, insert, letter, transact
from holdfast.testing.postgres import PostgresServer
from holdfast.testing.script import Script, conversation


def writes(statements: list[str]) -> bool:
    return any("UPDATE holdfast.run" in s or "INSERT INTO" in s for s in statements)


@asynccontextmanager
async def closing_store(url):
    store = await PostgresStore.open(url, lease_clock="caller")
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
def through(database, postgres):
    """Open a store through a proxy; run a coroutine function on both."""

    def run(body, **options):
        async def main():
            folder = Path(tempfile.mkdtemp(dir=postgres.folder))
            async with CuttingProxy(folder, postgres.folder) as proxy:
                url = database.replace(str(postgres.folder), str(folder))
                store = await PostgresStore.open(url, lease_clock="caller", **options)
                try:
                    return await body(store, proxy)
                finally:
                    proxy.decide = lambda _: "pass"
                    await store.close()

        with asyncio.Runner() as runner:
            return runner.run(main())

    return run


@pytest.mark.parametrize("fate", ["before", "after", "late"])
def test_a_batch_whose_connection_is_cut_is_written_once(through, fate):
    async def body(store, proxy):
        script = await hold(store)
        cut = iter([fate])
        proxy.decide = lambda statements: next(cut, "pass") if writes(statements) else "pass"
        facts = {"deliver": [letter("to", "m1")], "create": [Script.begin("r/child").new()]}
        await store.append(script.change((ev.StreamEmitted(1), conversation(30)), **facts))
        assert proxy.fates == [fate]
        await proxy.deliver_late()
        assert await store.read("r") == script.events
        assert [m.message.id for m in await store.unread("to")] == ["m1"]
        log = await store.read_log(0, limit=EVERYTHING)
        assert [event.run for _, event in log] == ["r", "r", "r/child"]
        await store.append(script.change(NOTE))

    through(body)


@pytest.mark.parametrize("fate", ["before", "after", "late"])
def test_who_creates_a_run_learns_that_it_was_he(through, fate):
    async def body(store, proxy):
        cut = iter([fate])
        proxy.decide = lambda statements: next(cut, "pass") if writes(statements) else "pass"
        script = Script.begin("r")
        assert await store.create(script.new(), [letter("r", "m1")])
        await proxy.deliver_late()
        assert not await store.create(Script.begin("r", seed=1).new())
        assert [m.message.id for m in await store.unread("r")] == ["m1"]
        assert len(await store.read_log(0, limit=EVERYTHING)) == 1

    through(body)


def test_a_write_whose_place_was_taken_while_its_answer_was_lost_is_refused(through):
    async def body(store, proxy):
        script = await hold(store)
        rival = Script(script.events, at=script.at, epoch=script.epoch)
        taking = rival.change((ev.StreamEmitted(9), b"9"))
        url = store.url.replace(str(proxy.folder), str(proxy.server))
        async with closing_store(url) as other:

            def decide(statements):
                if not writes(statements) or proxy.fates:
                    return "pass"
                taken.append(asyncio.ensure_future(other.append(taking)))
                return "before"

            taken = []
            proxy.decide = decide
            proxy.admit = lambda: asyncio.wait(taken)
            with pytest.raises(Conflict):
                await store.append(script.change(NOTE))
        assert await store.read("r") == rival.events

    through(body)


@pytest.mark.parametrize("fate", ["before", "after"])
def test_a_body_whose_commit_is_cut_takes_effect_once(through, fate):
    async def body(store, proxy):
        script = await hold(store)
        cut = iter([fate])

        def decide(statements):
            return next(cut, "pass") if "COMMIT" in statements else "pass"

        proxy.decide = decide
        change = script.change(NOTE)
        if fate == "after":
            await transact(store, change, lambda tx: insert(tx, 1))
        else:
            with pytest.raises(StoreUnavailable, match="Nothing was written"):
                await transact(store, change, lambda tx: insert(tx, 1))
            await transact(store, change, lambda tx: insert(tx, 1))
        found = []
        await transact(store, script.change(NOTE), lambda tx: found.append(insert(tx, 2)))
        assert found == [[1]]
        assert await store.read("r") == script.events

    through(body)


def test_a_claim_whose_answer_is_lost_is_found_again(through):
    async def body(store, proxy):
        await begin(store)
        cut = iter(["after"])

        def decide(statements):
            return next(cut, "pass") if any("epoch + 1" in s for s in statements) else "pass"

        proxy.decide = decide
        with pytest.raises(StoreUnavailable, match="not known"):
            await claim(store, "ann")
        [held] = await store.held("ann")
        assert (held.row.run, held.epoch) == ("r", 1)

    through(body)


@pytest.mark.parametrize("seed", range(3))
def test_under_random_cuts_all_that_was_asked_for_is_written_once(through, seed):
    chance = random.Random(seed)

    def decide(statements):
        if not writes(statements) or chance.random() > 0.4:
            return "pass"
        return chance.choice(["before", "after", "late"])

    async def body(store, proxy):
        scripts = [await hold(store, f"r{n}") for n in range(8)]
        proxy.decide = decide
        sent = turn = 0
        while turn < 6 or not {"before", "after", "late"} <= set(proxy.fates):
            turn += 1
            calls = []
            for script in scripts:
                sent += 1
                payload = conversation(turn * 4) if chance.random() < 0.5 else b"1"
                mail = [letter("to", f"m{sent}", sender=script.run)]
                calls.append(store.append(script.change((ev.StreamEmitted(turn), payload))))
                calls.append(store.append(script.change(NOTE, deliver=mail)))
            calls.append(store.deliver([letter("to", f"outside {turn}")]))
            await asyncio.gather(*calls)
            await proxy.deliver_late()
        for script in scripts:
            assert await store.read(script.run) == script.events
        ids = [m.message.id for m in await store.unread("to")]
        assert len(ids) == len(set(ids)) == sent + turn
        made, log = sum(len(s.events) for s in scripts), []
        while len(log) < made:  # a backend whose line was cut may be placing events still
            log = await store.read_log(0, limit=EVERYTHING)
        assert [pos for pos, _ in log] == [*range(1, made + 1)]

    through(body)


def test_a_server_that_does_not_answer_is_given_up_and_nothing_is_cancelled(through, monkeypatch):
    monkeypatch.setattr(Link.run, "__kwdefaults__", {"time_s": 0.3})

    async def body(store, proxy):
        script = await hold(store)
        cut = iter(["hang"])
        proxy.decide = lambda statements: next(cut, "pass") if writes(statements) else "pass"
        await store.append(script.change(NOTE))
        assert proxy.fates == ["hang"]
        assert await store.read("r") == script.events

    through(body)


def test_who_waits_for_a_write_and_leaves_changes_nothing(through):
    async def body(store, _):
        script = await hold(store)
        waiting = asyncio.ensure_future(store.append(script.change(NOTE)))
        await asyncio.sleep(0)
        waiting.cancel()
        reading = asyncio.create_task(store.read("r"))
        await asyncio.sleep(0)
        reading.cancel()
        await store.append(script.change(NOTE))
        assert await store.read("r") == script.events

    through(body)


def test_a_commit_that_no_standby_has_is_not_acknowledged():
    """A cancelled wait for the standbys is a warning beside a success: it means unknown."""
    with PostgresServer() as server:
        url = server.database()

        def demand(names: str) -> None:
            server.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
            server.execute("SELECT pg_reload_conf()")

        async def main():
            store = await PostgresStore.open(url, lease_clock="caller")
            script = await hold(store)
            demand("ANY 1 (nobody)")
            appending = asyncio.ensure_future(store.append(script.change(NOTE)))
            cancelled = 0
            while cancelled < 2:
                await asyncio.sleep(0)
                found = await asyncio.to_thread(
                    server.execute,
                    "SELECT pg_cancel_backend(pid) FROM pg_stat_activity"
                    " WHERE wait_event = 'SyncRep'",
                )
                cancelled += len(found)
                assert not appending.done()
            with psycopg.connect(url, autocommit=True) as connection:
                standing = connection.execute("SELECT count(*) FROM holdfast.event").fetchone()
            assert standing == (2,)  # it stands there, and yet nobody was told so
            await asyncio.to_thread(demand, "")
            await appending
            assert await store.read("r") == script.events
            await store.close()

        with asyncio.Runner() as runner:
            runner.run(main())
