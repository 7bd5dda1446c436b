"""The order of the log on PostgreSQL: positions behind the writers, without gaps, never going back.

*Goal*: whoever reads behind the last position that he saw misses nothing and sees nothing twice,
however transactions overlap. *Method*: transactions are held open on purpose and committed in other
orders than they began in, by seed, while readers follow the log.
"""

import asyncio
import random

import psycopg
import pytest

from holdfast.core import events as ev
from holdfast.stores.postgres import PostgresStore, sequencer
from holdfast.stores.postgres import statements as sql
from holdfast.stores.postgres.batch import Batch, Chain, Post
from holdfast.stores.postgres.flow import drive_inside
from holdfast.stores.postgres.payloads import Chunks
from holdfast.testing.harness import EVERYTHING, NOTE, agree, hold, letter


class Held:
    """A transaction with a batch in it that is not committed yet."""

    def __init__(self, url, *writes):
        self.connection = psycopg.connect(url)
        self.answers = drive_inside(self.connection, Batch(writes).flow(Chunks()))

    def commit(self):
        self.connection.commit()
        self.connection.close()

    def undo(self):
        self.connection.rollback()
        self.connection.close()


@pytest.fixture
def on(database):
    """Run a coroutine function on a store."""

    def run(body):
        async def main():
            store = await PostgresStore.open(database, lease_clock="caller")
            try:
                await body(store)
            finally:
                await store.close()

        with asyncio.Runner() as runner:
            runner.run(main())

    return run


def test_what_is_committed_late_comes_later_in_the_log(on):
    async def body(store):
        early, late = await hold(store, "early"), await hold(store, "late")
        held = Held(store.url, Chain([early.change(NOTE, NOTE)]))
        await store.append(late.change(NOTE))
        before = await store.read_log(0, limit=EVERYTHING)
        agree("runs in the log", [event.run for _, event in before], ["early", "late", "late"])
        held.commit()
        after = await store.read_log(before[-1][0], limit=EVERYTHING)
        agree(
            "behind it",
            [(pos, e.run, e.seq) for pos, e in after],
            [(4, "early", 2), (5, "early", 3)],
        )

    on(body)


def test_what_is_undone_leaves_no_gap(on):
    async def body(store):
        undone, script = await hold(store, "undone"), await hold(store)
        Held(store.url, Chain([undone.change(NOTE)])).undo()
        await store.append(script.change(NOTE))
        log = await store.read_log(0, limit=EVERYTHING)
        agree("positions", [pos for pos, _ in log], [1, 2, 3])

    on(body)


@pytest.mark.parametrize("seed", range(4))
def test_followers_miss_nothing_whatever_the_order_of_commits(on, seed):
    chance = random.Random(seed)

    async def body(store):
        other = await PostgresStore.open(store.url, lease_clock="caller")
        scripts = [await hold(store, f"r{n}") for n in range(6)]
        held, seen = {}, {store: [], other: []}

        async def follow(reader):
            log = seen[reader]
            log += await reader.read_log(log[-1][0] if log else 0, limit=chance.randrange(1, 5))

        for turn in range(60):
            script = chance.choice(scripts)
            if script.run in held:
                held.pop(script.run).commit()
            elif len(held) < 4 and chance.random() < 0.6:
                facts = [(ev.StreamEmitted(turn), b"1")] * chance.randrange(1, 4)
                held[script.run] = Held(store.url, Chain([script.change(*facts)]))
            else:
                await chance.choice([store, other]).append(script.change(NOTE))
            await follow(chance.choice([store, other]))
        for one in held.values():
            one.commit()
        for reader, log in seen.items():
            while (len(log), await follow(reader))[0] < len(log):
                pass
            agree("positions", [pos for pos, _ in log], [*range(1, len(log) + 1)])
            for script in scripts:
                agree("a run's events", [e for _, e in log if e.run == script.run], script.events)
        agree("both", seen[store], seen[other])
        await other.close()

    on(body)


def test_while_another_sequencer_hangs_the_log_stands_still_and_then_goes_on(on, monkeypatch):
    monkeypatch.setattr(sequencer, "SEQUENCING_MS", 50)

    async def body(store):
        script = await hold(store)
        before = await store.read_log(0, limit=EVERYTHING)
        with psycopg.connect(store.url) as hanging:
            hanging.execute(sql.SEQUENCING)
            await store.append(script.change(NOTE))
            agree("the log", await store.read_log(0, limit=EVERYTHING), before)
            agree("the stream", await store.read("r"), script.events)
        agree("behind it", len(await store.read_log(1, limit=EVERYTHING)), 1)

    on(body)


def test_what_a_dead_writer_has_left_is_placed_by_whoever_reads(on):
    async def body(store):
        script = await hold(store)
        Held(store.url, Chain([script.change(NOTE)])).commit()  # and nothing after it
        agree("the log", [e for _, e in await store.read_log(0, limit=9)], script.events)

    on(body)


def test_deliveries_become_visible_in_the_order_of_their_numbers(on):
    async def body(store):
        await hold(store, "a")
        await hold(store, "b")
        held = Held(store.url, Post([letter("a", "m1")]))
        delivering = asyncio.ensure_future(store.deliver([letter("b", "m2")]))
        other = await PostgresStore.open(store.url, lease_clock="caller")
        agree("mail while one is under way", await other.mail("ann", after=0), (0, []))
        assert not delivering.done()
        held.commit()
        await delivering
        number, mail = await other.mail("ann", after=0)
        agree("mail", [(m.message.to, m.message.id) for m in mail], [("a", "m1"), ("b", "m2")])
        agree("the number to go on from", number, mail[-1].n)
        await other.close()

    on(body)
