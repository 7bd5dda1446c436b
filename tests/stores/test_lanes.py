"""A claim takes what the rule says, whatever the order of lanes, and reads little to find out.

*Goal*: ``choose`` is the rule as one would write it down: take the best of all ready runs again and
again; lanes only spare the looking. And stores of both kinds claim alike in random schedules.
*Method*: the rule in ten lines, beside it; seeds.
"""

import asyncio
import random

import pytest

from holdfast.ports import Pause, QueueLimits
from holdfast.stores.lanes import Lane, Ready, Room, choose
from holdfast.stores.memory import MemoryStore
from holdfast.stores.postgres import PostgresStore
from holdfast.stores.postgres import line as postgres_line
from holdfast.stores.sqlite import SqliteStore
from holdfast.stores.sqlite import line as sqlite_line
from holdfast.testing.harness import NOW, begin, claim
from holdfast.testing.queues import claims_of_a_schedule


def lane(queue, priority, key, runs, read=None):
    def fetch(after, begun):
        found = [r for r in runs if (r.begun or not begun) and (after is None or r > after)][:2]
        if read is not None:
            read.extend(found)
        return found

    return Lane(queue, priority, key, fetch)


def drawn(chance):
    places = [(q, p, k) for q in "qr" for p in (0, 1) for k in ("", "ann", "bob")]
    lanes = {
        place: sorted(
            Ready(chance.randrange(50), f"{place}{n}", chance.random() < 0.3, 0)
            for n in range(chance.randrange(6))
        )
        for place in chance.sample(places, chance.randrange(1, len(places)))
    }
    limits = {
        queue: QueueLimits(queue, *(chance.choice([0, 1, 3]) for _ in range(3)), 100)
        for queue in "qr"
        if chance.random() < 0.7
    }
    held = {(queue, key): chance.randrange(3) for queue in "qr" for key in ("", "ann", "bob")}
    return lanes, limits, held


def by_the_rule(lanes, limits, held, limit):
    """Take the best of all that may be taken, again and again."""
    held, begun, chosen = dict(held), dict.fromkeys("qr", 0), []

    def may(place, ready):
        queue, _, key = place
        rule = limits.get(queue, QueueLimits(queue))
        in_all = sum(count for (q, _), count in held.items() if q == queue)
        return not (
            0 < rule.concurrency <= in_all
            or (key and 0 < rule.per_key <= held[queue, key])
            or (not ready.begun and 0 < rule.rate <= begun[queue])
        )

    while len(chosen) < limit:
        able = [
            (-place[1], held[place[0], place[2]] if place[2] else 0, ready.since, ready.run, place)
            for place, runs in lanes.items()
            for ready in runs
            if ready.run not in chosen and may(place, ready)
        ]
        if not able:
            return chosen
        *_, run, place = min(able)
        chosen.append(run)
        held[place[0], place[2]] += 1
        begun[place[0]] += not next(r for r in lanes[place] if r.run == run).begun
    return chosen


def test_lanes_find_what_the_rule_says():
    for seed in range(400):
        chance = random.Random(seed)
        lanes, limits, held = drawn(chance)
        limit = chance.randrange(1, 12)

        def count(queue, key, held=held):
            return sum(n for (q, k), n in held.items() if q == queue and key in (None, k))

        room = Room(limits, count, {}, 1_000)
        made = [lane(*place, runs) for place, runs in lanes.items()]
        chance.shuffle(made)
        chosen = [ready.run for ready in choose(made, room, limit)]
        assert chosen == by_the_rule(lanes, limits, held, limit), f"seed {seed}"


def test_a_claim_reads_heads_and_not_what_waits_behind_them():
    read = []
    runs = {k: [Ready(n, f"{k}{n}", False, 0) for n in range(1000)] for k in ("ann", "bob")}
    lanes = [lane("q", 0, key, waiting, read) for key, waiting in runs.items()]
    room = Room({}, lambda _queue, _key: 0, {}, 0)
    assert len(choose(lanes, room, 4)) == 4
    assert len(read) <= 8


def test_a_rate_is_kept_over_time_and_a_pause_saves_up_no_more_than_a_period():
    used, began = {}, []
    limits = {"q": QueueLimits("q", rate=3, period_us=300)}
    for now in [*range(0, 1_000, 10), *range(5_000, 6_000, 10)]:
        room = Room(limits, lambda _queue, _key: 0, used, now)
        runs = [Ready(0, f"{now}-{n}", False, 0) for n in range(9)]
        began += [now] * len(choose([lane("q", 0, "", runs)], room, 9))
    for start in began:
        assert sum(start <= at < start + 300 for at in began) <= 5  # 3 saved up, and the rate's
    assert 11 <= sum(at < 1_000 for at in began) <= 12
    assert began.count(5_000) == 3


@pytest.mark.parametrize("seed", range(12))
def test_stores_claim_alike(seed, tmp_path):
    async def main():
        store = await SqliteStore.open(tmp_path / "s.db", inline=True)
        expected = await claims_of_a_schedule(MemoryStore(), seed)
        assert await claims_of_a_schedule(store, seed) == expected
        assert sum(map(len, expected)) > 10
        await store.close()

    asyncio.run(main())


@pytest.fixture(params=["sqlite", "postgres"])
def opening(request, tmp_path, monkeypatch):
    """What opens a store of which a claim compares three lanes."""
    if request.param == "sqlite":
        monkeypatch.setattr(sqlite_line, "LANES_MAX", 3)
        return lambda: SqliteStore.open(tmp_path / "s.db", inline=True)
    monkeypatch.setattr(postgres_line, "LANES_MAX", 3)
    url = request.getfixturevalue("postgres").database()
    return lambda: PostgresStore.open(url, create=True, lease_clock="caller")


def test_with_more_lanes_than_a_claim_compares_every_lane_has_its_turn(opening):
    async def main():
        store = await opening()
        for n in range(10):
            await begin(store, f"r{n}", key=f"k{n}")
            await begin(store, f"s{n}", key=f"k{n}", agent=f"agent:other{n % 2}")
        agents = ["agent:test", "agent:other0", "agent:other1"]
        claimed = []
        for _ in range(20):
            claimed += [c.row.run for c in await claim(store, "ann", agents=agents, limit=1)]
        assert sorted(claimed) == sorted(f"{kind}{n}" for n in range(10) for kind in "rs")
        await store.close()

    asyncio.run(main())


def test_lanes_that_may_not_be_taken_from_do_not_hide_the_others(opening):
    async def main():
        store = await opening()
        for n in range(10):
            await begin(store, f"r{n}", key=f"k{n}")
            if n not in (7, 9):
                await store.pause(Pause("run", f"r{n}", "ann", NOW))
        looks = [await store.ready(["agent:test"], now=NOW) for _ in range(8)]
        assert any(looks[:4])
        assert any(looks[4:])
        claimed = []
        for _ in range(10):
            claimed += [c.row.run for c in await claim(store, "ann", limit=1)]
        assert sorted(claimed) == ["r7", "r9"]
        await begin(store, "late", key="k00")
        again = [c.row.run for _ in range(4) for c in await claim(store, "ann", limit=1)]
        assert again == ["late"]
        await store.close()

    asyncio.run(main())
