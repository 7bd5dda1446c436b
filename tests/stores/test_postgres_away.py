"""A server that is away for a while is waited for; leases go by its clock, and nobody else's.

*Goal*: a restart, a standby in the primary's place, statements that the server ends and locks that
others hold are waited out, and whoever waits hears the truth when the patience is used up; a worker
that cannot renew its lease hears of it before the lease ends. *Method*: a server of the test's own
is stopped and started; a proxy swallows answers; heartbeats are set back by hand.
"""

import asyncio
import signal
import tempfile
import time
from pathlib import Path

import psycopg
import pytest

import holdfast as hf
from holdfast.errors import StoreUnavailable
from holdfast.stores.postgres import PostgresStore
from holdfast.testing.cutting import CuttingProxy
from holdfast.testing.harness import NOTE, agree, begin, claim, hold, letter
from holdfast.testing.postgres import PostgresServer

HOUR_US = 3_600_000_000
LEASE_US = 15_000_000


@pytest.fixture
def on(database):
    """Run a coroutine function on a store."""

    def run(body, url=database, **options):
        async def main():
            store = await PostgresStore.open(url, **({"lease_clock": "caller"} | options))
            try:
                await body(store)
            finally:
                await store.close()

        with asyncio.Runner() as runner:
            runner.run(main())

    return run


def test_a_restart_is_waited_for():
    with PostgresServer() as server:

        async def main():
            store = await PostgresStore.open(server.url(), lease_clock="caller")
            script = await hold(store)
            for how in (signal.SIGINT, signal.SIGQUIT):
                server.stop(how)
                calls = [store.append(script.change(NOTE)) for _ in range(3)]
                calls += [asyncio.ensure_future(store.deliver([letter("r", how.name)]))]
                reading = asyncio.create_task(store.row("r"))
                await asyncio.sleep(0.1)
                assert not any(call.done() for call in [*calls, reading])
                await asyncio.to_thread(server.start)
                await asyncio.gather(*calls)
                assert (await reading) is not None
                agree("the stream", await store.read("r"), script.events)
            agree("mail", [m.message.id for m in await store.unread("r")], ["SIGINT", "SIGQUIT"])
            await store.close()

        asyncio.run(main())


def test_when_the_patience_is_used_up_whoever_waits_is_told():
    with PostgresServer() as server:

        async def main():
            store = await PostgresStore.open(server.url(), lease_clock="caller", patience_s=0.2)
            script = await hold(store)
            server.stop()
            first, second = (store.append(script.change(NOTE)) for _ in range(2))
            for call in (first, second, store.row("r"), claim(store, "ann"), begin(store, "s")):
                with pytest.raises(StoreUnavailable):
                    await call
            await asyncio.to_thread(server.start)
            again = await hold(store, "t")
            await store.append(again.change(NOTE))
            await store.close()

        asyncio.run(main())


def test_statements_that_the_server_ends_are_tried_again(on, postgres, database):
    name = database.split("/")[3].partition("?")[0]

    async def body(store):
        script = await hold(store)
        with psycopg.connect(database) as rival:
            rival.execute("SELECT 1 FROM holdfast.run WHERE id = 'r' FOR UPDATE")
            appending = asyncio.ensure_future(store.append(script.change(NOTE)))
            ended = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE datname = %s"
            with psycopg.connect(postgres.url(), autocommit=True) as looking:
                while (True,) not in looking.execute(ended, (name,)).fetchall():  # noqa: ASYNC110 - the server tells nobody
                    await asyncio.sleep(0.01)
                looking.execute(
                    "SELECT pg_cancel_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = %s AND wait_event_type = 'Lock'",
                    (name,),
                )
            await asyncio.sleep(0.05)
            assert not appending.done()
        await appending
        agree("the stream", await store.read("r"), script.events)

    on(body)


def test_a_lease_goes_by_the_clock_of_the_database(on, postgres, database):
    async def body(store):
        now = time.time_ns() // 1000
        await begin(store, at=now)
        facts = {"lease_us": LEASE_US, "agents": ["agent:test"], "limit": 1}
        [claimed] = await store.claim("ann", now=now - HOUR_US, **facts)
        agree("the epoch", claimed.epoch, 1)
        agree("a claim by a fast clock", await store.claim("bob", now=now + HOUR_US, **facts), [])
        agree("ready by a fast clock", await store.ready(["agent:test"], now=now + HOUR_US), False)
        renewed = await store.renew("ann", now=now + HOUR_US, lease_us=LEASE_US)
        agree("renewed", renewed, expected=True)
        known, _bob = await store.workers(now=0)
        assert abs(known.expires_at - LEASE_US - time.time_ns() // 1000) < HOUR_US / 2
        postgres.execute(f"UPDATE holdfast.worker SET expires_at = {now - 1}", database)
        agree("renewed too late", await store.renew("ann", now=0, lease_us=LEASE_US), False)
        [claimed] = await store.claim("bob", now=0, **facts)
        agree("the epoch", claimed.epoch, 2)

    on(body, lease_clock="database")


def test_a_worker_learns_in_time_that_it_cannot_renew(postgres, database):
    async def main():
        folder = Path(tempfile.mkdtemp(dir=postgres.folder))
        async with CuttingProxy(folder, postgres.folder) as proxy:
            store = await PostgresStore.open(database.replace(str(postgres.folder), str(folder)))
            await begin(store)
            now = time.time_ns() // 1000
            await store.claim("ann", now=now, lease_us=900_000, agents=["agent:test"], limit=1)
            proxy.decide = lambda _: "hang"
            lease_ends = time.monotonic() + 0.9
            with pytest.raises(StoreUnavailable):
                await store.renew("ann", now=now, lease_us=900_000)
            assert time.monotonic() < lease_ends or "hang" in proxy.fates
            proxy.decide = lambda _: "pass"
            await store.close()

    asyncio.run(main())


def test_a_worker_says_that_the_store_is_away_and_carries_on_when_it_is_back(caplog):
    @hf.step
    async def double(n: int) -> int:
        return 2 * n

    @hf.agent
    async def work(n: int) -> int:
        return await double(n) + await double(n)

    with PostgresServer() as server:

        async def main():
            store = await PostgresStore.open(server.url(), patience_s=0.3)
            async with hf.App(store, agents=[work]) as app:
                worker = app.worker(hf.WorkerSettings(lease_s=1.5, poll_s=0.1))
                working = asyncio.create_task(worker.run())
                run = await app.client.start(work, 1, id="before")
                agree("the result", await app.client.result(run, timeout=60), 4)
                server.stop()
                while "postgresql://" not in worker.not_ready():  # noqa: ASYNC110 - it tells nobody
                    await asyncio.sleep(0.01)
                assert "postgresql://" in caplog.text
                await asyncio.to_thread(server.start)
                run = await app.client.start(work, 2, id="after")
                agree("the result", await app.client.result(run, timeout=60), 8)
                worker.drain()
                await working
            await store.close()

        asyncio.run(main())
