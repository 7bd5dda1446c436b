"""Providers that ask to be left alone are, by all workers of a store.

*Goal*: what one request is told by Retry-After holds for all; when the time has come one goes first
and the others hear of its answer; nobody waits for ever, neither for a process that died nor for a
store in trouble. *Method*: a memory store, a clock that tests move, and answers that tests give.
"""

import asyncio
import contextlib
from types import SimpleNamespace

import pytest

from holdfast.errors import StoreUnavailable
from holdfast.runtime import providers
from holdfast.runtime.providers import Providers
from holdfast.stores.memory import MemoryStore

P = "api.example m"
OK = SimpleNamespace(is_success=True, headers={"retry-after": "99"})


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(providers, "LOOK_S", 0.001)


@pytest.fixture
def clock(stage):
    return stage().clock


def refused(seconds, status=429):
    return SimpleNamespace(is_success=False, status_code=status, headers={"retry-after": seconds})


class World:
    """Workers of one store, and the requests that have arrived and wait for their answers."""

    def __init__(self, clock):
        self.clock, self.store = clock, MemoryStore()
        self.arrived = []
        self.tasks = []

    def worker(self):
        return Providers(self.store, self.clock)

    def ask(self, worker, provider=P):
        async def send():
            answer = asyncio.get_running_loop().create_future()
            self.arrived.append(answer)
            return await answer

        self.tasks.append(asyncio.create_task(worker.ask(provider, send)))
        return self.tasks[-1]

    async def answer(self, response):
        """Answer the request that has arrived, and nothing else has."""
        await self.until(1)
        self.arrived.pop().set_result(response)
        await settled()

    async def until(self, count):
        while len(self.arrived) < count:  # noqa: ASYNC110 - the test's timeout ends it
            await asyncio.sleep(0)
        await settled()
        assert len(self.arrived) == count


async def settled():
    """Give everybody the time to do what they can."""
    loop = asyncio.get_running_loop()
    for _ in range(20):
        looked = loop.create_future()
        loop.call_later(0.001, looked.set_result, None)
        await looked


def play(scene, clock):
    async def main():
        world = World(clock)
        try:
            await scene(world)
        finally:
            for task in world.tasks:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    asyncio.run(main())


def test_what_one_is_told_holds_for_all_who_share_the_store(clock):
    async def scene(world):
        one, two = world.worker(), world.worker()
        told = world.ask(one)
        await world.answer(refused("5"))
        assert (await told).status_code == 429
        for worker in (one, two, two):
            world.ask(worker)
        world.clock.tick(4.9)
        await world.until(0)
        world.ask(two, "api.example another")
        await world.until(1)

    play(scene, clock)


def test_one_goes_first_and_the_others_hear_of_its_answer(clock):
    async def scene(world):
        one, two = world.worker(), world.worker()
        world.ask(one)
        await world.answer(refused("5"))
        for worker in (one, two, one, two):
            world.ask(worker)
        world.clock.tick(5)
        await world.answer(refused("7", 503))
        world.clock.tick(6.9)
        await world.until(0)
        world.clock.tick(0.1)
        await world.answer(OK)
        await world.until(2)
        assert await world.store.rests(now=world.clock.now()) == []

    play(scene, clock)


def test_who_is_not_the_first_after_all_waits_for_the_answer_too(clock):
    async def scene(world):
        async def somebody_was_faster(_, **__):
            return False

        world.ask(world.worker())
        await world.answer(refused("5"))
        world.clock.tick(5)
        world.store.probe = somebody_was_faster
        world.ask(world.worker())
        await world.until(0)
        await world.store.rest(P, now=world.clock.now(), rest_us=0)
        await world.until(1)

    play(scene, clock)


def test_when_the_first_dies_the_next_goes(clock):
    async def scene(world):
        one, two = world.worker(), world.worker()
        world.ask(one)
        await world.answer(refused("5"))
        world.clock.tick(5)
        dying = world.ask(one)
        await world.until(1)
        dying.cancel()
        world.arrived.clear()
        world.ask(two)
        world.clock.tick(providers.PROBE_S - 0.1)
        await world.until(0)
        world.clock.tick(0.1)
        await world.until(1)

    play(scene, clock)


def test_who_has_waited_long_enough_asks_all_the_same_and_all_wait_at_once(clock, monkeypatch):
    monkeypatch.setattr(providers, "WAIT_S_MAX", 0.05)

    async def scene(world):
        worker, rests, looks = world.worker(), world.store.rests, 0

        async def counted(**facts):
            nonlocal looks
            looks += 1
            return await rests(**facts)

        world.ask(worker)
        await world.answer(refused("5"))
        world.store.rests = counted
        for _ in range(20):
            world.ask(worker)
        await world.until(20)
        assert looks <= 0.05 / providers.LOOK_S + 20, "one looks for all, a millisecond apart"

    play(scene, clock)


def test_a_word_counts_for_a_minute_at_most_and_a_success_needs_none(clock):
    async def scene(world):
        worker = world.worker()
        world.ask(worker)
        await world.answer(OK)
        assert await world.store.rests(now=world.clock.now()) == []
        world.ask(worker)
        await world.answer(refused("86400"))
        [rest] = await world.store.rests(now=world.clock.now())
        assert rest.left_us == 60_000_000

    play(scene, clock)


def test_a_store_in_trouble_holds_up_nobody(clock):
    async def scene(world):
        def fail(*_, **__):
            raise StoreUnavailable("the disk is full")

        world.store.rests = world.store.rest = fail
        told = world.ask(world.worker())
        await world.answer(refused("5"))
        assert (await told).status_code == 429
        world.ask(world.worker())
        await world.until(1)

    play(scene, clock)
