"""A sweep removes the chunks that no payload has, and no other, whoever writes meanwhile.

*Goal*: what is alive reads back byte for byte after any sweep; what nobody has is gone from the
tables; a node never stays behind without what it lists. *Method*: payloads that share most of their
parts, written by two stores on the same data, each with its own memory of what is stored, in every
order that Hypothesis thinks of; and something that comes before each step of a sweep in turn.
"""

import asyncio
from contextlib import asynccontextmanager

import apsw
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.core import events as ev
from holdfast.ports import Part
from holdfast.stores import collecting
from holdfast.stores.collecting import Marks
from holdfast.stores.payloads import pack
from holdfast.stores.postgres import PostgresStore
from holdfast.stores.postgres import retention as postgres_retention
from holdfast.stores.postgres.statements import SWEEPING
from holdfast.stores.sqlite import SqliteStore
from holdfast.stores.sqlite import retention as sqlite_retention
from holdfast.testing.harness import agree, append, hold, letter, transact
from holdfast.testing.retention import TOLD, ended, tell
from holdfast.testing.script import Script, conversation

TURNS = (30, 60, 400)
"""Conversations that share their beginnings; the last is a tree of nodes."""


@asynccontextmanager
async def opened(kind, place):
    """Two stores open on the same data."""
    if kind == "sqlite":
        stores = [await SqliteStore.open(place, inline=True) for _ in range(2)]
    else:
        stores = [await PostgresStore.open(place, lease_clock="caller") for _ in range(2)]
    try:
        yield stores
    finally:
        for store in stores:
            await store.close()


def chunks(kind, place):
    """How many chunks are stored."""
    if kind == "sqlite":
        with apsw.Connection(str(place)) as connection:
            return connection.execute("SELECT count(*) FROM chunk").get
    with psycopg.connect(place) as connection:
        return connection.execute("SELECT count(*) FROM holdfast.chunk").fetchone()[0]


ACTS = st.one_of(
    st.tuples(st.just("write"), st.integers(0, 1), st.sampled_from(TURNS)),
    st.tuples(st.just("collect"), st.integers(0, 1), st.integers(0, 3)),
    st.tuples(st.just("sweep"), st.integers(0, 1), st.just(0)),
)


async def play(kind, place, acts):
    async with opened(kind, place) as stores:
        await tell(stores[0])
        written, n = {}, 0
        for act, who, what in acts:
            store = stores[who]
            if act == "write":
                script = await ended(store, f"r{n}", payload=conversation(what))
                written[script.run], n = script.events, n + 1
            elif act == "collect":
                for run in [*written][what : what + 1]:
                    await store.collect([run], TOLD)
                    del written[run]
            else:
                await store.sweep()
        await stores[0].sweep()
        for run, events in written.items():
            agree(run, await stores[1].read(run), events)
        if not written:
            assert chunks(kind, place) == 0
        for run in written:
            await stores[1].collect([run], TOLD)
        await stores[0].sweep()
    assert chunks(kind, place) == 0


@settings(max_examples=25)
@given(st.lists(ACTS, min_size=3, max_size=8))
def test_whatever_is_alive_reads_back_after_any_sweep_of_a_file(tmp_path_factory, acts):
    asyncio.run(play("sqlite", tmp_path_factory.mktemp("sweep") / "s.db", acts))


@settings(max_examples=8)
@given(st.lists(ACTS, min_size=3, max_size=8))
def test_whatever_is_alive_reads_back_after_any_sweep_of_a_database(postgres, acts):
    asyncio.run(play("postgres", postgres.database(), acts))


KINDS = pytest.mark.parametrize("kind", ["sqlite", "postgres"])


@KINDS
@pytest.mark.parametrize("way", ["event", "message", "transaction", "import"])
def test_what_comes_between_two_steps_of_a_sweep_stays(kind, way, tmp_path, request, monkeypatch):
    """Whatever refers to chunks that nobody had when the sweep began, before any of its steps."""
    monkeypatch.setattr(collecting, "TOGETHER", 40)
    for module in (sqlite_retention, postgres_retention):
        monkeypatch.setattr(module, "TOGETHER", 40)
    payload = conversation(400)
    came_before_last = 0
    for step in range(1, 30):
        at = tmp_path / f"{step}.db"
        place = at if kind == "sqlite" else request.getfixturevalue("postgres").database()
        steps = asyncio.run(sweep_between(kind, place, way, payload, step))
        if steps < step:
            break
        came_before_last = step
    assert came_before_last > 3


async def sweep_between(kind, place, way, payload, step):
    """Sweep, let something come before a step of it, and return how many steps there were."""
    async with opened(kind, place) as (store, other):
        await tell(store)
        script = await hold(other, "alive", worker="bob")
        await ended(other, "r", payload=payload)
        await store.collect(["r"], TOLD)
        seen = 0

        async def come():
            nonlocal seen
            seen += 1
            if seen != step:
                return
            change = script.change((ev.StreamEmitted(1), payload))
            if way == "event":
                await other.append(change)
            elif way == "transaction":
                await transact(other, change)
            elif way == "message":
                await other.deliver([letter("alive", "m", payload=payload)])
            else:
                moved = Script.begin("moved")
                moved.add(ev.StreamEmitted(1), payload)
                await other.receive(Part("moved", 0, moved.events, moved.state.row(), 0, last=True))

        await swept_stepwise(kind, store, come)
        if seen >= step:
            letters = [m.message.payload for m in await store.unread("alive")]
            runs = [await store.read(run) for run in ("alive", "moved")]
            found = [e.payload for events in runs for e in events] + letters
            assert payload in found
        return seen


async def swept_stepwise(kind, store, come):
    """Sweep a store; before each step that removes something ``come`` is awaited."""
    name = "put" if kind == "sqlite" else "_whole"
    owner = store._writer if kind == "sqlite" else store  # noqa: SLF001 - where the steps pass
    step = getattr(owner, name)

    async def stepped(*args, **kwargs):
        await come()
        return await step(*args, **kwargs)

    setattr(owner, name, stepped)
    await store.sweep()
    setattr(owner, name, step)


@pytest.mark.parametrize("write", [append, transact])
def test_whoever_stores_chunks_waits_for_a_sweep_that_removes_some(database, write):
    payload = conversation(40)

    async def main():
        async with opened("postgres", database) as (store, other):
            await ended(store, "r1", payload=payload)  # so that it knows the chunks
            script = await hold(store, "r")
            watching = await psycopg.AsyncConnection.connect(database, autocommit=True)
            async with watching, await psycopg.AsyncConnection.connect(database) as sweeping:
                await sweeping.execute(SWEEPING.encode())
                writing = asyncio.create_task(
                    write(store, script.change((ev.StreamEmitted(1), payload)))
                )
                waits = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
                while not (await (await watching.execute(waits)).fetchall()):
                    assert not writing.done(), "it did not wait"
                await sweeping.execute("DELETE FROM holdfast.chunk")
                await sweeping.commit()
                await writing
            agree("the stream", await other.read("r"), script.events)

    asyncio.run(main())


def test_marking_that_breaks_off_has_marked_nothing():
    marks = Marks()
    root = bytes([1]) + (9).to_bytes(8, "little") + pack([7])
    marking = marks.mark([root])
    assert next(marking) == [7]
    marking.close()
    assert 7 not in marks
    marking = marks.mark([root])
    next(marking)
    with pytest.raises(StopIteration):
        marking.send([pack([3, 4])])
    assert all(number in marks for number in (3, 4, 7))
