"""Runs stand in line, and what is held back waits where it is.

*Goal*: a run begins in its queue, with its priority, for its key, at its time; limits hold over all
workers; what is paused stops at the next step's end, loses nothing, and goes on when it is resumed.
*Method*: real workers and apps on the memory store, and on SQLite where two share a file.
"""

import asyncio
import datetime as dt

import pytest

import holdfast as hf
from holdfast.core import events as ev
from holdfast.ports import QueueLimits
from holdfast.stores.memory import MemoryStore
from holdfast.stores.sqlite import SqliteStore


class Desk:
    """Agents whose steps wait until they are let go."""

    def __init__(self):
        self.begun = []
        self.running = self.most = 0
        self.go = asyncio.Event()

        @hf.tool(effect="once")
        async def act(name: str) -> str:
            self.begun.append(name)
            self.running += 1
            self.most = max(self.most, self.running)
            await self.go.wait()
            self.running -= 1
            return name

        @hf.agent(queue="desk")
        async def order(name: str) -> str:
            return await act(f"{name} 1") + await act(f"{name} 2")

        @hf.agent
        async def parent(name: str) -> str:
            return await order(name)

        @hf.agent(queue="chat")
        async def chat(state: dict, message: str) -> str:
            state[message] = len(state)
            return f"{message} {len(state)}"

        self.agents = [order, parent, chat]
        self.order, self.parent, self.chat = self.agents


async def until(holds):
    for _ in range(2000):
        if holds():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it does not come to that")


def test_a_run_stands_where_its_start_or_its_agent_says_and_its_children_with_it():
    async def main():
        desk = Desk()
        desk.go.set()
        async with hf.App(MemoryStore(), desk.agents) as app:
            place = hf.Place(priority=7, key="ann")
            await app.client.start(desk.parent, "p", id="p", place=place)
            await app.client.start(desk.order, "o", id="o", place=hf.Place(queue="other"))
            await app.client.start(desk.order, "d", id="d")
            async with app.working():
                await app.client.result("p")
            rows = {row.run: (row.queue, row.priority, row.key) for row in await app.store.rows()}
            assert rows == {
                "p": ("default", 7, "ann"),
                "p/order#1": ("desk", 7, "ann"),
                "o": ("other", 0, ""),
                "d": ("desk", 0, ""),
            }

    asyncio.run(main())


def test_a_place_that_cannot_be_is_refused():
    for wrong in (
        {"priority": 1001},
        {"priority": "high"},
        {"queue": "$x"},
        {"key": "k" * 201},
        {"delay_s": -1},
        {"start_at": dt.datetime(2030, 1, 1)},  # noqa: DTZ001 - what is to be refused
    ):
        with pytest.raises(hf.UsageError, match=r"expected|may not|time zone"):
            hf.Place(**wrong)


def test_a_run_with_a_delay_begins_at_its_time(clocked):
    desk, app, clock = clocked

    async def main():
        desk.go.set()
        async with app:
            await app.client.start(desk.order, "o", id="o", place=hf.Place(delay_s=60))
            start_at = dt.datetime.fromtimestamp(clock.at / 1e6 + 30, dt.UTC)
            await app.client.start(desk.chat, "hello", id="c", place=hf.Place(start_at=start_at))
            await app.worker(linger_s=0).run(until_idle=True)
            statuses = {row.run: row.status for row in await app.store.rows()}
            assert statuses == {"o": "waiting", "c": "waiting"}
            clock.at += 31_000_000
            await app.worker(linger_s=0).run(until_idle=True)
            assert (await app.client.state("c")).turn == 1
            assert desk.begun == []
            clock.at += 30_000_000
            await app.worker(linger_s=0).run(until_idle=True)
            assert await app.client.result("o") == "o 1o 2"

    asyncio.run(main())


