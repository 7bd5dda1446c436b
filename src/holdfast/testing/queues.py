"""Conformance of queues: in what order runs are claimed, and which are held back."""

import random
from typing import Any

from holdfast.core import events as ev
from holdfast.ports import Claim, Pause, QueueInfo, QueueLimits, Rest, Store
from holdfast.testing.harness import (
    LATE,
    LEASE_US,
    NOTE,
    NOW,
    agree,
    begin,
    claim,
    hold,
    letter,
    on_a_store,
    park,
)
from holdfast.testing.script import Script

__all__ = ["QueueConformance", "claims_of_a_schedule"]


class QueueConformance:
    """Priorities, fair turns, limits, rates, delayed starts and pauses."""

    @on_a_store
    async def test_a_higher_priority_comes_first(self, store: Store) -> None:
        for n, priority in enumerate((0, 5, -1, 5)):
            await begin(store, f"r{n}", at=NOW + n, priority=priority, queue=f"q{n % 2}")
        agree("the order", await _order(store), ["r1", "r3", "r0", "r2"])

    @on_a_store
    async def test_keys_take_turns_however_much_one_has_to_do(self, store: Store) -> None:
        for n in range(30):
            await begin(store, f"a{n:02}", at=NOW + n, key="ann")
        for n in range(2):
            await begin(store, f"b{n}", at=NOW + 50 + n, key="bob")
            await begin(store, f"none{n}", at=NOW + 3 + n)
        order = ["a00", "none0", "none1", "b0", "a01", "b1", "a02", "a03"]
        agree("the order", await _order(store, 8), order)
        await store.release("ann")
        held = await claim(store, "ann", limit=1)
        agree("the first again", [c.row.run for c in held], ["a00"])
        agree("who holds less", (await _order(store, 3, worker="bob"))[2], "b0")

    @on_a_store
    async def test_a_queue_lets_so_many_be_held(self, store: Store) -> None:
        await store.limit(QueueLimits("q", concurrency=3, per_key=2))
        for n in range(4):
            await begin(store, f"a{n}", at=NOW + n, queue="q", key="ann")
            await begin(store, f"n{n}", at=NOW + 10 + n, queue="q")
        await begin(store, "other", at=NOW + 20)
        agree("the first", await _order(store), ["a0", "n0", "n1", "other"])
        agree("ready when it is full", await store.ready(["agent:test"], now=NOW), expected=False)
        [_, _, n1, _] = await store.held("ann")
        script = Script(await store.read("n1"), at=NOW, epoch=n1.epoch)
        await store.append(script.change(ev.RunSucceeded(), release=True))
        agree("ready with room", await store.ready(["agent:test"], now=NOW), expected=True)
        agree("the next", await _order(store, worker="bob"), ["n2"])
        await store.release("ann")
        agree("two of one key", await _order(store, worker="cyd"), ["a0", "n0", "other"])
        await store.limit(QueueLimits("q", per_key=1))
        agree("without the limit", await _order(store, worker="dan"), ["n3"])
        await begin(store, "named", queue="q", key="ann")
        agree("by its name", len(await claim(store, "eve", run="named")), 1)

    @on_a_store
    async def test_a_queue_lets_so_many_begin_in_a_period(self, store: Store) -> None:
        await store.limit(QueueLimits("q", rate=2, period_us=100))
        script = await begin(store, "old", queue="q")
        [claimed] = await claim(store, "ann", run="old")
        script.epoch = claimed.epoch
        for n in range(5):
            await begin(store, f"r{n}", at=NOW - 9 + n, queue="q")
        agree("at first", await _order(store, now=NOW), ["r0", "r1"])
        await store.append(script.change(NOTE, release=True))
        agree("one that has begun", await _order(store, now=NOW + 1), ["old"])
        agree("ready", await store.ready(["agent:test"], now=NOW + 49), expected=False)
        agree("too early", await _order(store, now=NOW + 49), [])
        agree("after half a period", await _order(store, now=NOW + 50), ["r2"])
        agree("after a long time", await _order(store, now=NOW + 900), ["r3", "r4"])

    @on_a_store
    async def test_a_run_begins_at_its_time(self, store: Store) -> None:
        await begin(store, "late", start_at=NOW + 7)
        await begin(store, "past", start_at=NOW - 7)
        agree("statuses", [r.status for r in await store.rows()], ["pending", "waiting"])
        agree("at first", await _order(store), ["past"])
        agree("the wake", await store.next_wake(["agent:test"], after=NOW), NOW + 7)
        agree("too early", await _order(store, now=NOW + 6), [])
        agree("in time", await _order(store, now=NOW + 7), ["late"])

    @on_a_store
    async def test_what_is_due_and_has_no_room_waits_in_line(self, store: Store) -> None:
        await store.limit(QueueLimits("q", concurrency=1))
        for n in (1, 2, 3):
            await begin(store, f"r{n}", queue="q", start_at=NOW + n, priority=n // 3)
        agree("the first", await _order(store, now=NOW + 5), ["r3"])
        agree("no room", await _order(store, now=NOW + 5), [])
        agree("the next wake", await store.next_wake(["agent:test"], after=NOW + 5), 0)
        await store.release("ann")
        agree("all of them", await _order(store, now=NOW + 5), ["r3"])

    @on_a_store
    async def test_what_is_paused_is_not_claimed(self, store: Store) -> None:
        for n in range(3):
            await begin(store, f"r{n}", at=NOW + n, queue=f"q{n}", agent=f"agent:{n}")
        agents = [f"agent:{n}" for n in range(3)]
        pauses = [
            Pause(kind, name, "ann", NOW)
            for kind, name in (("agent", "agent:0"), ("queue", "q1"), ("run", "r2"))
        ]
        for n, pause in enumerate(pauses):
            agree("pause", await store.pause(pause), expected=True)
            again = Pause(pause.kind, pause.name, "bob", NOW + 1)
            agree("pause again", await store.pause(again), expected=False)
            left = [f"r{m}" for m in range(n + 1, 3)]
            agree("claims", await _order(store, agents=agents), left)
            await store.release("ann")
            named = [len(await claim(store, "ann", run=f"r{m}", agents=agents)) for m in range(3)]
            agree("by their names", named, [int(m > n) for m in range(3)])
            await store.release("ann")
        agree("pauses", await store.pauses(), pauses)
        agree("ready", await store.ready(agents, now=NOW), expected=False)
        agree("a family", await claim(store, "ann", agents=agents, family="r2"), [])
        for n, pause in enumerate(pauses):
            agree("resume", await store.resume(pause.kind, pause.name), expected=True)
            agree("resume again", await store.resume(pause.kind, pause.name), expected=False)
            agree("claims", await _order(store, agents=agents), [f"r{n}"])

    @on_a_store
    async def test_a_run_that_is_held_when_it_is_paused_goes_on_until_it_is_released(
        self, store: Store
    ) -> None:
        script = await hold(store)
        await store.pause(Pause("run", "r", "ann", NOW))
        await store.append(script.change(NOTE))
        agree("renew", await store.renew("ann", now=NOW, lease_us=LEASE_US), expected=True)
        await park(store, script, wake_at=NOW + 1)
        await store.deliver([letter("r", "m1")])
        agree("a claim", await claim(store, "bob", LATE), [])
        await store.resume("run", "r")
        agree("a claim after it", len(await claim(store, "bob", LATE)), 1)

    @on_a_store
    async def test_queues_tell_their_limits_and_what_is_in_them(self, store: Store) -> None:
        await store.limit(QueueLimits("empty", concurrency=1))
        await store.limit(QueueLimits("mail", 2, 1, 10, 60_000_000))
        for n in range(3):
            await begin(store, f"r{n}", queue="mail")
        await begin(store, "late", start_at=NOW + 5)
        [_] = await claim(store, "ann", limit=1)
        mail = QueueInfo(QueueLimits("mail", 2, 1, 10, 60_000_000), 2, 1)
        empty = QueueInfo(QueueLimits("empty", 1), 0, 0)
        agree("queues", await store.queues(now=NOW), [empty, mail])
        default = QueueInfo(QueueLimits("default"), 1, 0)
        agree("queues, later", await store.queues(now=NOW + 5), [default, empty, mail])

    @on_a_store
    async def test_a_provider_is_left_alone_for_its_time_and_then_one_tries(
        self, store: Store
    ) -> None:
        agree("no rests", await store.rests(now=NOW), [])
        agree("none to probe", await store.probe("p", now=NOW, rest_us=9), expected=False)
        await store.rest("p", now=NOW, rest_us=90)
        await store.rest("o", now=NOW, rest_us=5)
        await store.rest("p", now=NOW + 1, rest_us=20)
        agree("the rests", await store.rests(now=NOW + 2), [Rest("o", 3), Rest("p", 19)])
        agree("too early", await store.probe("p", now=NOW + 20, rest_us=9), expected=False)
        agree("one tries", await store.probe("p", now=NOW + 21, rest_us=9), expected=True)
        agree("another", await store.probe("p", now=NOW + 29, rest_us=9), expected=False)
        agree("the rests then", await store.rests(now=NOW + 21), [Rest("o", -16), Rest("p", 9)])
        agree("the next", await store.probe("p", now=NOW + 30, rest_us=9), expected=True)
        await store.rest("p", now=NOW + 31, rest_us=0)
        agree("one is left", await store.rests(now=NOW), [Rest("o", 5)])

    @on_a_store
    async def test_the_same_schedule_gives_the_claims_of_the_memory_store(
        self, store: Store
    ) -> None:
        from holdfast.stores.memory import MemoryStore  # noqa: PLC0415 - the measure

        expected = await claims_of_a_schedule(MemoryStore(), 3)
        agree("the claims", await claims_of_a_schedule(store, 3), expected)


async def claims_of_a_schedule(store: Store, seed: int, *, steps: int = 120) -> list[list[str]]:
    """Return what workers are given in a random schedule of runs, limits, pauses and claims."""
    chance = random.Random(seed)  # noqa: S311 - a schedule, not a secret
    agents, queues, keys = ["agent:a", "agent:b"], ["p", "q", "r"], ["", "ann", "bob", "cyd"]
    now, claims = NOW, list[list[str]]()
    for n in range(steps):
        now += chance.choice([0, 2, 40])
        match chance.choice(["begin"] * 5 + ["claim"] * 4 + ["end"] * 3 + ["limit", "pause"]):
            case "begin":
                await begin(
                    store,
                    f"r{n}",
                    at=now,
                    agent=chance.choice(agents),
                    queue=chance.choice(queues),
                    priority=chance.choice([0, 0, 1]),
                    key=chance.choice(keys),
                    start_at=chance.choice([0, 0, now + 20]),
                )
            case "claim":
                facts: dict[str, Any] = {"agents": agents[: chance.choice([1, 2, 2])]}
                limit = chance.choice([1, 3, 9])
                found = await claim(store, chance.choice("xyz"), now, limit=limit, **facts)
                claims.append([claimed.row.run for claimed in found])
            case "end":
                for held in sorted(await store.held(chance.choice("xyz")), key=_run_of)[:2]:
                    script = Script(await store.read(held.row.run), at=now, epoch=held.epoch)
                    end: ev.Body = ev.RunParked("waiting", now + 10)
                    if chance.choice([True, False]):
                        end = NOTE[0]
                    await store.append(script.change(end, release=True))
            case "limit":
                a, b, c = [chance.choice([0, 1, 3]) for _ in range(3)]
                await store.limit(QueueLimits(chance.choice(queues), a, b, c, 100))
            case _:
                kind, name = chance.choice(
                    [("queue", chance.choice(queues)), ("agent", agents[0]), ("run", f"r{n // 2}")]
                )
                if not await store.resume(kind, name):
                    await store.pause(Pause(kind, name, "ann", now))
    return claims


def _run_of(claimed: Claim) -> str:
    return claimed.row.run


async def _order(
    store: Store, limit: int = 99, *, now: int = NOW, worker: str = "ann", **facts: Any
) -> list[str]:
    return [claimed.row.run for claimed in await claim(store, worker, now, limit=limit, **facts)]