def test_a_run_that_has_not_begun_can_be_cancelled_and_written_to(clocked):
    desk, app, clock = clocked

    async def main():
        async with app:
            for run in ("a", "b"):
                await app.client.start(desk.chat, id=run, place=hf.Place(delay_s=60))
            await app.client.message("b", "early")
            await app.client.cancel("a")
            await app.worker(linger_s=0).run(until_idle=True)
            assert (await app.client.row("a")).status == "cancelled"
            row = await app.client.row("b")
            assert (row.status, row.turn) == ("waiting", 0)
            clock.at += 61_000_000
            await app.worker(linger_s=0).run(until_idle=True)
            row = await app.client.row("b")
            assert (row.status, row.turn) == ("idle", 1)

    asyncio.run(main())


@pytest.fixture
def clocked():
    class Clock:
        at = 1_790_000_000_000_000

        def now(self):
            return self.at

    desk, clock = Desk(), Clock()
    return desk, hf.App(MemoryStore(), desk.agents, clock=clock), clock


def test_a_limit_holds_over_all_workers(tmp_path):
    async def main():
        desk = Desk()
        stores = [await SqliteStore.open(tmp_path / "s.db") for _ in range(2)]
        one, two = [hf.App(store, desk.agents) for store in stores]
        async with one, two:
            await one.client.limit("desk", concurrency=3, per_key=2)
            for n in range(12):
                place = hf.Place(key="ann" if n < 8 else f"k{n}")
                await one.client.start(desk.order, f"{n}", id=f"r{n}", place=place)
            async with one.working(), two.working():
                await until(lambda: desk.running == 3)
                assert sum(int(name.split()[0]) < 8 for name in desk.begun) <= 2
                desk.go.set()
                for n in range(12):
                    await two.client.result(f"r{n}", timeout=60)
        assert desk.most == 3
        for store in stores:
            await store.close()

    asyncio.run(main())


@pytest.mark.parametrize("what", [{"run": "r"}, {"queue": "desk"}, {"agent": "order"}])
def test_what_is_paused_stops_at_the_end_of_its_step_and_goes_on_when_it_is_resumed(what):
    async def main():
        desk = Desk()
        async with hf.App(MemoryStore(), desk.agents) as app:
            await app.client.start(desk.order, "r", id="r")
            async with app.working() as worker:
                await until(lambda: desk.begun == ["r 1"])
                assert await app.client.pause(**what, by="ann")
                assert not await app.client.pause(**what, by="bob")
                desk.go.set()
                await until(lambda: worker.idle)
                row = await app.client.row("r")
                assert row.status == "running"
                types = [event.body.type for event in await app.store.read("r")]
                assert types.count("step.finished") == 1
                assert desk.begun == ["r 1"]
                assert await app.client.resume(**what)
                assert await app.client.result("r") == "r 1r 2"
            assert desk.begun == ["r 1", "r 2"]
            assert not any(
                isinstance(event.body, ev.StepDoubted) for event in await app.store.read("r")
            )

    asyncio.run(main())


def test_a_worker_that_is_to_end_when_idle_does_not_wait_for_what_is_paused():
    async def main():
        desk = Desk()
        async with hf.App(MemoryStore(), desk.agents) as app:
            await app.client.start(desk.order, "r", id="r")
            await app.client.pause(run="r", by="ann")
            await app.worker().run(until_idle=True)
            with pytest.raises(hf.RunParked, match="paused by ann"):
                await app.run(desk.order, "r", id="r")
        assert desk.begun == []

    asyncio.run(main())


def test_limits_and_pauses_that_make_no_sense_are_refused():
    async def main():
        async with hf.App(MemoryStore()) as app:
            for wrong in ({"concurrency": -1}, {"rate": 5, "period_s": 0}, {"period_s": -1}):
                with pytest.raises(hf.UsageError, match="no negative limit"):
                    await app.client.limit("q", **wrong)
            for wrong in ({}, {"run": "r", "queue": "q"}):
                with pytest.raises(hf.UsageError, match="one of them"):
                    await app.client.pause(**wrong, by="ann")
            with pytest.raises(hf.RunUnknown):
                await app.client.pause(run="none", by="ann")
            await app.client.limit("q", rate=5, period_s=60)
            [info] = await app.store.queues(now=0)
            assert info.limits == QueueLimits("q", rate=5, period_us=60_000_000)

    asyncio.run(main())
